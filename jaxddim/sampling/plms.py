r"""PLMS, the pseudo linear multistep method: DDIM's step with a mean of the last four eps.

    eps' = (55 eps_t - 59 eps_{t+d} + 37 eps_{t+2d} - 9 eps_{t+3d}) / 24

are the weights of Adams and Bashforth for times at equal distances d. The method is "pseudo" since
eps' then enters DDIM's step, which is exact for a constant eps whatever d, and not x + d eps'. The
first steps have fewer predictions to go by:

    step 1    (eps_t + eps'_s) / 2, with eps'_s after a DDIM step to s
    step 2    (3 eps_t - eps_{t+d}) / 2
    step 3    (23 eps_t - 16 eps_{t+d} + 5 eps_{t+2d}) / 12

One evaluation a step, and one more in the first. The order is 2: the mean is over t, and the ODE is
one in sigma / alpha.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxddim.sampling.means import mean_prediction
from jaxddim.sampling.solver import Solver
from jaxddim.sampling.steps import ddim_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction

Memory = tuple[tuple[Prediction, ...], jax.Array]
"""The last three predictions, newest first, and how many steps were taken."""

WEIGHTS = (
    (1 / 2, 1 / 2, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms() -> Solver:
    """The pseudo linear multistep method of PNDM, as in latent diffusion.

    It is meant for grids of about equal distances, such as the spacings "linear", "leading" and
    "trailing".

    Returns:
      A Solver, for `integrate` and `sample`; deterministic.
    Source: arXiv 2202.09778, section 3.3 (S-PNDM, then F-PNDM); arXiv 2112.10752, its code.
    Example:
      >>> import jaxddim
      >>> schedule, grid = jaxddim.linear(), jaxddim.timesteps(1000, 10)
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> jaxddim.sample(jax.random.key(0), denoise_fn, schedule, grid, (4, 2), step=plms()).shape
      (4, 2)
    """
    return Solver(_init, _step)


def _init(x: jax.Array) -> Memory:
    nothing = Prediction(jnp.zeros_like(x), jnp.zeros_like(x))
    return (nothing,) * 3, jnp.zeros((), jnp.int32)


def _step(
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    x: jax.Array,
    t: jax.Array,
    s: jax.Array,
    memory: Memory,
) -> tuple[Gaussian, Prediction, Memory]:
    (first, second, third), taken = memory
    pair = denoise_fn(x, t)

    def ahead() -> Prediction:
        return denoise_fn(ddim_step(schedule, x, pair, t, s).mean, s)

    alone = (taken == 0) & (s == 0)  # there is no eps at sigma = 0
    other = lax.cond((taken == 0) & ~alone, ahead, lambda: first)
    weights = jnp.asarray(WEIGHTS, x.dtype)[jnp.minimum(taken, 3)]
    weights = jnp.where(alone, jnp.eye(1, 4, dtype=x.dtype)[0], weights)
    mean = mean_prediction(schedule, x, (pair, other, second, third), weights, t, s)
    return ddim_step(schedule, x, mean, t, s), pair, ((pair, first, second), taken + 1)
