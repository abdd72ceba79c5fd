r"""What a network predicts, and how each kind is converted to the pair (x_0, eps).

    kind    target                     pair from the output
    eps     eps                        x_0 = (x_t - sigma_t eps) / alpha_t
    x0      x_0                        eps = (x_t - alpha_t x_0) / sigma_t
    v       alpha_t eps - sigma_t x_0  x_0 = alpha_t x_t - sigma_t v, eps = sigma_t x_t + alpha_t v
    score   -eps / sigma_t             eps = -sigma_t score, then as for eps

The score is the gradient of log q(x_t | x_0). Every conversion goes through the
pair: to convert an eps-network's output to v, call `from_eps` and then `target`.

For sampling, `as_denoiser` applies these conversions to a network, and calls it with the
0-based index t - 1.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import images, number
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, LearnedPrediction, NetworkFn, Prediction

Kind = Literal["eps", "x0", "v", "score"]


class Made(NamedTuple):
    """What a denoiser was made with.

    Attributes:
      kind: what its network predicts.
      clip_x0: whether x_0 is clipped.
    """

    kind: Kind
    clip_x0: bool


def from_eps(schedule: Schedule, x_t: jax.Array, output: jax.Array, t: ArrayLike) -> Prediction:
    """The pair (x_0, eps) when the output is the noise eps.

    Args:
      schedule: the noise schedule.
      x_t: noisy images, [b, *d].
      output: the network's output, [b, *d], any float type; used in float32.
      t: int32 times in 0..T, scalar or [b].
    Returns:
      Prediction with x0 and eps, [b, *d] float32 each.
    Raises:
      ValueError: when the output does not have the shape of x_t, an array holds integers, or a time
        that is not traced lies outside 0..T or has an alpha of 0.
    Source: arXiv 2010.02502, eq. 9.
    Example:
      >>> import jaxddim
      >>> x = jnp.ones((2, 8))
      >>> from_eps(jaxddim.linear(), x, 0 * x, 0).x0.shape
      (2, 8)
    """
    x_t, eps = _floats(schedule, x_t, output, t)
    alpha, sigma = schedule.scales(t, x_t.ndim)
    known = checks.concrete(alpha)
    if known is not None and not np.all(known):
        raise ValueError(
            "where alpha is 0 (t = T of a schedule with zero terminal SNR) eps and the score say "
            'nothing about x_0: use kind="v" or kind="x0"'
        )
    return Prediction((x_t - sigma * eps) / alpha, eps)


def from_x0(schedule: Schedule, x_t: jax.Array, output: jax.Array, t: ArrayLike) -> Prediction:
    """The pair (x_0, eps) when the output is the clean image; eps is 0 at t = 0.

    Arguments and result as for `from_eps`.
    """
    x_t, x0 = _floats(schedule, x_t, output, t)
    alpha, sigma = schedule.scales(t, x_t.ndim)
    clean = sigma == 0
    eps = jnp.where(clean, 0.0, (x_t - alpha * x0) / jnp.where(clean, 1.0, sigma))
    return Prediction(x0, eps)


def from_v(schedule: Schedule, x_t: jax.Array, output: jax.Array, t: ArrayLike) -> Prediction:
    """The pair (x_0, eps) when the output is the velocity ``v = alpha_t eps - sigma_t x_0``.

    Arguments and result as for `from_eps`.

    Source: arXiv 2202.00512, section 4 and appendix D.
    """
    x_t, v = _floats(schedule, x_t, output, t)
    alpha, sigma = schedule.scales(t, x_t.ndim)
    return Prediction(alpha * x_t - sigma * v, sigma * x_t + alpha * v)


def from_score(schedule: Schedule, x_t: jax.Array, output: jax.Array, t: ArrayLike) -> Prediction:
    """The pair (x_0, eps) when the output is the score ``-eps / sigma_t``.

    Arguments and result as for `from_eps`.

    Source: arXiv 2011.13456, section 3.3.
    """
    x_t, score = _floats(schedule, x_t, output, t)
    _, sigma = schedule.scales(t, x_t.ndim)
    return from_eps(schedule, x_t, -sigma * score, t)


def _floats(schedule: Schedule, x_t: jax.Array, output: jax.Array, t: ArrayLike) -> list[jax.Array]:
    """x_t and the network's output in the schedule's type, after checks of shapes."""
    checks.schedule(schedule)
    checks.output(output, np.shape(x_t))
    checks.each(x_t.shape[0], t=t)
    return images(schedule.dtype, x_t=x_t, output=output)


FROM = {"eps": from_eps, "x0": from_x0, "v": from_v, "score": from_score}
"""The conversion of each kind."""


def check_kind(kind: str, schedule: Schedule | None = None) -> None:
    """Raises a ValueError for an unknown kind, or one that zero terminal SNR rules out."""
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(get_args(Kind))}")
    if schedule is None or kind not in ("eps", "score"):
        return
    checks.schedule(schedule)
    if isinstance(schedule.log_snr, jax.core.Tracer):
        return
    if np.asarray(schedule.log_snr)[-1] == -np.inf:
        raise ValueError(
            f"this schedule has zero terminal SNR: at t = T the input is pure noise, and "
            f'{kind!r} carries no information about the image; use kind="v" or kind="x0"'
        )


def target(
    kind: Kind, schedule: Schedule, x0: jax.Array, eps: jax.Array, t: ArrayLike
) -> jax.Array:
    """What a network of this kind is trained to output.

    Args:
      kind: "eps", "x0", "v" or "score".
      schedule: the noise schedule.
      x0: clean images, [b, *d].
      eps: the noise in x_t, [b, *d].
      t: int32 times in 1..T, scalar or [b].
    Returns:
      The target, float32 [b, *d].
    Raises:
      ValueError: for an unknown kind, when a time that is not traced lies outside 0..T (1..T for a
        score), or when x0 and eps differ in shape or hold integers.
    Example:
      >>> import jaxddim
      >>> x0, eps = jnp.zeros((2, 8)), jnp.ones((2, 8))
      >>> bool(jnp.all(target("eps", jaxddim.linear(), x0, eps, 500) == eps))
      True
    """
    check_kind(kind)
    checks.schedule(schedule)
    checks.times(t, schedule.num_steps, low=1 if kind == "score" else 0)
    x0, eps = images(schedule.dtype, x0=x0, eps=eps)
    checks.each(x0.shape[0], t=t)
    alpha, sigma = schedule.scales(t, x0.ndim)
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    return -eps / sigma


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


def made_with(denoise_fn: DenoiseFn) -> Made | None:
    """The kind of network and the clipping of what `as_denoiser` made; None for other functions.

    Example:
      >>> import jaxddim
      >>> made_with(as_denoiser(jaxddim.linear(), lambda x, index: 0 * x))
      Made(kind='eps', clip_x0=True)
    """
    made = getattr(denoise_fn, "made", None)
    return made if isinstance(made, Made) else None
