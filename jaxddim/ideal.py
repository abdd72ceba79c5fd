r"""Denoisers that are known in closed form: what a perfect network would answer.

For data that are n points x_i with weights w_i, each blurred by a Gaussian of deviation c,

    x_t - alpha_t x_i ~ N(0, r^2),   r^2 = alpha_t^2 c^2 + sigma_t^2,
    p(i | x_t) = softmax_i( log w_i - |x_t - alpha_t x_i|^2 / (2 r^2) ),
    E[x_0 | x_t] = (sigma_t^2 sum_i p(i | x_t) x_i + alpha_t c^2 x_t) / r^2.

With c = 0 the data are a finite set, such as the training images; with c > 0 a Gaussian mixture.

For images as a Gaussian, with their mean image and the variance s_k^2 of each coefficient k of an
orthonormal basis (cosines in both directions, and the principal axes of colour),

    E[x_0 | x_t]_k = mean_k + g_k (x_t - alpha_t mean)_k,
    g_k = alpha_t s_k^2 / (alpha_t^2 s_k^2 + sigma_t^2),

the Wiener filter, whose error has the variance ``s_k^2 / (1 + SNR_t s_k^2)``.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from jaxddim import checks
from jaxddim.numerics import images, number, whole_number
from jaxddim.predictions import from_x0
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Prediction

BLOCK = 1024
FLOOR = 1e-7
"""The least variance of a coefficient: that of rounding to 8 bits is 5e-6."""


def exact_denoiser(
    schedule: Schedule,
    data: ArrayLike,
    *,
    std: float = 0.0,
    weights: ArrayLike | None = None,
    block: int = BLOCK,
) -> DenoiseFn:
    """The posterior mean of a finite data set, or of a mixture of Gaussians around its points.

    It is what a network trained for ever on these data would answer; what it samples are the data
    themselves (with std = 0), so it shows the error of a sampler alone.

    Args:
      schedule: the noise schedule.
      data: the points, [n, *d], any float type; on a CPU also memory-mapped.
      std: deviation of the Gaussian around each point; 0 for the points themselves.
      weights: their probabilities, [n], up to a factor; None for equal ones.
      block: points that are compared at a time. Memory is that of b x block numbers, and of one
        block in float32.
    Returns:
      A denoise_fn for `sample`, `encode` and the others. At t = 0 the pair is x itself and the eps
      of t = 1, as from `as_denoiser`.
    Raises:
      ValueError: when the data hold integers or nothing, std is negative, weights are not [n] or
        not positive, block is below 1; at the first call, when x has other dimensions.
    Source: arXiv 2206.00364, appendix B.3, eq. 57.
    Example:
      >>> import jaxddim
      >>> data = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
      >>> denoise_fn = exact_denoiser(jaxddim.cosine(), data)
      >>> denoise_fn(jnp.array([[0.9, 0.1]]), 100).x0.round(3).tolist()
      [[1.0, 0.0]]
    """
    checks.schedule(schedule)
    std = number(std, "std", "be at least 0", lambda std: std >= 0)
    block = whole_number(block, "block")
    if not np.ndim(data) or not len(data):  # type: ignore[arg-type]
        raise ValueError(f"data must be points [n, *d], got {checks.described(data)}")
    (points,) = images(_narrower(jnp.result_type(data), schedule.dtype), data=data)
    n, shape = len(points), points.shape[1:]
    logits = (
        jnp.zeros(n, schedule.dtype)
        if weights is None
        else _log_weights(weights, n, schedule.dtype)
    )
    block = min(block, n)
    padding = -n % block
    center = jnp.mean(points, 0, dtype=schedule.dtype)
    blocks = jnp.pad(points, [(0, padding)] + [(0, 0)] * len(shape)).reshape(-1, block, *shape)
    log_weights = jnp.pad(logits, (0, padding), constant_values=-jnp.inf).reshape(-1, block)

    def denoise_fn(x: jax.Array, t: jax.Array) -> Prediction:
        checks.times(t, schedule.num_steps)
        (x,) = images(schedule.dtype, x=x)
        if x.shape[1:] != shape:
            raise ValueError(f"the data are [n, {', '.join(map(str, shape))}], x is {x.shape}")
        at = jnp.maximum(jnp.asarray(t, jnp.int32), 1)
        alpha, sigma = schedule.scales(jnp.broadcast_to(at, x.shape[:1]), 2)
        r2 = (alpha * std) ** 2 + sigma**2
        y = (x - jnp.reshape(alpha, (-1, *[1] * len(shape))) * center).reshape(len(x), -1)
        product = functools.partial(jnp.matmul, precision="highest")

        def add(carry, part):
            high, total, mean = carry
            z = (part[0].astype(x.dtype) - center).reshape(block, -1)
            distance = jnp.sum(y * y, 1, keepdims=True) - 2 * alpha * product(y, z.T)
            distance = distance + alpha**2 * jnp.sum(z * z, 1)
            logit = part[1] - distance / (2 * r2)
            new = jnp.maximum(high, jnp.max(logit, 1, keepdims=True))
            scale, p = jnp.exp(high - new), jnp.exp(logit - new)
            total = scale * total + jnp.sum(p, 1, keepdims=True)
            return (new, total, scale * mean + product(p, z)), None

        low = jnp.full((len(x), 1), jnp.finfo(x.dtype).min, x.dtype)
        start = (low, jnp.zeros_like(low), jnp.zeros_like(y))
        (_, total, mean), _ = lax.scan(add, start, (blocks, log_weights))
        x0 = (sigma**2 * mean / total + alpha * std**2 * y) / r2
        x0 = x0.reshape(x.shape) + center
        pair = from_x0(schedule, x, x0, at)
        clean = jnp.reshape(jnp.asarray(t) == 0, np.shape(t) + (1,) * (x.ndim - np.ndim(t)))
        return Prediction(jnp.where(clean, x, pair.x0), pair.eps)

    return denoise_fn


def _narrower(given: DTypeLike, most: DTypeLike) -> DTypeLike:
    """The given type, for floats at most as wide as `most`; for integers too, which are refused."""
    wide = jnp.issubdtype(given, jnp.floating) and jnp.finfo(given).bits > jnp.finfo(most).bits
    return most if wide else given


def _log_weights(weights: ArrayLike, n: int, dtype: DTypeLike) -> jax.Array:
    known = checks.concrete(weights)
    if np.shape(weights) != (n,) or (known is not None and not np.all(known > 0)):
        raise ValueError(
            f"weights must be {n} positive numbers, one for each point, got "
            f"{checks.described(weights)}"
        )
    return jnp.log(jnp.asarray(weights, dtype))


class Moments(NamedTuple):
    """Mean and variances of images, in the basis of cosines and the principal axes of colour.

    Attributes:
      mean: the mean image, float32 [h, w, c].
      colours: the axes of colour as columns, float32 [c, c], orthonormal.
      variance: of each coefficient, float32 [h, w, c]: [k, l, a] is that of the cosine with k half
        waves down and l across, on axis a.
    """

    mean: np.ndarray
    colours: np.ndarray
    variance: np.ndarray

    @property
    def std(self) -> float:
        """Root mean square deviation of a pixel from the mean image."""
        return float(np.sqrt(np.mean(self.variance, dtype=np.float64)))


def moments(data: np.ndarray, *, flip: bool = False) -> Moments:
    """The moments of images, in float64 by blocks.

    Args:
      data: images [n, h, w, c], uint8 or floats in [-1, 1]; may be memory-mapped.
      flip: whether each image counts with its mirror image, as in training with flips.
    Returns:
      The Moments.
    Raises:
      ValueError: when data are no such images, or there are none.
    Example:
      >>> found = moments(np.random.default_rng(0).normal(size=(100, 4, 4, 3)))
      >>> found.mean.shape, found.variance.shape, round(found.std, 1)
      ((4, 4, 3), (4, 4, 3), 1.0)
    """
    if np.ndim(data) != 4 or not data.size or (data.dtype != np.uint8 and data.dtype.kind != "f"):
        raise ValueError(
            f"moments takes images [n, h, w, c], uint8 or floats, got {checks.described(data)}"
        )
    _, height, width, channels = data.shape
    n, mean = len(data), np.zeros(data.shape[1:])
    for part in _scaled(data):
        mean += part.sum(0) / n
    if flip:
        mean = (mean + mean[:, ::-1]) / 2
    deviations = lambda: (part - mean for part in _scaled(data))  # noqa: E731
    pixels = (part.reshape(-1, channels) for part in deviations())
    _, colours = np.linalg.eigh(sum(part.T @ part for part in pixels))
    down, across = cosines(height), cosines(width)
    coefficients = (
        np.einsum("ki,nija,lj->nkla", down, part @ colours, across, optimize=True)
        for part in deviations()
    )
    variance = sum(np.square(part).sum(0) for part in coefficients) / n
    found = mean, colours, np.maximum(variance, FLOOR)
    return Moments(*(np.asarray(array, np.float32) for array in found))


def cosines(n: int) -> np.ndarray:
    """The orthonormal cosines of n samples as rows (DCT-II), float64 [n, n]."""
    k, i = np.arange(n)[:, None], np.arange(n)
    return np.cos(np.pi * k * (i + 0.5) / n) * np.sqrt(np.where(k == 0, 1, 2) / n)


def _scaled(data: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of the images as float64 in [-1, 1]."""
    for start in range(0, len(data), BLOCK):
        part = np.asarray(data[start : start + BLOCK])
        yield part / 127.5 - 1 if part.dtype == np.uint8 else part.astype(np.float64)


