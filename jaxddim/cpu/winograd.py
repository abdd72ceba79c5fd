"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3).

Four outputs of a 1-D convolution with three taps are the product of two polynomials, which is
determined by its values at six points. With the matrices B^T, G and A^T that evaluate the data,
evaluate the kernel, and interpolate,

    y = A^T [(G k) * (B^T x)],      * elementwise: 6 products instead of 12,

and in two dimensions, on tiles of 4x4 outputs that see 6x6 inputs and overlap by two,

    Y = A^T [ sum_c (G k_c G^T) * (B^T x_c B) ] A,      36 products instead of 144.

The sums over channels at each of the 36 positions are matrix products, `[tiles, c] [c, d]`. The
rest is additions, at the cost of memory: the transformed tiles take 36 / 16 times the data's size,
a transformed kernel four times its own. So one of them is processed in pieces that fit in cache,
which doubles the speed: the batch in chunks of images, or a large kernel in blocks of channels.

The six points are 0, +-5/8, +-3/2 and infinity. Their error is less than half that of the usual
0, +-1, +-2: in float32, 2.5 to 5 times that of the direct sum, relative to float64.

Source: arXiv 1509.09308; on points and error arXiv 1803.10986.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CACHE = 10e6
"""Maximum bytes of the transformed images of a chunk, or of a block of the transformed kernel."""

