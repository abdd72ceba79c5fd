r"""The training loss: how far a network's output is from its target.

    L_simple = E || target(x_0, eps, t) - output(x_t, t) ||

per example, as a mean over the pixels. By Theorem 1 of the DDIM paper the same loss
is valid for every eta. A weighting multiplies it by a function of lambda_t = log SNR_t;
the weightings here are stated for eps-networks and converted to the other kinds by

    |eps error|^2 = SNR |x_0 error|^2 = SNR / (SNR + 1) |v error|^2.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import images, number
from jaxddim.predictions import check_kind, target
from jaxddim.schedules import Schedule
from jaxddim.types import Kind

Norm = Literal["l1", "l2", "huber"]
Weighting = Callable[[jax.Array], jax.Array]

CLEAN = 80.0
"""log_snr from which images count as clean; inf, that of t = 0, would make inf - inf."""

_NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "l1": jnp.abs,
    "l2": jnp.square,
    "huber": lambda d: jnp.where(jnp.abs(d) < 1, 0.5 * d * d, jnp.abs(d) - 0.5),
}


def diffusion_loss(
    schedule: Schedule,
    output: jax.Array,
    x0: jax.Array,
    t: ArrayLike,
    eps: jax.Array,
    *,
    kind: Kind = "eps",
    norm: Norm = "l2",
    weighting: Weighting | None = None,
    mask: ArrayLike | None = None,
) -> jax.Array:
    """The loss of each example.

    Args:
      schedule: the noise schedule.
      output: the network's output for ``q_sample(schedule, x0, t, eps)``, [b, *d], any float
        type; compared in float32.
      x0: clean images, [b, *d].
      t: int32 times in 1..T, scalar or [b].
      eps: the noise, [b, *d].
      kind: what the network predicts: "eps", "x0", "v" or "score".
      norm: "l1" (the seed's), "l2" (the papers') or "huber" (quadratic below 1, linear above).
      weighting: None, or a function of log_snr; see `min_snr` and `p2`.
      mask: what counts, as booleans: [b], such as False for examples that fill up a batch, or [b,
        *d] or [b, 1, ..] for the pixels of each. What does not count may hold anything.
    Returns:
      Float32 [b], the mean over the event dimensions, or over what counts of them; 0 where nothing
      does. (With a summed loss, the same gradient clipping would be a different optimizer.)
    Raises:
      ValueError: for an unknown kind or norm, a weighting that is no function of log_snr, a mask
        that is not boolean or of another shape, shapes that differ, or images that hold integers.
    Source: arXiv 2006.11239, eq. 14; arXiv 2010.02502, eq. 5.
    Example:
      >>> import jaxddim
      >>> eps = jnp.ones((2, 4, 4, 3))
      >>> diffusion_loss(jaxddim.linear(), 0 * eps, eps, 500, eps, norm="l1").tolist()
      [1.0, 1.0]
    """
    check_kind(kind)
    if norm not in _NORMS:
        raise ValueError(f"unknown norm {norm!r}; expected one of {', '.join(_NORMS)}")
    checks.schedule(schedule)
    if not hasattr(output, "shape"):
        checks.output(output, np.shape(x0))
    output, x0, eps = images(schedule.dtype, output=output, x0=x0, eps=eps)
    difference = output - target(kind, schedule, x0, eps, t)
    axes = tuple(range(1, x0.ndim))
    if mask is None:
        loss = jnp.mean(_NORMS[norm](difference), axis=axes)
    else:
        counts = _counts(mask, x0.shape)
        distance = _NORMS[norm](jnp.where(counts, difference, 0.0))
        loss = jnp.sum(distance, axes) / jnp.maximum(jnp.sum(counts, axes), 1)
    if weighting is None:
        return loss
    expected = "weighting must be None or a function of log_snr, as min_snr() returns"
    if not checks.takes(weighting, 1):
        raise ValueError(f"{expected}, got {checks.described(weighting)}")
    log_snr = schedule.log_snr_at(t)
    weight = weighting(log_snr)
    if callable(weight) or np.shape(weight) not in ((), log_snr.shape):
        raise ValueError(
            f"{expected}: its result must have the shape of log_snr, {log_snr.shape}, got "
            f"{checks.described(weight)}"
        )
    return (weight * loss).astype(loss.dtype)


def _counts(mask: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """The mask of every number; a ValueError unless it is boolean and of such a shape."""
    given = np.shape(mask)
    fits = given == shape[:1] or (
        len(given) == len(shape) and all(a in (1, b) for a, b in zip(given, shape, strict=True))
    )
    if jnp.result_type(mask) != jnp.bool_ or not fits:
        raise ValueError(
            f"mask must be booleans of shape {shape[:1]}, or of one that broadcasts to {shape}, "
            f"got {checks.described(mask)}"
        )
    mask = jnp.reshape(jnp.asarray(mask), given + (1,) * (len(shape) - len(given)))
    return jnp.broadcast_to(mask, shape)


def min_snr(gamma: float = 5.0, *, kind: Kind = "eps") -> Weighting:
    """Min-SNR weighting: ``min(SNR, gamma) / SNR`` for eps.

    For x0 that is ``min(SNR, gamma)``, for v ``min(SNR, gamma) / (SNR + 1)``.

    Args:
      gamma: the SNR above which steps count less; positive. May be traced.
      kind: what the network predicts.
    Returns:
      A function of log_snr for `diffusion_loss`.
    Raises:
      ValueError: when gamma is not positive, or for an unknown kind.
    Source: arXiv 2303.09556, section 3.4.
    Example:
      >>> float(min_snr(5.0)(jnp.log(10.0)))
      0.5
    """
    gamma = number(gamma, "gamma", "be positive", lambda gamma: gamma > 0)
    return _for_kind(lambda log_snr: jnp.minimum(0.0, _log(gamma) - log_snr), kind)


def p2(gamma: float = 1.0, k: float = 1.0, *, kind: Kind = "eps") -> Weighting:
    """P2 weighting: ``1 / (k + SNR)^gamma`` for eps.

    Args:
      gamma: strength; 0 leaves the loss as it is. May be traced, and so may k.
      k: keeps the weight finite where there is no signal; positive.
      kind: what the network predicts.
    Returns:
      A function of log_snr for `diffusion_loss`.
    Raises:
      ValueError: when gamma is negative or k is not positive, or for an unknown kind.
    Source: arXiv 2204.00227, eq. 8.
    Example:
      >>> float(p2()(jnp.float32(0.0)))
      0.5
    """
    gamma = number(gamma, "gamma", "be at least 0", lambda gamma: gamma >= 0)
    k = number(k, "k", "be positive", lambda k: k > 0, f" (gamma={gamma})")
    return _for_kind(lambda log_snr: -gamma * jnp.logaddexp(_log(k), log_snr), kind)


def _log(value: ArrayLike) -> jax.Array:
    return jnp.log(jnp.asarray(value, jnp.float32))


def _for_kind(log_weight: Callable[[jax.Array], jax.Array], kind: Kind) -> Weighting:
    """The log weight of an eps-loss, converted to a weighting of the loss of this kind."""
    check_kind(kind)
    convert: dict[str, Callable[[jax.Array], jax.Array]] = {
        "eps": jnp.zeros_like,
        "x0": lambda log_snr: log_snr,
        "v": jax.nn.log_sigmoid,
        "score": lambda log_snr: jax.nn.log_sigmoid(-log_snr),
    }

    def weighting(log_snr: jax.Array) -> jax.Array:
        log_snr = jnp.minimum(log_snr, CLEAN)
        return jnp.exp(log_weight(log_snr) + convert[kind](log_snr))

    return weighting
