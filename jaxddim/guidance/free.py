r"""Classifier-free guidance: the difference of two predictions, multiplied.

    eps = eps_u + w (eps_c - eps_u),    x_0 = x_u + w (x_c - x_u),

and x_0 rescaled towards the deviation of x_c over each image,

    x_0 -> f x_0,    f = phi std(x_c) / std(x_0) + 1 - phi.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxddim.numerics import number
from jaxddim.types import DenoiseFn, Prediction, made_with

Interval = tuple[int, int]
Pairs = Callable[[], tuple[Prediction, Prediction]]


def guide(
    conditional: DenoiseFn,
    unconditional: DenoiseFn,
    *,
    scale: ArrayLike,
    interval: Interval | None = None,
    rescale: float = 0.0,
) -> DenoiseFn:
    """Classifier-free guidance with two denoisers; see `as_guided_denoiser` for one network.

    Args:
      conditional: ``denoise_fn(x, t)`` with the condition, not clipped.
      unconditional: ``denoise_fn(x, t)`` without it, or with one to keep away from, not clipped.
      scale: w; 1 is the conditional denoiser, exactly, 0 the other. May be traced.
      interval: the times (low, high), both included, at which guidance acts; elsewhere, and then at
        half the cost, it is the conditional denoiser.
      rescale: phi in [0, 1]; the paper's is 0.7. May be traced.
    Returns:
      A denoise_fn, not clipped: `clip` and `threshold` go around it.
    Raises:
      ValueError: when scale is not a number, rescale lies outside [0, 1], or the interval is not
        (low, high) with 0 <= low <= high.
    Warns:
      UserWarning: when `as_denoiser` made one of them with clipping.
    Source: arXiv 2207.12598; arXiv 2404.07724 (interval).
    Example:
      >>> import jaxddim
      >>> schedule, x = jaxddim.linear(), jnp.ones((2, 8))
      >>> one, other = (
      ...     jaxddim.as_denoiser(schedule, lambda x, index, e=e: e + 0 * x, clip_x0=False)
      ...     for e in (1.0, 0.5)
      ... )
      >>> float(guide(one, other, scale=3.0)(x, jnp.int32(500)).eps[0, 0])
      2.0
    """
    guided = guidance(scale, interval, rescale)
    for denoise_fn in (conditional, unconditional):
        warn_of_clipping(denoise_fn)

    def denoise_fn(x: jax.Array, t: jax.Array) -> Prediction:
        both = lambda: (conditional(x, t), unconditional(x, t))  # noqa: E731
        return guided(lambda: conditional(x, t), both, t)

    made = made_with(conditional)
    if made is not None and made == made_with(unconditional):
        vars(denoise_fn)["made"] = made
    return denoise_fn


def guidance(
    scale: ArrayLike, interval: Interval | None, rescale: float
) -> Callable[[Callable[[], Prediction], Pairs, jax.Array], Prediction]:
    """``guided(one, both, t)``, from calls for the conditional prediction and for both."""
    scale = number(scale, "scale", "be a number", np.isfinite)
    rescale = number(rescale, "rescale", "lie in [0, 1]", lambda phi: (phi >= 0) & (phi <= 1))
    if interval is not None and (len(interval) != 2 or not 0 <= interval[0] <= interval[1]):
        raise ValueError(f"interval must be times (low, high), 0 <= low <= high, got {interval}")
    known = not isinstance(scale, jax.Array) and not isinstance(rescale, jax.Array)

    def guided(one: Callable[[], Prediction], both: Pairs, t: jax.Array) -> Prediction:
        if known and np.all(scale == 1):
            return one()

        def combined() -> Prediction:
            c, u = both()
            more = spread(jnp.asarray(scale) - 1, c.x0)
            x0, eps = (a + more * (a - b) for a, b in zip(c[:2], u[:2], strict=True))
            pair = c._replace(x0=x0, eps=eps)
            return pair if known and rescale == 0 else _rescaled(pair, c, u, rescale)

        if interval is None:
            return combined()
        low, high = interval
        inside = (low <= jnp.asarray(t)) & (jnp.asarray(t) <= high)
        if not inside.ndim:
            return lax.cond(inside, combined, one)
        return jax.tree.map(lambda a, b: jnp.where(spread(inside, a), a, b), combined(), one())

    return guided


def _rescaled(pair: Prediction, c: Prediction, u: Prediction, phi: Any) -> Prediction:
    """x_0 times f, with the eps of the same x_t.

    x_t = alpha x_0 + sigma eps holds for both predictions, so alpha / sigma is the slope between
    their differences.
    """
    axes = tuple(range(1, c.x0.ndim))
    wide, right = (jnp.std(x0, axes, keepdims=True) for x0 in (pair.x0, c.x0))
    f = phi * jnp.where(wide > 0, right / jnp.where(wide > 0, wide, 1.0), 1.0) + 1 - phi
    change, of_eps = c.x0 - u.x0, c.eps - u.eps
    square = jnp.sum(change**2, axes, keepdims=True)
    ratio = -jnp.sum(change * of_eps, axes, keepdims=True) / jnp.where(square > 0, square, 1.0)
    return pair._replace(x0=f * pair.x0, eps=pair.eps + ratio * (1 - f) * pair.x0)


def spread(value: jax.Array, x: jax.Array) -> jax.Array:
    """[b] as [b, 1, ..], a scalar as it is."""
    return jnp.reshape(value, value.shape + (1,) * (x.ndim - value.ndim) if value.ndim else ())


def warn_of_clipping(denoise_fn: DenoiseFn) -> None:
    made = made_with(denoise_fn)
    if made is not None and made.clip_x0:
        warnings.warn(
            "guidance acts on what a network says, and this denoiser clips x_0 before it: make it "
            "with as_denoiser(..., clip_x0=False), and clip what guidance returns",
            UserWarning,
            stacklevel=3,
        )
