"""The forms (algorithms) of a convolution on CPU, and which layer uses which.

direct          XLA's: nearly as fast as large matrix products, except in the cases below.
pointwise       a 1x1 kernel: one matrix product.
winograd        see `winograd.py`.
columns         for wide layers on few pixels, whose kernel takes longer to transpose (as XLA does
                before G) than to multiply with: products with the kernel as it is, one per tap,
                `[k k c, d] [d, n]` for G, whose results are shifted into place and added, and
                `[k k c, n] [n, d]` for H if the layer is four times as wide.
space_to_depth  stride s, for which XLA's G multiplies mostly zeros: each s x s square of pixels
                becomes channels, which leaves a kernel of k / s taps with stride 1.
phases          the transposed 4x4 convolution with stride 2: an output pixel depends on 2x2 inputs,
                through one of four 2x2 sub-kernels (row and column odd or even). With x padded by
                one, position j of a 2x2 window gives the output rows 2 j - 1 and 2 j,

                    y[2 j - 1 + a] = sum_{s = 0, 1} x[j - 1 + s] k[2 s + 1 - a],   a = 0, 1,

                and likewise for columns: one product `[n, 4 c] [4 c, 4 d]` computes all phases.
taps            the same for wide layers on few pixels: one product per tap, `[n, c] [c, d]`, with
                the kernel as it is; rows 2 i and 2 i + 1 are then each the sum of two of them.

All are exact: they add the same products in another order, or products of sums (winograd). Their
float32 error relative to float64 is at most 1.4 times that of the direct form, and Winograd's 2.5
to 5 times; `docs/convolutions.md` lists the error and the speed of each layer.

F, G and H are a convolution and its gradients, see `conv.py`.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxddim.cpu import winograd

Padding = str | tuple[tuple[int, int], tuple[int, int]]
_NHWC = ("NHWC", "HWIO", "NHWC")


class Layer(NamedTuple):
    """The static description of a convolution: shapes, strides and padding.

    Attributes:
      x: shape of the input, [b, h, w, c].
      kernel: shape of the kernel, [kh, kw, c, d].
      strides: of the kernel over the image, (rows, columns).
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      transposed: whether it is `lax.conv_transpose`, which strides over the output.
      precise: whether the dtype is float32 or wider.
      devices: number of devices that the batch is spread over.
    """

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, int]
    padding: Padding
    transposed: bool
    precise: bool
    devices: int = 1

    @property
    def y(self) -> tuple[int, ...]:
        """Shape of the output, [b, h', w', d]."""
        f32 = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        return jax.eval_shape(partial(direct, self), f32(self.x), f32(self.kernel)).shape

    @property
    def pads(self) -> list[tuple[int, int]]:
        """Padding of rows and of columns (if the convolution is not transposed)."""
        if not isinstance(self.padding, str):
            return list(self.padding)
        return lax.padtype_to_pads(self.x[1:3], self.kernel[:2], self.strides, self.padding)


# Forms: functions of (layer, x, kernel)


def direct(layer: Layer, x: jax.Array, k: jax.Array) -> jax.Array:
    conv = lax.conv_transpose if layer.transposed else lax.conv_general_dilated
    return conv(x, k, layer.strides, layer.padding, dimension_numbers=_NHWC)


def _pointwise(layer: Layer, x: jax.Array, k: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    return (x.reshape(-1, c) @ k.reshape(c, -1)).reshape(b, h, w, -1)


def _phases(layer: Layer, x: jax.Array, k: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [padded[:, i : i + h + 1, j : j + w + 1] for i in (0, 1) for j in (0, 1)]
    windows = jnp.concatenate(corners, axis=-1).reshape(-1, 4 * c)
    phases = k.reshape(2, 2, 2, 2, c, -1)[:, ::-1, :, ::-1]  # row, phase, column, phase
    phases = phases.transpose(0, 2, 4, 1, 3, 5).reshape(4 * c, -1)
    y = (windows @ phases).reshape(b, h + 1, w + 1, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h + 2, 2 * w + 2, -1)[:, 1:-1, 1:-1]


def _taps(layer: Layer, x: jax.Array, k: jax.Array) -> jax.Array:
    (b, h, w, c), d = x.shape, k.shape[3]
    pixels = x.reshape(-1, c)
    taps = [pixels @ tap for tap in lax.split(k.reshape(16 * c, d), [c] * 16)]
    taps = [tap.reshape(b, h, w, d) for tap in taps]

    def interleave(taps: list[jax.Array], axis: int) -> jax.Array:  # 2 i and 2 i + 1
        def shift(tap: jax.Array, by: int) -> jax.Array:
            pads = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(tap.ndim)]
            return lax.pad(tap, jnp.zeros((), tap.dtype), pads)

        even, odd = taps[2] + shift(taps[0], 1), taps[1] + shift(taps[3], -1)
        return jnp.stack([even, odd], axis + 1)

    rows = [interleave(taps[i : i + 4], 2) for i in range(0, 16, 4)]
    return interleave(rows, 1).reshape(b, 2 * h, 2 * w, d)


def _space_to_depth(layer: Layer, x: jax.Array, k: jax.Array) -> jax.Array:
    (sh, sw), (kh, kw, c, d) = layer.strides, k.shape
    x = jnp.pad(x, ((0, 0), *layer.pads, (0, 0)))
    b, h, w, _ = x.shape
    x = x.reshape(b, h // sh, sh, w // sw, sw, c).transpose(0, 1, 3, 2, 4, 5)
    k = k.reshape(kh // sh, sh, kw // sw, sw, c, d).transpose(0, 2, 1, 3, 4, 5)
    x, k = x.reshape(*x.shape[:3], -1), k.reshape(*k.shape[:2], -1, d)
    return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=_NHWC)


def _columns_input(layer: Layer, y: jax.Array, k: jax.Array) -> jax.Array:
    (kh, kw, c, d), (b, h, w, _), (sh, sw) = k.shape, y.shape, layer.strides
    taps = lax.dot_general(k.reshape(-1, d), y.reshape(-1, d), (((1,), (1,)), ((), ())))
    taps = taps.reshape(kh, kw, c, b, h, w).transpose(0, 1, 3, 4, 5, 2)
    (top, _), (left, _) = layer.pads
    height, width = layer.x[1:3]

    def place(tap: jax.Array, i: int, j: int) -> jax.Array:
        low, step = (i - top, j - left), (sh - 1, sw - 1)
        ends = (i - top + (h - 1) * sh, j - left + (w - 1) * sw)
        high = (height - 1 - ends[0], width - 1 - ends[1])
        config = ((0, 0, 0), *zip(low, high, step, strict=True), (0, 0, 0))
        return lax.pad(tap, jnp.zeros((), tap.dtype), config)

    placed = [place(taps[i, j], i, j) for i in range(kh) for j in range(kw)]
    return functools.reduce(jnp.add, placed)


def _columns_kernel(layer: Layer, x: jax.Array, y: jax.Array) -> jax.Array:
    (kh, kw, c, d), (sh, sw) = layer.kernel, layer.strides
    x = jnp.pad(x, ((0, 0), *layer.pads, (0, 0)))
    h, w = y.shape[1:3]
    taps = [
        x[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw].reshape(-1, c)
        for i in range(kh)
        for j in range(kw)
    ]
    columns = jnp.stack(taps)
    return lax.dot_general(columns, y.reshape(-1, d), (((1,), (0,)), ((), ()))).reshape(
        layer.kernel
    )


def _winograd(layer: Layer, x: jax.Array, k: jax.Array) -> jax.Array:
    return winograd.forward(x, k, layer.devices)


def _winograd_input(layer: Layer, y: jax.Array, k: jax.Array) -> jax.Array:
    return winograd.input_gradient(y, k, layer.devices)


def _winograd_kernel(layer: Layer, x: jax.Array, y: jax.Array) -> jax.Array:
    return winograd.kernel_gradient(x, y, layer.devices)


def _space_to_depth_input(layer: Layer, y: jax.Array, k: jax.Array) -> jax.Array:
    return gradient(_space_to_depth, 0, layer, y, k)


# Which layer is computed in which form


def _is_pointwise(layer: Layer) -> bool:
    trivial = layer.strides == (1, 1) and not any(map(any, layer.pads))
    return layer.kernel[:2] == (1, 1) and trivial and not layer.transposed


def _is_doubling(layer: Layer) -> bool:
    doubling = layer.strides == (2, 2) and layer.padding == "SAME"
    return layer.transposed and layer.kernel[:2] == (4, 4) and doubling


def _divides(layer: Layer) -> bool:
    padded = (size + sum(pad) for size, pad in zip(layer.x[1:3], layer.pads, strict=True))
    sizes = (*padded, *layer.kernel[:2])
    even = all(size % stride == 0 for size, stride in zip(sizes, layer.strides * 2, strict=True))
    return not layer.transposed and max(layer.strides) > 1 and even


def _is_wide_doubling(layer: Layer) -> bool:
    return _is_doubling(layer) and math.prod(layer.x[:3]) <= math.prod(layer.kernel[2:]) // 8


def _has_tiles(layer: Layer, least: int) -> bool:
    """Whether Winograd's form applies and has at least `least` tiles."""
    (b, h, w, _), (c, d) = layer.x, layer.kernel[2:]
    fits = layer.strides == (1, 1) and h % 4 == w % 4 == 0 and layer.precise
    padded_by_one = not layer.transposed and layer.pads == [(1, 1), (1, 1)]
    divides = c % 32 == d % 32 == 0 or not winograd.is_large(layer.kernel)
    enough = min(c, d) >= 16 and b * h * w // 16 >= least and divides
    return layer.kernel[:2] == (3, 3) and fits and padded_by_one and enough


