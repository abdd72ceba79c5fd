r"""The variational bound on the code length of 8-bit images, term by term.

On all T steps or on any grid of them (seed eq. 13-16):

    -log p(x_0) <= L_T + sum_{t = 2..T} L_{t-1} + L_0,
    L_T     = KL(q(x_T | x_0) || N(0, I)),
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),    x_t drawn from q(x_t | x_0),
    L_0     = -log p(x_0 | x_1),

where p(x_0 | x_1) is the probability of the 8-bit value x_0 under a Gaussian: the mass of the bin
of width 2/255 around it. The first and the last bin extend to infinity. The bound is therefore one
on the code length of 8-bit images.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxddim import checks
from jaxddim.forward import direction_and_std, q_posterior
from jaxddim.likelihood.gaussians import discretized_log_prob, kl
from jaxddim.numerics import images
from jaxddim.sampling.learned import learned_std, learned_step
from jaxddim.sampling.noise import draw
from jaxddim.sampling.solver import Solver, StepFn, checked
from jaxddim.sampling.steps import ddpm_step
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Gaussian


class Bound(NamedTuple):
    """The terms of the variational bound, in bits per dimension.

    Attributes:
      prior: L_T, [b].
      steps: L_{t-1}, [S-1, b], noise first: ``steps[i]`` is the transition from ``timesteps[i]`` to
        ``timesteps[i + 1]``.
      decoder: L_0, [b].
    """

    prior: jax.Array
    steps: jax.Array
    decoder: jax.Array

    @property
    def total(self) -> jax.Array:
        """The bound itself, [b]."""
        return self.prior + jnp.sum(self.steps, 0) + self.decoder


def variational_bound(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x0: jax.Array,
    *,
    step: StepFn = ddpm_step,
    first_index: int | jax.Array = 0,
) -> Bound:
    """An upper bound on the bits per dimension of 8-bit images under a model, term by term.

    Each term takes one evaluation of the network and one draw of x_t: the value is random, and its
    expectation is the bound. On a grid of fewer than T steps it is the bound of the sampler that
    takes these steps. As in the DDPM authors' code, p(x_0 | x_1) has the small variance of the
    transition from t = 2 to 1 (its own would be 0) for every step function but `learned_step`, for
    which that is the least variance.

    Args:
      key: a random key, or [b] keys, one per example.
      denoise_fn: ``denoise_fn(x, t) -> Prediction``; with and without clipping are two models.
      schedule: the noise schedule.
      timesteps: int32 [S+1], S >= 2, decreasing to 0; ``timesteps(T, T)`` for the whole bound.
      x0: 8-bit images scaled to [-1, 1], [b, *d].
      step: the model's reverse step: `ddpm_step`, with ``variance="large"`` bound by
        functools.partial if wanted, or any stochastic step of the same signature.
      first_index: the index of the first image of this batch; image i draws from
        ``fold_in(key, first_index + i)``. May be traced.
    Returns:
      Bound with prior [b], steps [S-1, b], decoder [b] and their sum total [b].
    Raises:
      ValueError: when the grid is not a vector of at least 3 times that decrease to 0, the step is
        deterministic, or x0 holds integers; also as `jaxddim.integrate`.
    Source: arXiv 2006.11239, eq. 5 and section 3.3; seed eq. 13-16.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x)
      >>> x0, grid = jnp.zeros((2, 4, 4, 3)), jaxddim.timesteps(1000, 10)
      >>> bound = variational_bound(jax.random.key(0), denoise_fn, schedule, grid, x0)
      >>> bound.steps.shape, bound.total.shape
      ((9, 2), (2,))
    """
    if isinstance(step, Solver):
        raise ValueError("variational_bound takes a step such as ddpm_step, got a Solver")
    grid, denoise_fn = checks.grid(timesteps, schedule, least=2, strictly=True), checked(denoise_fn)
    (x0,) = images(schedule.dtype, x0=x0)
    keys = checks.example_keys(key, x0.shape[0], first_index)
    _, decoder_std = direction_and_std(schedule, grid[-3], grid[-2], 1.0, x0.ndim)

    def noisy(t):
        alpha, sigma = schedule.scales(t, x0.ndim)
        return Gaussian(alpha * x0, sigma)

    def transition(_, times):
        t, s = times
        x_t = draw(keys, noisy(t), t)
        pair = denoise_fn(x_t, t)
        mean, std = step(schedule, x_t, pair, t, s)
        if isinstance(std, (float, np.ndarray)) and np.all(std == 0):
            raise ValueError(
                "a deterministic step gives images no density; use a step with a variance, "
                "or ode_log_likelihood"
            )
        q_mean, q_std = q_posterior(schedule, x0, x_t, t, s)
        # both are 0 at s = 0, where the term is the decoder's
        q = Gaussian(q_mean, jnp.where(s == 0, 1.0, q_std))
        p = Gaussian(mean, jnp.where(s == 0, 1.0, std))
        return (mean, *pair[2:]) if learned else (mean,), _bits(kl(q, p))

    learned = step is learned_step
    start = (jnp.zeros_like(x0),) * (1 + learned)
    (mean, *fraction), terms = lax.scan(transition, start, (grid[:-1], grid[1:]))
    if fraction:
        decoder_std = learned_std(schedule, fraction[0], grid[-2], grid[-1], least=decoder_std)
    prior = kl(noisy(grid[0]), Gaussian(jnp.float32(0), jnp.float32(1)))
    decoder = -discretized_log_prob(Gaussian(mean, decoder_std), x0)
    return Bound(_bits(prior), terms[:-1], _bits(decoder))


def _bits(nats: jax.Array) -> jax.Array:
    """Nats of each component as bits per dimension, [b]."""
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / math.log(2)