_POINTS = (0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T [4, 6], G [6, 3] and B^T [6, 6] for the points and infinity (Toom-Cook)."""
    others = [[q for q in _POINTS if q != p] for p in _POINTS]
    scale = [np.prod([p - q for q in rest]) for p, rest in zip(_POINTS, others, strict=True)]
    powers = np.vander(_POINTS, 4, increasing=True)
    a = np.vstack([powers, [0, 0, 0, 1]])
    g = np.vstack([powers[:, :3] / np.array(scale)[:, None], [0, 0, 1]])
    b = np.array([np.pad(np.poly(rest)[::-1], (0, 1)) for rest in others])
    b = np.vstack([b, np.poly(_POINTS)[::-1]])
    return a.T, g, b


_AT, _G, _BT = _matrices()


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array], axis: int = 0) -> jax.Array:
    """The rows of a small matrix times a list of arrays, stacked."""

    @functools.cache
    def full(weight: float) -> jax.Array:
        return lax.full_like(parts[0], weight)

    def times(part: jax.Array, weight: float) -> jax.Array:
        return part if weight == 1 else lax.mul(part, full(weight))

    rows = (
        functools.reduce(lax.add, [times(p, w) for w, p in zip(row, parts, strict=True) if w])
        for row in matrix.tolist()
    )
    return jnp.stack(list(rows), axis)


def _data(x: jax.Array) -> jax.Array:
    """B^T x B of every tile: `[b, h, w, c] -> [36, tiles, c]`."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 3), (1, 3), (0, 0))).reshape(b, h // 4 + 1, 4, w + 4, c)
    x = _combine(_BT, [x[:, i // 4 :, i % 4][:, : h // 4] for i in range(6)])
    x = x.reshape(6, b, h // 4, w // 4 + 1, 4, c)
    x = _combine(_BT, [x[:, :, :, j // 4 :, j % 4][:, :, :, : w // 4] for j in range(6)], 1)
    return x.reshape(36, -1, c)


def _kernel(k: jax.Array) -> jax.Array:
    """G k G^T: `[3, 3, c, d] -> [36, c, d]`."""
    rows = _combine(_G, jnp.unstack(k))
    return _combine(_G, jnp.unstack(rows, axis=1), 1).reshape(36, *k.shape[2:])


def _kernel_adjoint(u: jax.Array) -> jax.Array:
    """G^T u G: `[36, c, d] -> [3, 3, c, d]`."""
    u = u.reshape(6, 6, *u.shape[1:])
    rows = _combine(_G.T, jnp.unstack(u))
    return _combine(_G.T, jnp.unstack(rows, axis=1), 1)


def _output(m: jax.Array, b: int, h: int, w: int) -> jax.Array:
    """A^T m A of every tile: `[36, tiles, d] -> [b, h, w, d]`."""
    m = m.reshape(6, 6, b, h // 4, w // 4, -1)
    m = _combine(_AT, jnp.unstack(m), 3)
    return _combine(_AT, jnp.unstack(m), 4).reshape(b, h, w, -1)


def _output_adjoint(y: jax.Array) -> jax.Array:
    """A y A^T of every tile: `[b, h, w, d] -> [36, tiles, d]`."""
    b, h, w, d = y.shape
    y = y.reshape(b, h // 4, 4, w // 4, 4, d)
    y = _combine(_AT.T, jnp.unstack(y, axis=2))
    return _combine(_AT.T, jnp.unstack(y, axis=4), 1).reshape(36, -1, d)


def _divisor(of: int, most: float) -> int:
    return max(n for n in range(1, of + 1) if of % n == 0 and n <= max(most, 1))


def _chunks(x: jax.Array, d: int, whole: bool, least: int = 1) -> jax.Array:
    """`[b, h, w, c] -> [b / n, n, h, w, c]` with as large an n as the cache allows, or n = b."""
    b, h, w, c = x.shape
    fit = CACHE / (36 / 16 * x.dtype.itemsize * h * w * (c + d))
    n = b if whole else _divisor(b, max(fit, least))
    return x.reshape(b // n, n, h, w, c)


def is_large(k: tuple[int, ...]) -> bool:
    """Whether a float32 kernel `[3, 3, c, d]`, once transformed, is too large for the cache."""
    return 36 * 4 * k[2] * k[3] > CACHE


def _blocks(
    f: Callable[[jax.Array], jax.Array], a: jax.Array, axis: int, other: int, y: jax.Array, to: int
) -> jax.Array:
    """Writes f(block) into y for each block of a's channels.

    Args:
      f: a function of a block of a's channels; its result has these channels only.
      a: is split along `axis`.
      axis: of a's channels.
      other: number of channels on the kernel's other side, which limits the size of a block.
      y: is overwritten.
      to: the axis of y for a's channels.
    """
    n = _divisor(a.shape[axis], CACHE / (36 * a.dtype.itemsize * other))

    def block(i: jax.Array, y: jax.Array) -> jax.Array:
        part = f(lax.dynamic_slice_in_dim(a, i * n, n, axis))
        return lax.dynamic_update_slice_in_dim(y, part, i * n, to)

    return lax.fori_loop(0, a.shape[axis] // n, block, y)


def _dot(a: jax.Array, b: jax.Array, i: int, j: int) -> jax.Array:
    """At each of the 36 positions, the product over a's axis i and b's axis j."""
    return lax.dot_general(a, b, (((i,), (j,)), ((0,), (0,))))


@functools.partial(jax.jit, static_argnums=2)
def forward(x: jax.Array, k: jax.Array, devices: int = 1) -> jax.Array:
    """The convolution with padding 1: `[b, h, w, c]`, `[3, 3, c, d]` -> `[b, h, w, d]`.

    Args:
      x: images; height and width must be multiples of 4.
      k: the kernel.
      devices: number of devices that the images are spread over; if there are several, each takes
        its own at once, as it would otherwise compute every chunk.
    """
    (b, h, w, c), d = x.shape, k.shape[3]
    if is_large(k.shape):
        data, y = _data(x), jnp.zeros((b, h, w, d), x.dtype)
        return _blocks(lambda k: _output(_dot(data, _kernel(k), 2, 1), b, h, w), k, 3, c, y, 3)
    u = _kernel(k)
    chunks = lax.map(
        lambda x: _output(_dot(_data(x), u, 2, 1), *x.shape[:3]), _chunks(x, d, devices > 1)
    )
    return chunks.reshape(b, h, w, d)


def input_gradient(y: jax.Array, k: jax.Array, devices: int = 1) -> jax.Array:
    """Gradient of `forward` in x, for y of the output's shape: `forward` of the mirrored kernel."""
    if is_large(k.shape):  # without transposing the kernel's channels
        (b, h, w, d), c = y.shape, k.shape[2]
        data, x = _data(y), jnp.zeros((b, h, w, c), y.dtype)

        def block(k: jax.Array) -> jax.Array:
            return _output(_dot(data, _kernel(k[::-1, ::-1]), 2, 2), b, h, w)

        return _blocks(block, k, 2, d, x, 3)
    return forward(y, k[::-1, ::-1].swapaxes(2, 3), devices)


def kernel_gradient(x: jax.Array, y: jax.Array, devices: int = 1) -> jax.Array:
    """Gradient of `forward` in k: `[b, h, w, c]`, `[b, h, w, d]` -> `[3, 3, c, d]`.

    Of several devices, each computes that of its images, before they are added.
    """
    if devices > 1 and x.shape[0] % devices == 0:
        x, y = (a.reshape(devices, -1, *a.shape[1:]) for a in (x, y))
        return jnp.sum(jax.vmap(functools.partial(_kernel_gradient, whole=True))(x, y), 0)
    return _kernel_gradient(x, y, whole=devices > 1)


def _kernel_gradient(x: jax.Array, y: jax.Array, whole: bool) -> jax.Array:
    c, d = x.shape[3], y.shape[3]
    k = 3, 3, c, d
    if is_large(k):
        data, output = _data(x).swapaxes(1, 2), _output_adjoint(y)

        def block(data: jax.Array) -> jax.Array:
            return _kernel_adjoint(_dot(data, output, 2, 1))

        return _blocks(block, data, 1, d, jnp.zeros(k, x.dtype), 2)

    def add(u: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, y = chunk
        return u + _dot(_data(x), _output_adjoint(y), 1, 1), None

    chunks = _chunks(x, d, whole, least=2), _chunks(y, c, whole, least=2)
    u, _ = lax.scan(add, jnp.zeros((36, c, d), x.dtype), chunks)
    return _kernel_adjoint(u)
