"""The time grid of a sampler: which of the T noise levels its S steps visit.

The grid gives the start and the end of every step, so no step computes "the previous
time" from T and S, which fails whenever S does not divide T.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim import checks
from jaxddim.numerics import whole_number
from jaxddim.schedules import Schedule

BY_LEVEL = ("log_snr", "karras")
SPACINGS = ("linear", "quadratic", "leading", "trailing", "linspace", *BY_LEVEL)
RHO = 7
"""The exponent of "karras": the larger, the shorter the steps at low noise."""


def timesteps(
    num_train: int,
    num_sample: int,
    *,
    spacing: str = "linear",
    fraction: float = 1.0,
    schedule: Schedule | None = None,
) -> jax.Array:
    """The time grid tau of a sampler: exactly S steps, from noise to 0.

    With c chosen so that the largest time is ``fraction * T`` and i = 1..S:

    * "linear":    floor(c i), the DDIM paper's;
    * "quadratic": floor(c i^2), the DDIM paper's, raised where two times coincide;
    * "leading":   1 + floor(c (i - 1)), starts at 1 and stays below T;
    * "trailing":  round(c i), starts at T;
    * "linspace":  S times evenly from T to 1;
    * "log_snr":   S noise levels from T to 1, evenly in log_snr;
    * "karras":    S noise levels from T to 1, evenly in (sigma / alpha)^(1/7).

    The last two need the schedule. Their levels are rounded to the nearest times and, where two
    coincide, moved to the next free one. A last level without signal (log_snr = -inf) is kept, and
    the others are spread over the rest.

    Args:
      num_train: T.
      num_sample: S, in 1..T.
      spacing: one of the names above.
      fraction: the largest time as a fraction of T. The official DDIM code's quadratic
        grid ends at 0.8 T, the paper's at T; `safe_fraction` gives the largest at which a network
        can encode.
      schedule: the noise schedule of T steps, with concrete values; for "log_snr" and "karras".
    Returns:
      int32 [S+1], strictly decreasing, ends in 0.
    Raises:
      ValueError: when S such times do not exist, the spacing is unknown, or it needs a schedule of
        T steps and there is none.
    Source: arXiv 2010.02502, appendix D.2; arXiv 2305.08891, table 2; arXiv 2206.00927, section
      3.4 ("log_snr"); arXiv 2206.00364, eq. 5 ("karras").
    Example:
      >>> timesteps(1000, 5).tolist()
      [1000, 800, 600, 400, 200, 0]
      >>> timesteps(1000, 5, spacing="quadratic").tolist()
      [1000, 640, 360, 160, 40, 0]
      >>> import jaxddim
      >>> timesteps(1000, 5, spacing="karras", schedule=jaxddim.linear()).tolist()
      [1000, 844, 594, 143, 1, 0]
    """
    T, S = whole_number(num_train, "num_train"), whole_number(num_sample, "num_sample")
    fraction = float(fraction)  # of a JAX array too: its value must be known
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    T = max(round(fraction * T), 1)
    if S > T:
        raise ValueError(
            f"{S} different sampling steps do not fit into {T} training step{'s' * (T > 1)}"
        )
    i = np.arange(1, S + 1, dtype=np.int64)
    if spacing == "linear":
        tau = T * i // S
    elif spacing == "quadratic":
        tau = T * i**2 // S**2
        tau = np.maximum.accumulate(tau - i).clip(min=0) + i
    elif spacing == "leading":
        tau = 1 + T * (i - 1) // S
    elif spacing == "trailing":
        tau = (2 * T * i + S) // (2 * S)
    elif spacing == "linspace":
        tau = np.floor(np.linspace(T, 1, S) + 0.5).astype(np.int64)[::-1]
    elif spacing in BY_LEVEL:
        tau = _nearest(_log_snr(schedule, num_train, spacing)[: T + 1], S, spacing)
    else:
        raise ValueError(f"unknown spacing {spacing!r}; expected one of {', '.join(SPACINGS)}")
    return jnp.asarray(np.concatenate([tau[::-1], [0]]), jnp.int32)


def _log_snr(schedule: Schedule | None, T: int, spacing: str) -> np.ndarray:
    """The schedule's table in float64, if it has T steps."""
    needs = f'spacing="{spacing}" needs the noise schedule of {T} steps, as schedule=...'
    if schedule is None:
        raise ValueError(needs)
    checks.schedule(schedule)
    table = checks.concrete(schedule.log_snr)
    if table is None or len(table) != T + 1:
        steps = "a traced one" if table is None else f"one of {len(table) - 1} steps"
        raise ValueError(f"{needs}, got {steps}")
    return table.astype(np.float64)


def _nearest(log_snr: np.ndarray, S: int, spacing: str) -> np.ndarray:
    """S distinct times in 1..T, increasing, at the levels of this spacing."""
    T = len(log_snr) - 1
    if S == 1:
        return np.array([T])
    last = T if np.isfinite(log_snr[T]) else T - 1
    n = S - (T - last)
    log_sigma = -log_snr[1 : last + 1] / 2
    most, least = float(log_sigma[-1]), float(log_sigma[0])
    if spacing == "karras":
        wanted = RHO * np.log(np.linspace(np.exp(most / RHO), np.exp(least / RHO), n))
    else:
        wanted = np.linspace(most, least, n)
    borders = (log_sigma[1:] + log_sigma[:-1]) / 2
    tau = np.append(1 + np.searchsorted(borders, wanted[::-1]), [T] * (T - last))
    i = np.arange(S)
    return np.minimum(np.maximum.accumulate(tau - i), T - S + 1) + i
