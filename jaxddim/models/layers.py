"""Flax's layers for images, with the same parameters; on CPU they use `jaxddim.cpu`."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxddim.cpu.conv import conv
from jaxddim.cpu.spread import add_bias
from jaxddim.models.parameters import param


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _layer(module: Any, x: jax.Array, transposed: bool) -> jax.Array:
    """Creates a module's parameters and convolves x with them."""
    shape = (*_pair(module.kernel_size), x.shape[-1], module.features)
    kernel = param(module, "kernel", module.kernel_init, shape)
    bias = param(module, "bias", nn.initializers.zeros, (module.features,))
    x, kernel, bias = (array.astype(module.dtype) for array in (x, kernel, bias))
    padding = module.padding
    if not isinstance(padding, str):
        rows, columns = (padding, padding) if isinstance(padding, int) else padding
        padding = (_pair(rows), _pair(columns))
    return add_bias(conv(x, kernel, _pair(module.strides), padding, transposed), bias)


class Conv(nn.Module):
    """`flax.linen.Conv` for images, with parameters `kernel [kh, kw, c, features]` and `bias`.

    Example:
      >>> module = Conv(features=5, kernel_size=(3, 3), strides=2, padding=1)
      >>> y, _ = module.init_with_output(jax.random.key(0), jnp.ones([1, 4, 6, 3]))
      >>> y.shape
      (1, 2, 3, 5)
    """

    features: int
    kernel_size: int | Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: str | int | Sequence[Any] = "SAME"
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _layer(self, x, transposed=False)


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` for images; the defaults double height and width.

    PyTorch's `ConvTranspose2d(c, features, 4, 2, 1)` is the same map with the kernel flipped in
    both directions. Parameters `kernel [kh, kw, c, features]` and `bias [features]`, as in Flax.

    Example:
      >>> module = ConvTranspose(features=5)
      >>> y, _ = module.init_with_output(jax.random.key(0), jnp.ones([1, 4, 6, 3]))
      >>> y.shape
      (1, 8, 12, 5)
    """

    features: int
    kernel_size: int | Sequence[int] = (4, 4)
    strides: int | Sequence[int] = 2
    padding: str | int | Sequence[Any] = "SAME"
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return _layer(self, x, transposed=True)


class Dense(nn.Module):
    """`flax.linen.Dense` on the channels of every pixel.

    Parameters `kernel [c, features]` and `bias [features]`, as in Flax.

    Example:
      >>> y, _ = Dense(features=5).init_with_output(jax.random.key(0), jnp.ones([1, 4, 6, 3]))
      >>> y.shape
      (1, 4, 6, 5)
    """

    features: int
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = param(self, "kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = param(self, "bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        y = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)
        return add_bias(y, bias)
