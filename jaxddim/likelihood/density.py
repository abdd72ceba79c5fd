r"""The density of images along DDIM's ODE, and what it says of 8-bit images.

Along DDIM's ODE, d(x / alpha) = eps d(sigma / alpha), the model's density is
transported from noise to image (arXiv 2010.02502, eq. 13-14; 2011.13456, eq. 39). In the angle
phi = arctan(sigma / alpha), used since sigma / alpha may be 10^4 or infinite, the ODE is

    x_t = cos(phi) x_0 + sin(phi) eps,    dx/dphi = v = cos(phi) eps - sin(phi) x_0,
    log p(x_0) = log N(x_T; 0, I) + int_0^phi_T div v dphi,

Hutchinson's estimator gives div v = E[z . (dv/dx) z] for z of unit covariance. Euler's method,
which in x / alpha is the DDIM step, is of first order; Heun's needs far fewer evaluations. The
network is not evaluated at the two ends. At t = 0, eps = -sigma score is 0, and so is v, since data
with a density have a finite score. At t = T, v contains the error of eps divided by alpha_T, so the
last step is Euler's. That step is short, and with one first-order step the path stays of second
order.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.stats import norm
from jax.typing import DTypeLike

from jaxddim import checks
from jaxddim.numerics import HALF_BIN, images
from jaxddim.sampling.conditioning import warn_of_clipping
from jaxddim.sampling.solver import checked
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn


def _signs(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """`jax.random.rademacher`, which draws other signs if 64-bit types are on."""
    return 2 * jax.random.bernoulli(key, jnp.asarray(0.5, dtype), shape).astype(dtype) - 1


_PROBES: dict[str, Callable[..., jax.Array]] = {
    "rademacher": _signs,
    "gaussian": jax.random.normal,
}


def ode_log_likelihood(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x0: jax.Array,
    *,
    probe: Literal["rademacher", "gaussian"] = "rademacher",
    first_index: int | jax.Array = 0,
) -> jax.Array:
    """The log density of x_0 under the deterministic sampler, in nats.

    Follows DDIM's ODE from image to noise by Heun's method on the grid, with one probe per image
    for the whole path: 2 S - 2 evaluations of the network and of its derivative. The error falls
    like 1 / S^2. For data of standard deviation 0.5 it is below 1e-2 nats per dimension at S = 50.
    Narrower data need smaller steps near t = 0: a larger S, or spacing="quadratic".
    No step multiplies an error of the network; those of an eps- or score-network add up like
    log(1 / alpha), so a grid that ends at `jaxddim.safe_fraction` is more accurate for them.

    Args:
      denoise_fn: ``denoise_fn(x, t) -> Prediction``, **not clipped**: `as_denoiser(...,
        clip_x0=False)`. Evaluated at 0 < t < ``timesteps[0]`` only.
      x0: points of a continuous space, [b, *d]; for 8-bit images see `ode_bits_per_dim`.
      probe: distribution of Hutchinson's probes: "rademacher" (random signs; lower variance, zero
        for a diagonal Jacobian) or "gaussian".
      key, schedule, timesteps, first_index: as for `variational_bound`.
    Returns:
      log p(x_0), the sum over the event dimensions, float32 [b].
    Raises:
      ValueError: for an unknown probe, a grid that is not a vector of at least 3 times that
        decrease to 0, or an x0 that holds integers; also as `jaxddim.integrate`.
    Warns:
      UserWarning: when `as_denoiser` made the denoiser with clipping.
    Source: arXiv 2010.02502, eq. 13-14; arXiv 2011.13456, eq. 39-40; arXiv 1810.01367, eq. 7.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.cosine(100)
      >>> standard = lambda x, index: schedule.scales(index[0] + 1)[1] * x  # eps for N(0, 1)
      >>> denoise_fn = jaxddim.as_denoiser(schedule, standard, clip_x0=False)
      >>> x0, grid = jnp.zeros((1, 3)), jaxddim.timesteps(100, 10)
      >>> log_prob = ode_log_likelihood(jax.random.key(0), denoise_fn, schedule, grid, x0)
      >>> bool(jnp.allclose(log_prob, norm.logpdf(0.0) * 3, atol=1e-3))
      True
    """
    if probe not in _PROBES:
        raise ValueError(f"unknown probe {probe!r}; expected one of {', '.join(_PROBES)}")
    grid = checks.grid(timesteps, schedule, least=2, strictly=True)[::-1]
    warn_of_clipping(denoise_fn, "ode_log_likelihood")
    denoise_fn = checked(denoise_fn)
    (x0,) = images(schedule.dtype, x0=x0)
    keys = checks.example_keys(key, x0.shape[0], first_index)
    z = jax.vmap(lambda key: _PROBES[probe](key, x0.shape[1:], jnp.float32))(keys)

    def slope(x, t):
        """v, and the estimate of its divergence from each image's probe."""

        def velocity(x):
            alpha, sigma = schedule.scales(t)
            prediction = denoise_fn(x, t)
            return alpha * prediction.eps - sigma * prediction.x0

        v, pull_back = jax.vjp(velocity, x)  # not jvp, which a custom_vjp lacks
        return v, _sum(z * pull_back(z.astype(v.dtype))[0])

    def heun(carry, times):
        x, log_volume = carry
        alpha, sigma = schedule.scales(times)
        phi = jnp.arctan2(sigma, alpha)
        h = phi[1] - phi[0]

        def stage(previous, t):
            end = (t == 0) | (t == grid[-1])
            here = lax.cond(end, lambda: previous, lambda: slope(x + h * previous[0], t))
            return here, here

        _, (v, divergence) = lax.scan(
            stage, (jnp.zeros_like(x), jnp.zeros_like(x, shape=x.shape[:1])), times
        )
        return (x + h * jnp.mean(v, 0), log_volume + h * jnp.mean(divergence, 0)), None

    start = x0, jnp.zeros_like(x0, shape=x0.shape[:1])
    (x_T, log_volume), _ = lax.scan(heun, start, jnp.stack([grid[:-1], grid[1:]], 1))
    return _sum(norm.logpdf(x_T)) + log_volume


