r"""DPM-Solver++ 2M: DDIM's step with x_0 extrapolated from the last two predictions.

In lambda = log(alpha / sigma), half the log-SNR, DDIM's ODE has the exact solution

    x_s = (sigma_s / sigma_t) x_t + sigma_s int_{lambda_t}^{lambda_s} e^lambda x_0(lambda) dlambda.

With x_0 constant over the step this is DDIM; with x_0 linear in lambda through the predictions at t
and at the time before it, u, it is DDIM with

    x_0 + h / (2 h_u) (x_0 - x_0(u)),    h = lambda_s - lambda_t,    h_u = lambda_t - lambda_u,

up to an error of third order: second order over the path, at one evaluation a step. The SDE of the
reverse Markov chain has the same solution with noise, of which DDIM with eta = 1 is the first-order
form; the same x_0 makes it SDE-DPM-Solver++ 2M.

The first step has no u, and in the last one, to s = 0, h is infinite: both are DDIM's.
"""

import jax
import jax.numpy as jnp

from jaxddim.forward import checked_eta, snr_gap
from jaxddim.predictions import from_x0
from jaxddim.sampling.solver import Solver
from jaxddim.sampling.steps import ddim_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian, Prediction

Memory = tuple[jax.Array, jax.Array]
"""The x_0 predicted last, and its time; -1 before the first step."""


def dpm_solver_pp_2m(*, eta: float = 0.0) -> Solver:
    """DPM-Solver++ 2M and, with eta = 1, SDE-DPM-Solver++ 2M.

    Args:
      eta: noise as in `ddim_step`: 0 is the ODE's solver, 1 the SDE's. May be traced.
    Returns:
      A Solver, for `integrate` and `sample`.
    Raises:
      ValueError: when eta lies outside [0, 1].
    Source: arXiv 2211.01095, algorithm 2 and section 4.3.
    Example:
      >>> import jaxddim
      >>> schedule, solver = jaxddim.linear(), dpm_solver_pp_2m()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> grid = jaxddim.timesteps(1000, 10, spacing="log_snr", schedule=schedule)
      >>> jaxddim.sample(jax.random.key(0), denoise_fn, schedule, grid, (4, 2), step=solver).shape
      (4, 2)
    """
    eta = checked_eta(eta)

    def step(
        denoise_fn: DenoiseFn,
        schedule: Schedule,
        x: jax.Array,
        t: jax.Array,
        s: jax.Array,
        memory: Memory,
    ) -> tuple[Gaussian, Prediction, Memory]:
        pair, (before, u) = denoise_fn(x, t), memory
        h = -snr_gap(schedule, t, s, 0)
        h_u = -snr_gap(schedule, jnp.where(u < 0, t, u), t, 0)
        usable = (h_u != 0) & (s > 0)
        weight = jnp.where(usable, h, 0.0) / (2 * jnp.where(usable, h_u, 1.0))
        ahead = from_x0(schedule, x, pair.x0 + weight * (pair.x0 - before), t)
        gaussian = ddim_step(schedule, x, ahead, t, s, eta=eta)
        return gaussian, pair, (pair.x0, jnp.asarray(t, jnp.int32))

    return Solver(lambda x: (jnp.zeros_like(x), jnp.full((), -1, jnp.int32)), step)
