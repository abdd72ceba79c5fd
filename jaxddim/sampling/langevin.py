r"""Langevin dynamics: a random walk at a fixed time t that forgets its start.

The score of x_t, the gradient of its log-density, is given by the noise in it:

    score_t(x) = grad log q(x_t) = -E[eps | x_t] / sigma_t,

so every network that predicts the pair (x_0, eps) also gives the score. Unadjusted Langevin
dynamics of step size h moves along the score and adds noise,

    x' = x + h score_t(x) + sqrt(2 h) z,    z ~ N(0, I),

and as h -> 0 its distribution tends to q(x_t) from any start. Algorithms 4 and 5 of arXiv
2011.13456 choose h = 2 (snr |z| / |score|)^2 with norms averaged over a batch, so each image
depends on the others. Here the norms are replaced by their average when the noise in x_t is known,
|z| / |score| = |z| sigma_t / |eps| = sigma_t (and algorithm 5's factor 1 - beta_t by 1):

    h = 2 (snr sigma_t)^2,
    mean = x - 2 snr^2 sigma_t eps,    std = 2 snr sigma_t.

Each image then depends only on itself. Without a Metropolis rejection step, a finite h leaves a
bias: the variance v of a Gaussian becomes v / (1 - h / 2v). Since q(x_t) contains noise of variance
sigma_t^2, this is a factor of at most 1 / (1 - snr^2), 1.03 for snr = 0.16. At snr = 1 the walk
diverges.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import images, number, whole_number
from jaxddim.sampling.solver import Solver, StepFn, as_solver
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction


def langevin_step(
    schedule: Schedule,
    x: jax.Array,
    prediction: Prediction,
    t: ArrayLike,
    s: ArrayLike | None = None,
    *,
    snr: float,
) -> Gaussian:
    """One step of unadjusted Langevin dynamics on q(x_t).

    In `integrate`, a grid that repeats one time, ``jnp.full(n + 1, t)``, gives n steps at noise
    level t; a decreasing grid gives annealed Langevin dynamics.

    Args:
      schedule: the noise schedule.
      x: images at time t, [b, *d].
      prediction: the network's pair (x0, eps) for x.
      t: int32 times, scalar or [b].
      s: the next time of the grid; not used, since the walk stays at t.
      snr: size of the step relative to its noise, in (0, 1); h = 2 (snr sigma_t)^2. May be traced.
    Returns:
      Gaussian with mean [b, *d] and std, a scalar or [b, 1, ..]; at t = 0 the image itself.
    Raises:
      ValueError: when snr lies outside (0, 1), the prediction does not have the shape of x, a time
        that is not traced lies outside 0..T, or images hold integers.
    Source: arXiv 2011.13456, algorithms 4 and 5; arXiv 1907.05600, algorithm 1.
    Example:
      >>> import jaxddim, jax.numpy as jnp
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 8))
      >>> pair = jaxddim.from_eps(schedule, x, 0 * x, 500)
      >>> langevin_step(schedule, x, pair, 500, snr=0.1).mean.shape
      (2, 8)
    """
    del s  # the walk stays at t
    snr = _checked(snr)
    checks.schedule(schedule)
    checks.pair(prediction, np.shape(x))
    x, eps = images(schedule.dtype, x=x, eps=prediction[1])
    checks.each(x.shape[0], t=t)
    _, sigma = schedule.scales(t, x.ndim)
    return Gaussian(x - 2 * snr**2 * sigma * eps, 2 * snr * sigma)


def corrector(step: StepFn, num_corrections: int, snr: float) -> Solver:
    """A predictor-corrector sampler: a step with Langevin corrections before it.

    At each time of the grid, x takes num_corrections steps of `langevin_step`, each with its own
    prediction and noise, and then the step to the next time. The corrector runs before the
    predictor, as in the paper's code, so clean images, which no network saw in training, are not
    corrected. A grid of S + 1 times costs (num_corrections + 1) S evaluations.

    Args:
      step: the predictor: `ddim_step`, `ddpm_step`, or any function of the same signature.
      num_corrections: Langevin steps at each time, 0 or more.
      snr: size of the Langevin steps, in (0, 1); see `langevin_step`.
    Returns:
      A Solver, for `integrate` and `sample`.
    Raises:
      ValueError: when num_corrections is negative or snr lies outside (0, 1).
    Source: arXiv 2011.13456, algorithm 1 and section 4.2.
    Example:
      >>> import jax.numpy as jnp, jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> grid, step = jaxddim.timesteps(1000, 10), corrector(jaxddim.ddim_step, 2, snr=0.16)
      >>> jaxddim.sample(jax.random.key(0), denoise_fn, schedule, grid, (4, 2), step=step).shape
      (4, 2)
    """
    num_corrections = whole_number(num_corrections, "num_corrections", least=0)
    if isinstance(step, Solver):
        raise ValueError("corrector takes a step such as ddim_step, got a Solver")
    snr, plain = _checked(snr), as_solver(step)
    if num_corrections == 0:
        return plain
    walk = functools.partial(langevin_step, snr=snr)

    def corrected(
        denoise_fn: DenoiseFn,
        schedule: Schedule,
        x: jax.Array,
        t: jax.Array,
        s: jax.Array,
        made: jax.Array,
    ) -> tuple[Gaussian, Prediction, jax.Array]:
        prediction = denoise_fn(x, t)

        def take(step: StepFn) -> Gaussian:
            mean, std = step(schedule, x, prediction, t, s)
            return Gaussian(mean, jnp.broadcast_to(jnp.asarray(std, mean.dtype), mean.shape))

        leaves = made == num_corrections
        gaussian = lax.cond(leaves, lambda: take(step), lambda: take(walk))
        return gaussian, prediction, jnp.where(leaves, 0, made + 1)

    return Solver(lambda x: jnp.zeros((), jnp.int32), corrected, stays=num_corrections)


def _checked(snr: ArrayLike) -> Any:
    why = ": at 1 and above the walk diverges"
    return number(snr, "snr", "lie in (0, 1)", lambda snr: (snr > 0) & (snr < 1), why)