def ode_bits_per_dim(
    key: jax.Array,
    denoise_fn: DenoiseFn,
    schedule: Schedule,
    timesteps: jax.Array,
    x0: jax.Array,
    *,
    probe: Literal["rademacher", "gaussian"] = "rademacher",
    first_index: int | jax.Array = 0,
) -> jax.Array:
    """The bits per dimension of 8-bit images under the deterministic sampler.

    Uniform noise u over its bin of width 2/255 is added to each value (dequantisation). By Jensen's
    inequality, ``-log2 p(x_0 + u) / D + log2(255 / 2)`` is then on average at least the code
    length; the offset log2(255 / 2) = 6.994 converts density on [-1, 1] to mass.

    Args:
      x0: 8-bit images scaled to [-1, 1], [b, *d].
      key, denoise_fn, schedule, timesteps, probe, first_index: as for `ode_log_likelihood`.
    Returns:
      Bits per dimension, float32 [b].
    Raises:
      ValueError: as `ode_log_likelihood`.
    Warns:
      UserWarning: as `ode_log_likelihood`.
    Source: arXiv 2011.13456, section 4.3; arXiv 1511.01844, section 3.1.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = jaxddim.as_denoiser(schedule, lambda x, index: 0 * x, clip_x0=False)
      >>> x0, grid = jnp.zeros((2, 4, 4, 3)), jaxddim.timesteps(1000, 10)
      >>> ode_bits_per_dim(jax.random.key(0), denoise_fn, schedule, grid, x0).shape
      (2,)
    """
    checks.schedule(schedule)
    (x0,) = images(schedule.dtype, x0=x0)
    keys = jax.vmap(jax.random.split)(checks.example_keys(key, x0.shape[0], first_index))
    uniform = jax.vmap(
        lambda key: jax.random.uniform(key, x0.shape[1:], jnp.float32, -HALF_BIN, HALF_BIN)
    )
    log_prob = ode_log_likelihood(
        keys[:, 0], denoise_fn, schedule, timesteps, x0 + uniform(keys[:, 1]), probe=probe
    )
    return -log_prob / (math.log(2) * x0[0].size) - math.log2(2 * HALF_BIN)


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
