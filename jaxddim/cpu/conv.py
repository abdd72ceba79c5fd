"""Convolutions that on CPU use an exact form (algorithm) chosen by their static shape.

A convolution, y = F(x, k), and the two halves of its gradient belong together. For any y',

    <y', F(x, k)> = <G(y', k), x> = <H(x, y'), k>,

so F, G (gradient of the input) and H (gradient of the kernel) are closed under differentiation:
the gradient of each with respect to an operand is another of the three. On CPU each uses the form
that `forms.py` chooses for the layer; elsewhere they are `lax.conv_general_dilated` and its own
derivatives, unchanged.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad

from jaxddim.cpu import forms
from jaxddim.cpu.primitives import by_platform


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


def _spread(
    form: Callable[..., jax.Array],
    a: jax.Array,
    b: jax.Array,
    *,
    layer: forms.Layer,
    devices: int,
) -> jax.Array:
    return form(a, b, layer=layer._replace(devices=devices))


def _family(name: str, plain: Callable[..., jax.Array], cpu: Callable[..., jax.Array]) -> Primitive:
    return by_platform(name, plain, cpu, several=partial(_spread, cpu))


_conv_p = _family("conv", _plain, _cpu)
_conv_input_p = _family("conv_input_gradient", _plain_input, _cpu_input)
_conv_kernel_p = _family("conv_kernel_gradient", _plain_kernel, _cpu_kernel)
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
    """`lax.conv_general_dilated` or `lax.conv_transpose`; on CPU in the form chosen for the layer.

    Args:
      x: `[b, h, w, c]`.
      kernel: `[kh, kw, c, d]`, of the same type.
      strides: of the kernel over rows and columns.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      transposed: whether to compute `lax.conv_transpose`.
    Returns:
      `[b, h', w', d]`.
    Example:
      >>> import jax.numpy as jnp
      >>> conv(jnp.ones([2, 8, 8, 3]), jnp.ones([3, 3, 3, 5]), strides=(2, 2)).shape
      (2, 4, 4, 5)
    """
    layer = forms.Layer(x.shape, kernel.shape, strides, padding, transposed, x.dtype.itemsize >= 4)
    if _is_manual(x) or _is_manual(kernel):
        return forms.direct(layer, x, kernel)
    return _conv_p.bind(x, kernel, layer=layer)


def _is_manual(a: jax.Array) -> bool:
    """Whether a varies over the devices of a surrounding jax.shard_map that checks this."""
    aval = jax.typeof(a)
    return bool(getattr(aval, "vma", ()) or getattr(getattr(aval, "mat", None), "varying", ()))
