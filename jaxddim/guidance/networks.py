"""Classifier-free guidance with one network that was trained with and without classes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.denoisers import as_denoiser, clip
from jaxddim.guidance.free import Interval, guidance, spread
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Kind, Made, Prediction


def as_guided_denoiser(
    schedule: Schedule,
    apply_fn: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    label: ArrayLike,
    *,
    null: int,
    scale: ArrayLike,
    interval: Interval | None = None,
    rescale: float = 0.0,
    kind: Kind = "eps",
    clip_x0: bool = True,
    learned_variance: bool = False,
) -> DenoiseFn:
    """Classifier-free guidance with one class-conditional network, in one call of it.

    The network is called with each image twice, [2b, *d]: with its label, and with the null class.
    With a scale of 1, and outside of the interval, it is called once for each.

    Args:
      schedule: the noise schedule that the network was trained with.
      apply_fn: ``apply_fn(x, index, label) -> output``, index and label int32, one an image.
      label: classes, int32, scalar or [b].
      null: the class of no class; num_classes for the networks of `jaxddim.models`.
      scale, interval, rescale: as for `guide`.
      kind, clip_x0, learned_variance: as for `as_denoiser`; x_0 is clipped after guidance, and a
        learned variance is the conditional one.
    Returns:
      A denoise_fn.
    Raises:
      ValueError: as `guide` and `as_denoiser`, when labels are no whole numbers, and at the first
        call, when they are not one for each image.
    Source: arXiv 2207.12598, algorithm 2.
    Example:
      >>> import jaxddim
      >>> network = lambda x, index, label: x * label[:, None]
      >>> fn = as_guided_denoiser(
      ...     jaxddim.linear(), network, jnp.array([0, 1]), null=2, scale=2.0, kind="v"
      ... )
      >>> fn(jnp.ones((2, 8)), jnp.int32(500)).x0.shape
      (2, 8)
    """
    checks.whole(label, "label")
    guided = guidance(scale, interval, rescale)
    if not checks.takes(apply_fn, 3):
        raise ValueError(
            f"the network must be a function (x, index, label), got {checks.shown(apply_fn)}"
        )

    def denoiser(labels: jax.Array, clip_x0: bool = False) -> DenoiseFn:
        network = lambda x, index: apply_fn(x, index, labels)  # noqa: E731
        return as_denoiser(
            schedule, network, kind=kind, clip_x0=clip_x0, learned_variance=learned_variance
        )

    def denoise_fn(x: jax.Array, t: jax.Array) -> Prediction:
        checks.each(len(x), label=label)
        labels = jnp.broadcast_to(jnp.asarray(label, jnp.int32), x.shape[:1])

        def both() -> tuple[Prediction, Prediction]:
            twice = jnp.concatenate([labels, jnp.full_like(labels, null)])
            times = jnp.tile(t, 2) if np.ndim(t) else t
            pair = denoiser(twice)(jnp.concatenate([x, x]), times)
            parts = (jnp.split(part, 2) for part in pair)
            c, u = zip(*parts, strict=True)
            return type(pair)(*c), type(pair)(*u)

        pair = guided(lambda: denoiser(labels)(x, t), both, t)
        if not clip_x0:
            return pair
        clipped = clip(schedule, x, pair, jnp.maximum(t, 1))
        clean = spread(jnp.asarray(t) == 0, x)
        x0, eps = (jnp.where(clean, *parts) for parts in zip(pair, clipped, strict=False))
        return pair._replace(x0=x0, eps=eps)

    vars(denoise_fn)["made"] = Made(kind, clip_x0)
    return denoise_fn
