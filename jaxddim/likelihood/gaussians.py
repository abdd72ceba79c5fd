"""Gaussians as codes: the probability of 8-bit values, and the divergence of two of them."""

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from jaxddim.numerics import HALF_BIN, images
from jaxddim.types import Gaussian

FARTHEST = 1e18
"""Largest distance from the mean, in standard deviations; its square is still finite."""


def discretized_log_prob(gaussian: Gaussian, x0: jax.Array) -> jax.Array:
    """The log probability of 8-bit values under a Gaussian: that of the bins around them.

    ``log(Phi((x_0 + 1/255 - mean) / std) - Phi((x_0 - 1/255 - mean) / std))``. At x_0 = -1 the
    second term is left out; at x_0 = 1 the first is 1. The result is accurate in float32 even where
    both terms round to 0 or to 1.

    Args:
      gaussian: mean [b, *d] and a positive std.
      x0: 8-bit values scaled to [-1, 1], [b, *d].
    Returns:
      Log probabilities in nats, float32 [b, *d].
    Raises:
      ValueError: when an array holds integers.
    Source: arXiv 2006.11239, eq. 13.
    Example:
      >>> x0 = jnp.arange(256) / 127.5 - 1
      >>> log_prob = discretized_log_prob(Gaussian(jnp.zeros(256), jnp.float32(0.3)), x0)
      >>> round(float(jnp.sum(jnp.exp(log_prob))), 5)
      1.0
    """
    (mean,), (x0,) = images(jnp.float32, mean=gaussian.mean), images(jnp.float32, x0=x0)
    std = jnp.asarray(gaussian.std, jnp.float32)
    centre, half = jnp.clip((x0 - mean) / std, -FARTHEST, FARTHEST), HALF_BIN / std
    # the bin or its mirror image, whichever is below 0: there the two logarithms differ
    above = log_ndtr(half - jnp.abs(centre))
    # far out they may be equal in float32
    gap = jnp.minimum(log_ndtr(-half - jnp.abs(centre)) - above, -jnp.finfo(jnp.float32).tiny)
    inner = above + jnp.log(-jnp.expm1(gap))
    first, last = x0 < HALF_BIN - 1, x0 > 1 - HALF_BIN
    return jnp.where(
        first, log_ndtr(centre + half), jnp.where(last, log_ndtr(half - centre), inner)
    )


def kl(q: Gaussian, p: Gaussian) -> jax.Array:
    """KL(q || p) of each component, in nats; exactly that of the means where the stds are equal."""
    ratio = jnp.asarray(q.std) / p.std
    return 0.5 * (ratio**2 - 1 - 2 * jnp.log(ratio) + ((q.mean - p.mean) / p.std) ** 2)
