"""A network as a denoiser: called with the 0-based index t - 1, and its output made a pair.

The pair's x_0 may be limited to the range of images, by `clip` or by `threshold`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import images, number
from jaxddim.predictions import FROM, check_kind, from_x0
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Kind, LearnedPrediction, Made, NetworkFn, Prediction


def clip(
    schedule: Schedule,
    x_t: jax.Array,
    prediction: Prediction,
    t: ArrayLike,
    *,
    low: float = -1.0,
    high: float = 1.0,
) -> Prediction:
    """The prediction with x_0 clipped to [low, high] and eps re-derived from x_t.

    Args:
      schedule: the noise schedule.
      x_t: the noisy images that the prediction was made for, [b, *d]; never clipped themselves.
      prediction: the pair to clip.
      t: int32 times in 0..T, scalar or [b].
      low: smallest value of x_0; may be traced.
      high: largest value of x_0; may be traced.
    Returns:
      A consistent Prediction.
    Raises:
      ValueError: when low is not below high, the pair does not have the shape of x_t, or an array
        holds integers.
    Example:
      >>> import jaxddim
      >>> x = jnp.full((1, 4), 9.0)
      >>> pair = from_x0(jaxddim.linear(), x, x, 500)
      >>> float(clip(jaxddim.linear(), x, pair, 500).x0.max())
      1.0
    """
    low, high = (
        number(value, name, "be a number", lambda x: x == x)
        for name, value in (("low", low), ("high", high))
    )
    known = not isinstance(low, jax.Array) and not isinstance(high, jax.Array)
    if known and not np.all(np.less(low, high)):
        raise ValueError(f"low must be below high, got low={low}, high={high}")
    checks.schedule(schedule)
    checks.pair(prediction, np.shape(x_t))
    (x0,) = images(schedule.dtype, x0=prediction[0])
    return from_x0(schedule, x_t, jnp.clip(x0, low, high), t)


def threshold(
    schedule: Schedule,
    x_t: jax.Array,
    prediction: Prediction,
    t: ArrayLike,
    *,
    quantile: float = 0.995,
) -> Prediction:
    """Dynamic thresholding: x_0 clipped to each image's quantile, then scaled back to [-1, 1].

    With s the quantile of abs(x_0) over one image, or 1 if that is larger, x_0 becomes
    ``clip(x_0, -s, s) / s``; eps is re-derived from x_t.

    Args:
      schedule: the noise schedule.
      x_t: the noisy images that the prediction was made for, [b, *d].
      prediction: the pair to threshold.
      t: int32 times in 0..T, scalar or [b].
      quantile: in (0, 1]; may be traced.
    Returns:
      A consistent Prediction with x0 in [-1, 1].
    Raises:
      ValueError: when quantile lies outside (0, 1], x_0 is a single vector, the pair does not have
        the shape of x_t, or an array holds integers.
    Source: arXiv 2205.11487, section 2.3.
    Example:
      >>> import jaxddim
      >>> x = jnp.linspace(-3, 3, 8)[None]
      >>> pair = from_x0(jaxddim.linear(), x, x, 500)
      >>> float(threshold(jaxddim.linear(), x, pair, 500).x0.max())
      1.0
    """
    quantile = number(quantile, "quantile", "lie in (0, 1]", lambda q: (q > 0) & (q <= 1))
    checks.schedule(schedule)
    checks.pair(prediction, np.shape(x_t))
    (x0,) = images(schedule.dtype, x0=prediction[0])
    if x0.ndim < 2:
        raise ValueError(f"threshold takes images [b, *d], got shape {x0.shape}")
    axes = tuple(range(1, x0.ndim))
    s = jnp.maximum(jnp.quantile(jnp.abs(x0), quantile, axis=axes, keepdims=True), 1.0)
    return from_x0(schedule, x_t, jnp.clip(x0, -s, s) / s, t)


def as_denoiser(
    schedule: Schedule,
    apply_fn: NetworkFn,
    *,
    kind: Kind = "eps",
    clip_x0: bool = True,
    learned_variance: bool = False,
) -> DenoiseFn:
    """Makes ``denoise_fn(x, t) -> Prediction`` from a network.

    The network is called with the 0-based index t - 1 as int32 [b], which is what every published
    DDPM and DDIM checkpoint was trained with. At t = 0, for which no network is trained, it is
    asked as at t = 1; the pair is then x itself and that eps, so that a method may evaluate the end
    of its last step, as Heun's does.

    Args:
      schedule: the noise schedule that the network was trained with.
      apply_fn: ``apply_fn(x, index) -> output``, with parameters, conditioning and guidance
        closed over; the output has the shape of x and is converted to float32. (This is not the
        ``apply`` that `train_step` takes, which gets the variables and the training options.)
      kind: what the network was trained to output: "eps", "x0", "v" or "score".
      clip_x0: clip x_0 to [-1, 1] and re-derive eps. Use it to sample images, never for
        `encode`: clipping breaks its path. Without it, an eps- or score-network needs a grid that
        ends where alpha is not yet near 0: see `safe_fraction`.
      learned_variance: the output has twice the channels, [b, .., 2 c], the second half for the
        variance of `learned_step`.
    Returns:
      A denoise_fn for `integrate`, `sample`, `encode` and `decode`.
    Raises:
      ValueError: for an unknown kind; for an eps- or score-network on a schedule with zero
        terminal SNR; when apply_fn is no such function; at the first call, for an output that
        is not one array of the shape of x, or a time that is not traced and outside 0..T.
    Example:
      >>> import jaxddim
      >>> schedule = jaxddim.linear()
      >>> denoise_fn = as_denoiser(schedule, lambda x, index: 0 * x)
      >>> denoise_fn(jnp.ones((2, 4, 4, 3)), jnp.int32(500)).x0.shape
      (2, 4, 4, 3)
    """
    checks.schedule(schedule)
    check_kind(kind, schedule)
    checks.network(apply_fn)

    def denoise_fn(x: jax.Array, t: jax.Array) -> Any:
        checks.times(t, schedule.num_steps)
        at = jnp.maximum(jnp.asarray(t, jnp.int32), 1)
        index = jnp.broadcast_to(at - 1, x.shape[:1])
        output, fraction = apply_fn(x, index), None
        if learned_variance:
            output, fraction = halves(output, x.shape)
        prediction = FROM[kind](schedule, x, output, at)
        x0, eps = clip(schedule, x, prediction, at) if clip_x0 else prediction
        clean = jnp.reshape(jnp.asarray(t) == 0, np.shape(t) + (1,) * (x.ndim - np.ndim(t)))
        pair = Prediction(jnp.where(clean, x.astype(x0.dtype), x0), eps)
        return pair if fraction is None else LearnedPrediction(*pair, fraction)

    vars(denoise_fn)["made"] = Made(kind, clip_x0)
    return denoise_fn


def halves(output: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The output for images of this shape, and the fraction ``(v + 1) / 2`` of a learned variance.

    Example:
      >>> first, fraction = halves(jnp.ones((1, 2, 2, 6)), (1, 2, 2, 3))
      >>> first.shape, float(fraction.max())
      ((1, 2, 2, 3), 1.0)
    """
    checks.output(output, (*shape[:-1], 2 * shape[-1]))
    first, second = jnp.split(output, 2, axis=-1)
    return first, (second.astype(jnp.float32) + 1) / 2
