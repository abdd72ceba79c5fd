r"""Heun's method: a DDIM step, then the same step with the mean of eps at both of its ends.

    x'  = the DDIM step from x_t to s with eps_t,
    x_s = the DDIM step from x_t to s with (eps_t + eps'_s) / 2,    eps'_s that of x' at s.

In x / alpha and sigma / alpha it is Heun's method for DDIM's ODE, of second order, at two
evaluations a step. The last step, to s = 0, is DDIM's: there is no eps at sigma = 0. So S steps
cost 2 S - 1 evaluations.

With churn gamma > 0 each step first adds noise, which corrects the errors of earlier steps:

    x_t -> x_u,    sigma_u / alpha_u = (1 + gamma) sigma_t / alpha_t,    from q(x_u | x_t),

with u rounded to a whole time, since networks know no other, and at most T.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxddim.forward import q_forward
from jaxddim.numerics import number
from jaxddim.sampling.means import mean_prediction
from jaxddim.sampling.solver import Solver
from jaxddim.sampling.steps import ddim_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction

MOST = math.sqrt(2) - 1
"""The largest gamma: a step adds at most as much noise as there is."""


def heun(
    *,
    churn: float = 0.0,
    interval: tuple[float, float] = (0.0, math.inf),
    noise_scale: float = 1.0,
) -> Solver:
    """Heun's method of EDM.

    Args:
      churn: gamma, by how much each step raises sigma / alpha before it is taken; more than
        sqrt(2) - 1 counts as that. The paper's S_churn is ``churn * S``.
      interval: the sigma / alpha between which noise is added (S_tmin and S_tmax).
      noise_scale: factor on the deviation of that noise (S_noise).
    Returns:
      A Solver, for `integrate` and `sample`; deterministic if churn is 0.
    Raises:
      ValueError: when churn is negative, the interval is not (low, high) with 0 <= low <= high, or
        noise_scale is not positive.
    Source: arXiv 2206.00364, algorithms 1 and 2.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> grid = jaxddim.timesteps(1000, 10, spacing="karras", schedule=schedule)
      >>> jaxddim.sample(jax.random.key(0), denoise_fn, schedule, grid, (4, 2), step=heun()).shape
      (4, 2)
    """
    churn = number(churn, "churn", "be at least 0", lambda churn: churn >= 0)
    noise_scale = number(noise_scale, "noise_scale", "be positive", lambda scale: scale > 0)
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1]:
        raise ValueError(f"interval must be (low, high) with 0 <= low <= high, got {interval}")
    if not isinstance(churn, jax.Array) and churn == 0:
        return Solver(lambda x: (), _plain)

    def churned(denoise_fn, schedule, x, t, s, level):
        """Visits each time twice: adds noise, then steps from `level`, which is 0 before."""
        adds = level == 0
        level = jnp.where(adds, _raised(schedule, t, jnp.minimum(churn, MOST), interval), level)

        def add() -> tuple[Gaussian, Prediction]:
            mean, std = q_forward(schedule, 0 * x, x, t, level, eta=1.0)
            return Gaussian(mean, noise_scale * std), Prediction(0 * x, 0 * x)

        def move() -> tuple[Gaussian, Prediction]:
            gaussian, pair, _ = _plain(denoise_fn, schedule, x, level, s, ())
            return gaussian._replace(std=jnp.zeros((), x.dtype)), pair

        gaussian, pair = lax.cond(adds, add, move)
        # of use for snapshots alone: without them the compiler removes it
        pair = lax.cond(adds, lambda: denoise_fn(x, t), lambda: pair)
        return gaussian, pair, jnp.where(adds, level, 0)

    return Solver(lambda x: jnp.zeros((), jnp.int32), churned, stays=1)


def _plain(denoise_fn: DenoiseFn, schedule: Schedule, x: jax.Array, t, s, memory):
    pair = denoise_fn(x, t)
    ahead = ddim_step(schedule, x, pair, t, s)

    def corrected() -> jax.Array:
        ends = pair, denoise_fn(ahead.mean, s)
        pair_of_both = mean_prediction(schedule, x, ends, (0.5, 0.5), t, s)
        return ddim_step(schedule, x, pair_of_both, t, s).mean

    return ahead._replace(mean=lax.cond(s == 0, lambda: ahead.mean, corrected)), pair, memory


def _raised(schedule: Schedule, t: jax.Array, churn: jax.Array, interval) -> jax.Array:
    """The time nearest to (1 + churn) sigma_t / alpha_t; t itself outside of the interval."""
    table, T = jnp.asarray(schedule.log_snr), schedule.num_steps
    here = schedule.log_snr_at(t)
    wanted = jnp.maximum(here - 2 * jnp.log1p(churn), jnp.finfo(here.dtype).min)
    above = jnp.clip(jnp.searchsorted(-table, -wanted), t, T)
    below = jnp.maximum(above - 1, t)
    u = jnp.where(table[below] - wanted < wanted - table[above], below, above)
    with np.errstate(divide="ignore"):
        most, least = -2 * np.log(interval)
    return jnp.where((least <= here) & (here <= most), u, t).astype(jnp.int32)
