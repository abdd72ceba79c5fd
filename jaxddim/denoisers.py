"""From a network to a denoiser, the function (x, t) -> (x_0, eps) that samplers take."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim import checks
from jaxddim.predictions import FROM, Kind, check_kind, clip
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, LearnedPrediction, NetworkFn, Prediction


class Made(NamedTuple):
    """What a denoiser was made with.

    Attributes:
      kind: what its network predicts.
      clip_x0: whether x_0 is clipped.
    """

    kind: Kind
    clip_x0: bool


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
