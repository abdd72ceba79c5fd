"""Group and batch normalisation with one pass over the data and one multiply-add per element.

    y = (x - m) / sqrt(v + eps) * scale + bias
      = x * a + c,   a = scale / sqrt(v + eps),   c = bias - m a

m and v = E[x^2] - E[x]^2 come from one pass; a and c have one entry per channel (and, for groups,
per example). On CPU this is two to three times as fast as normalising, scaling and shifting in
sequence. Statistics are float32 whatever the network's dtype. v is clipped at 0 because rounding
could make it negative.

Group: arXiv 1803.08494. Batch: arXiv 1502.03167.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxddim.cpu.spread import spread, total
from jaxddim.models.parameters import param


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Means of x and of x^2 over the pixels of each example, `[b, c]`."""
    pixels = math.prod(x.shape[1:-1])
    return total(x) / pixels, total(x * x) / pixels


def _multiply_add(x: jax.Array, a: jax.Array, c: jax.Array) -> jax.Array:
    """x a + c with a and c `[b, c]`."""
    return x * spread(a, *x.shape[1:-1]) + spread(c, *x.shape[1:-1])


@partial(jax.jit, static_argnums=(3, 4))
def _group_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float
) -> jax.Array:
    """With jit it is traced and differentiated once for all layers of a shape."""

    def over_group(moment: jax.Array) -> jax.Array:  # [b, c] -> [b, c], equal within a group
        grouped = moment.reshape(*moment.shape[:-1], groups, -1)
        mean = jnp.mean(grouped, -1, keepdims=True)
        return jnp.broadcast_to(mean, grouped.shape).reshape(moment.shape)

    mean, square = map(over_group, _moments(x))
    a = scale * lax.rsqrt(jnp.maximum(square - mean * mean, 0) + epsilon)
    return _multiply_add(x, a, bias - mean * a)


class GroupNorm(nn.Module):
    """Normalises each example over space and within each of `groups` groups of channels.

    Parameters `scale` and `bias`, `[c]` each, named as in `flax.linen.GroupNorm`.

    Raises:
      ValueError: when `groups` does not divide the number of channels.
    Example:
      >>> y, _ = GroupNorm(groups=2).init_with_output(jax.random.key(0), jnp.ones([1, 4, 4, 6]))
      >>> y.shape
      (1, 4, 4, 6)
    """

    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {channels} channels")
        scale = param(self, "scale", nn.initializers.ones, (channels,))
        bias = param(self, "bias", nn.initializers.zeros, (channels,))
        x = x.astype(jnp.float32)
        return _group_norm(x, scale, bias, self.groups, float(self.epsilon)).astype(self.dtype)


class BatchNorm(nn.Module):
    """Normalises each channel with the statistics of the batch, or with their running averages.

    With `train=True` the batch's own statistics (over batch and space) are used and the running
    ones in `batch_stats` are updated; with `train=False` the running ones are used. As in PyTorch,
    the running variance is unbiased, n / (n - 1) v, but the batch is normalised with the biased v.

    Args:
      momentum: weight of the old running average in each step; 0.9 is PyTorch's `momentum=0.1`.
      epsilon: added to the variance.
      axis_name: the mapped axis (of `jax.pmap`) over which the batch is split.
      dtype: of the output.
    Example:
      >>> x = jax.random.normal(jax.random.key(0), [8, 4, 4, 3])
      >>> norm = BatchNorm()
      >>> variables = norm.init(jax.random.key(1), x, train=False)
      >>> y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
      >>> sorted(updates["batch_stats"])
      ['mean', 'var']
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = x.shape[-1:]
        x = x.astype(jnp.float32)
        scale = param(self, "scale", nn.initializers.ones, shape)
        bias = param(self, "bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if train and not self.is_initializing():
            mean, square = (jnp.mean(moment, 0) for moment in _moments(x))
            count = x.size // x.shape[-1]
            if self.axis_name is not None:
                mean, square = lax.pmean((mean, square), self.axis_name)
                count = count * lax.psum(1, self.axis_name)
            var = jnp.maximum(square - mean * mean, 0)
            keep, unbiased = self.momentum, count / max(count - 1, 1)
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * unbiased * var
        else:
            mean, var = running_mean.value, running_var.value
        a = scale * lax.rsqrt(var + self.epsilon)
        a, c = (jnp.broadcast_to(v, (x.shape[0], *shape)) for v in (a, bias - mean * a))
        return _multiply_add(x, a, c).astype(self.dtype)
