r"""What a network predicts, and how each kind is converted to the pair (x_0, eps).

    kind    target                     pair from the output
    eps     eps                        x_0 = (x_t - sigma_t eps) / alpha_t
    x0      x_0                        eps = (x_t - alpha_t x_0) / sigma_t
    v       alpha_t eps - sigma_t x_0  x_0 = alpha_t x_t - sigma_t v, eps = sigma_t x_t + alpha_t v
    score   -eps / sigma_t             eps = -sigma_t score, then as for eps

The score is the gradient of log q(x_t | x_0). Every conversion goes through the
pair: to convert an eps-network's output to v, call `from_eps` and then `target`.
"""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.numerics import images
from jaxddim.schedules import Schedule
from jaxddim.types import Kind, Prediction


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