def _is_wide(layer: Layer, times: int = 1) -> bool:
    b, h, w, d = layer.y
    return not layer.transposed and times * b * h * w <= d


def _is_wide_with_tiles(layer: Layer) -> bool:
    return _is_wide(layer) and _has_tiles(layer, 32) and winograd.is_large(layer.kernel)


class Form(NamedTuple):
    """How a kind of layer is computed on CPU; a gradient of None is derived from `forward`."""

    applies: Callable[[Layer], bool]
    forward: Callable[[Layer, jax.Array, jax.Array], jax.Array]
    input_gradient: Callable[[Layer, jax.Array, jax.Array], jax.Array] | None = None
    kernel_gradient: Callable[[Layer, jax.Array, jax.Array], jax.Array] | None = None


PLAIN = Form(lambda layer: True, direct)

FORMS: tuple[Form, ...] = (
    Form(_is_pointwise, _pointwise),
    Form(_is_wide_doubling, _taps),
    Form(_is_doubling, _phases),
    Form(partial(_has_tiles, least=64), _winograd, _winograd_input, _winograd_kernel),
    Form(_is_wide_with_tiles, direct, _columns_input, _winograd_kernel),
    Form(partial(_is_wide, times=4), direct, _columns_input, _columns_kernel),
    Form(_is_wide, direct, _columns_input),
    Form(_divides, direct, _space_to_depth_input),
    PLAIN,
)
"""The first that applies is used. `python -m benchmarks.convs` compares it with the direct form."""


def choose(layer: Layer) -> Form:
    """The form of a layer on CPU; XLA's own for a batch of any size."""
    if not all(isinstance(size, int) for size in layer.x):
        return PLAIN
    return next(form for form in FORMS if form.applies(layer))


def gradient(
    forward: Callable[..., jax.Array], operand: int, layer: Layer, a: jax.Array, b: jax.Array
) -> jax.Array:
    """The gradient of a form with respect to the input (from y', k) or the kernel (from x, y')."""
    shape = (layer.x, layer.kernel)[operand]
    linear = (lambda x: forward(layer, x, b)) if operand == 0 else (lambda k: forward(layer, a, k))
    y = a if operand == 0 else b
    like = jax.typeof(y).update(shape=shape)
    (gradient,) = jax.linear_transpose(linear, like)(y)
    return gradient
