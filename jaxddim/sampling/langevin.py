r"""Langevin dynamics: a walk that stays at time t and forgets where it began.

The score of x_t, the slope of its log-density, and the noise in it are tied by

    score_t(x) = grad log q(x_t) = -E[eps | x_t] / sigma_t,

so that every network that yields the pair (x_0, eps) knows the score. Unadjusted Langevin
dynamics of step h moves a little uphill and adds noise,

    x' = x + h score_t(x) + sqrt(2 h) z,    z ~ N(0, I),

and as h -> 0 its law tends to q(x_t), wherever it began. Algorithms 4 and 5 of arXiv 2011.13456
choose h = 2 (snr |z| / |score|)^2, with norms that are means over a batch, which ties every image
to its neighbours. Here the norms are replaced by what they are on average when the noise in x_t
is known, |z| / |score| = |z| sigma_t / |eps| = sigma_t (and algorithm 5's factor 1 - beta_t by 1):

    h = 2 (snr sigma_t)^2,
    mean = x - 2 snr^2 sigma_t eps,    std = 2 snr sigma_t.

An image then depends on itself alone. Without a correcting rejection a finite h leaves a bias: the
variance v of a Gaussian becomes v / (1 - h / 2v). As q(x_t) contains noise of variance sigma_t^2,
that is at most a factor 1 / (1 - snr^2), 1.03 for snr = 0.16; at snr = 1 the walk diverges.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

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

    In `integrate`, a grid that repeats one time, ``jnp.full(n + 1, t)``, is n steps at noise level
    t, and a falling one is annealed Langevin dynamics.

    Args:
      schedule: the noise schedule.
      x: images at time t, [b, *d].
      prediction: the network's pair (x0, eps) for x.
      t: int32 times, scalar or [b].
      s: the next time of the grid, which plays no part: the walk stays at t.
      snr: the step's length against its noise, in (0, 1); h = 2 (snr sigma_t)^2.
    Returns:
      Gaussian with mean [b, *d] and std, a scalar or [b, 1, ..]; the image itself at t = 0.
    Raises:
      ValueError: when snr lies outside (0, 1), or a Python or NumPy time outside 0..T.
    Source: arXiv 2011.13456, algorithms 4 and 5; arXiv 1907.05600, algorithm 1.
    Example:
      >>> import jaxddim, jax.numpy as jnp
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 8))
      >>> pair = jaxddim.from_eps(schedule, x, 0 * x, 500)
      >>> langevin_step(schedule, x, pair, 500, snr=0.1).mean.shape
      (2, 8)
    """
    del s  # it stays at t
    _check_snr(snr)
    _, sigma = schedule.scales(t, x.ndim)
    return Gaussian(x - 2 * snr**2 * sigma * prediction.eps, 2 * snr * sigma)


def corrector(step: StepFn, num_corrections: int, snr: float) -> Solver:
    """The step with Langevin corrections before it: a predictor-corrector sampler.

    At each time of the grid x first walks num_corrections times with `langevin_step`, each with a
    prediction and noise of its own, and then leaves with the step. Corrections come before the
    prediction, as in the code of the paper, so that none is made of clean images, about which no
    network was asked in training; a grid of S + 1 times costs (num_corrections + 1) S evaluations.

    Args:
      step: what leaves a time: `ddim_step`, `ddpm_step`, or anything of the same signature.
      num_corrections: Langevin steps at each time, 0 or more.
      snr: their size, in (0, 1); see `langevin_step`.
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
    if num_corrections < 0:
        raise ValueError(f"num_corrections must be at least 0, got {num_corrections}")
    _check_snr(snr)
    if num_corrections == 0:
        return as_solver(step)
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


def _check_snr(snr: float) -> None:
    if not isinstance(snr, jax.core.Tracer) and not np.all((snr > 0) & (snr < 1)):
        raise ValueError(f"snr must lie in (0, 1), got {snr}: at 1 and above the walk diverges")
