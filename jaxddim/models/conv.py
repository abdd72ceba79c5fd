"""Convolutions that are computed on CPU in an exact form that suits their static shape.

A convolution, y = F(x, k), and the two halves of its gradient belong together: with any y',

    <y', F(x, k)> = <G(y', k), x> = <H(x, y'), k>,

so F, G (gradient of the input) and H (gradient of the kernel) are closed under differentiation:
the gradient of each with regard to an operand is another of the three. On CPU each of them has the
form that `conv_forms.py` chooses for the layer; elsewhere they are `lax.conv_general_dilated` and
its own derivatives, unchanged.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.interpreters import ad
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxddim.models import conv_forms as forms
from jaxddim.models.lowering import by_platform
from jaxddim.models.order import pair
from jaxddim.models.spread import add_bias


def _plain(x: jax.Array, k: jax.Array, *, layer: forms.Layer) -> jax.Array:
    return forms.direct(layer, x, k)


def _plain_input(y: jax.Array, k: jax.Array, *, layer: forms.Layer) -> jax.Array:
    return forms.gradient(forms.direct, 0, layer, y, k)


def _plain_kernel(x: jax.Array, y: jax.Array, *, layer: forms.Layer) -> jax.Array:
    return forms.gradient(forms.direct, 1, layer, x, y)


def _cpu(x: jax.Array, k: jax.Array, *, layer: forms.Layer) -> jax.Array:
    return forms.choose(layer).forward(layer, x, k)


def _cpu_input(y: jax.Array, k: jax.Array, *, layer: forms.Layer) -> jax.Array:
    form = forms.choose(layer)
    return (form.input_gradient or partial(forms.gradient, form.forward, 0))(layer, y, k)


def _cpu_kernel(x: jax.Array, y: jax.Array, *, layer: forms.Layer) -> jax.Array:
    form = forms.choose(layer)
    return (form.kernel_gradient or partial(forms.gradient, form.forward, 1))(layer, x, y)


_conv_p = by_platform("conv", _plain, _cpu)
_conv_input_p = by_platform("conv_input_gradient", _plain_input, _cpu_input)
_conv_kernel_p = by_platform("conv_kernel_gradient", _plain_kernel, _cpu_kernel)
ad.defbilinear(
    _conv_p,
    lambda y, x, k, **layer: _conv_input_p.bind(y, k, **layer),
    lambda y, x, k, **layer: _conv_kernel_p.bind(x, y, **layer),
)
ad.defbilinear(
    _conv_input_p,
    lambda x, y, k, **layer: _conv_p.bind(x, k, **layer),
    lambda x, y, k, **layer: _conv_kernel_p.bind(x, y, **layer),
)
ad.defbilinear(
    _conv_kernel_p,
    lambda k, x, y, **layer: _conv_input_p.bind(y, k, **layer),
    lambda k, x, y, **layer: _conv_p.bind(x, k, **layer),
)


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int] = (1, 1),
    padding: forms.Padding = "SAME",
    transposed: bool = False,
) -> jax.Array:
    """`lax.conv_general_dilated`, or `lax.conv_transpose`; on CPU in the form chosen for it.

    Args:
      x: `[b, h, w, c]`.
      kernel: `[kh, kw, c, d]`, of the same type.
      strides: rows and columns that the kernel moves at a time.
      padding: "SAME", "VALID" or pairs.
      transposed: as `lax.conv_transpose` does it.
    Returns:
      `[b, h', w', d]`.
    Example:
      >>> conv(jnp.ones([2, 8, 8, 3]), jnp.ones([3, 3, 3, 5]), strides=(2, 2)).shape
      (2, 4, 4, 5)
    """
    layer = forms.Layer(x.shape, kernel.shape, strides, padding, transposed, x.dtype.itemsize >= 4)
    if _is_manual(x) or _is_manual(kernel):
        return forms.direct(layer, x, kernel)
    return _conv_p.bind(*pair(x, kernel), layer=layer)


def _is_manual(a: jax.Array) -> bool:
    """Whether a differs between the devices of a surrounding jax.shard_map, which is checked."""
    aval = jax.typeof(a)
    return bool(getattr(aval, "vma", ()) or getattr(getattr(aval, "mat", None), "varying", ()))


# Modules


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _layer(module: Any, x: jax.Array, transposed: bool) -> jax.Array:
    """Parameters of a module, and its convolution of x with them."""
    shape = (*_pair(module.kernel_size), x.shape[-1], module.features)
    kernel = module.param("kernel", module.kernel_init, shape)
    bias = module.param("bias", nn.initializers.zeros, (module.features,))
    x, kernel, bias = (array.astype(module.dtype) for array in (x, kernel, bias))
    padding = module.padding
    if not isinstance(padding, str):
        rows, columns = (padding, padding) if isinstance(padding, int) else padding
        padding = (_pair(rows), _pair(columns))
    return add_bias(conv(x, kernel, _pair(module.strides), padding, transposed), bias)


class Conv(nn.Module):
    """`flax.linen.Conv` of images, with its parameters `kernel [kh, kw, c, features]` and `bias`.

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
    """`flax.linen.ConvTranspose` of images; at its defaults it doubles height and width.

    PyTorch's `ConvTranspose2d(c, features, 4, 2, 1)` is the same map with the kernel mirrored in
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
    """`flax.linen.Dense` over the channels of every pixel.

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
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
        y = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)
        return add_bias(y, bias)