def gaussian_x0(schedule: Schedule, of: Moments, x_t: jax.Array, t: ArrayLike) -> jax.Array:
    """E[x_0 | x_t] for Gaussian images with these moments.

    Args:
      schedule: the noise schedule.
      of: the images' moments.
      x_t: noisy images, [b, h, w, c].
      t: int32 times in 0..T, scalar or [b].
    Returns:
      Float32 [b, h, w, c].
    Raises:
      ValueError: when the shapes differ, or x_t holds integers.
    Source: N. Wiener's filter; arXiv 2412.09726 on how far it explains trained networks.
    Example:
      >>> import jaxddim
      >>> found = moments(np.random.default_rng(0).normal(size=(100, 4, 4, 3)))
      >>> x = jnp.ones((2, 4, 4, 3))
      >>> gaussian_x0(jaxddim.cosine(), found, x, 0).round(2)[0, 0, 0].tolist()
      [1.0, 1.0, 1.0]
    """
    (x_t,) = images(schedule.dtype, x_t=x_t)
    if x_t.shape[1:] != of.mean.shape:
        raise ValueError(f"the moments are of images {of.mean.shape}, x_t is {x_t.shape}")
    alpha, sigma = schedule.scales(t, x_t.ndim)
    down, across = (jnp.asarray(cosines(n), x_t.dtype) for n in of.mean.shape[:2])
    product = functools.partial(jnp.einsum, precision="highest")
    z = product("nija,ab->nijb", x_t - alpha * of.mean, of.colours)
    z = product("ki,nijb,lj->nklb", down, z, across)
    z = z * (alpha * of.variance / (alpha**2 * of.variance + sigma**2))
    z = product("ki,nklb,lj->nijb", down, z, across)
    return product("nijb,ab->nija", z, of.colours) + of.mean


def gaussian_error(of: Moments, log_snr: jax.Array) -> jax.Array:
    """Variance of a pixel of x_0 about `gaussian_x0`: the mean of ``s_k^2 / (1 + SNR s_k^2)``.

    Example:
      >>> found = moments(np.random.default_rng(0).normal(size=(1000, 4, 4, 1)))
      >>> round(float(gaussian_error(found, jnp.float32(0.0))), 2)
      0.5
    """
    snr = jnp.exp(log_snr)[..., None]
    variance = of.variance.reshape(-1)
    return jnp.mean(1 / (1 / variance + snr), -1)
