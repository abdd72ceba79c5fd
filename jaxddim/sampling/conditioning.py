r"""How much of a network's error a step passes on: where a network still determines the image.

A step from t to s turns x_t into x_s by the angle delta = phi_t - phi_s, phi = arctan(sigma /
alpha), from the network's answer at t. An error e of that answer becomes an error g e of x_s:

    kind    g
    v       |sin(delta)|                        at most 1
    x0      |sin(delta)| / sin(phi_t)           grows where sigma_t is near 0: encoding from t
    eps     |sin(delta)| / cos(phi_t)           grows where alpha_t is near 0: decoding from t
    score   |sin(delta)| sigma_t / cos(phi_t)   as for eps

In one step to s = 0, g is sigma_t / alpha_t for eps, and 1 for x0. Decoding, and encoding with
refinement, ask the network at the noisier end of a step; plain encoding asks at the other end. With
cosine(1000) and S = 50 the first step of decoding has g = 631 for eps, and with linear(1000) g =
0.2: what counts is how fast alpha falls, not how small it is. A v-network has no such end. Clipped
x_0 bounds the error, so plain sampling is safe; the clipped path cannot be followed back, however.
"""

import warnings

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxddim import checks
from jaxddim.predictions import check_kind
from jaxddim.schedules import Schedule
from jaxddim.types import DenoiseFn, Kind, made_with

SAFE, WARNED = 2.0, 10.0
"""The largest g of the grids that `safe_fraction` gives, and the largest without a warning."""


def step_gain(kind: Kind, schedule: Schedule, t: ArrayLike, s: ArrayLike) -> np.ndarray:
    """By what number the network's error at t is multiplied in the step from t to s.

    Args:
      kind: what the network predicts: "eps", "x0", "v" or "score".
      schedule: the noise schedule, with concrete (not traced) values.
      t: the times at which the network is evaluated, in 0..T.
      s: the times that the steps lead to, likewise.
    Returns:
      float64, of the shape of t and s; infinite where the answer says nothing about the image.
    Raises:
      ValueError: for an unknown kind.
    Example:
      >>> import jaxddim
      >>> step_gain("eps", jaxddim.cosine(), 1000, 980).round().item()
      631.0
      >>> step_gain("v", jaxddim.cosine(), 1000, 980).round(2).item()
      0.03
    """
    check_kind(kind)
    table = np.asarray(schedule.log_snr, np.float64)
    of_t, of_s = (table[np.asarray(time, np.int64)] for time in (t, s))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        cos_t, sin_t = (np.exp(-np.logaddexp(0, -sign * of_t) / 2) for sign in (1, -1))
        phi_t, phi_s = (np.arctan(np.exp(-log_snr / 2)) for log_snr in (of_t, of_s))
        sin = np.abs(np.sin(phi_t - phi_s))
        by = {"v": np.ones_like(cos_t), "x0": sin_t, "eps": cos_t, "score": cos_t / sin_t}[kind]
        return np.where(sin == 0, 0.0, sin / by)


def safe_fraction(schedule: Schedule, *, kind: Kind = "eps") -> float:
    """The part of T up to which a network of this kind determines the image, for `timesteps`.

    It is the largest at which no step of a tenth of the way multiplies the network's error more
    than twofold: 1.0 for v- and x0-networks, and for eps- and score-networks with the linear,
    scaled-linear, quadratic, const and sigmoid schedules of 1000 steps; about 0.95 with the cosine
    schedule. Use it for `encode`, for unclipped `decode` and for `interpolate`.

    Args:
      schedule: the noise schedule, with concrete (not traced) values.
      kind: what the network predicts: "eps", "x0", "v" or "score".
    Returns:
      A number in (0, 1], the ``fraction`` of `timesteps`.
    Raises:
      ValueError: for an unknown kind; for an eps- or score-network on a schedule with zero terminal
        SNR; for a traced schedule.
    Example:
      >>> import jaxddim
      >>> safe_fraction(jaxddim.linear(), kind="eps"), safe_fraction(jaxddim.cosine(), kind="v")
      (1.0, 1.0)
      >>> fraction = safe_fraction(jaxddim.cosine(), kind="eps")
      >>> jaxddim.timesteps(1000, 5, fraction=fraction).tolist()
      [952, 761, 571, 380, 190, 0]
    """
    check_kind(kind, schedule)
    if isinstance(schedule.log_snr, jax.core.Tracer):
        raise ValueError("safe_fraction needs a schedule with concrete values: call it outside jit")
    t = np.arange(1, schedule.num_steps + 1)
    bad = step_gain(kind, schedule, t, t * 9 // 10) > SAFE
    last = int(np.argmax(bad)) if bad.any() else schedule.num_steps
    return max(last, 1) / schedule.num_steps


def fraction_of(denoise_fn: DenoiseFn, schedule: Schedule) -> float:
    """`safe_fraction` of a denoiser that `as_denoiser` made; 1.0 for any other."""
    made = made_with(denoise_fn)
    return safe_fraction(schedule, kind=made.kind) if made else 1.0


def warn_of_errors(
    denoise_fn: DenoiseFn, schedule: Schedule, timesteps: ArrayLike, *, encoded: bool = False
) -> None:
    """Warns when a step of a path multiplies the error of an unclipped network too much.

    Nothing is known, and nothing said, of traced values and of functions that `as_denoiser` did not
    make.

    Args:
      denoise_fn: the denoiser.
      schedule: the noise schedule.
      timesteps: the grid of the path, int32 [S+1], decreasing, as `checks.grid` has found.
      encoded: whether the path is also followed upwards without refinement, which asks the network
        at the lower end of each step.
    """
    made, grid = made_with(denoise_fn), checks.concrete(timesteps)
    if made is None or made.clip_x0 or grid is None or checks.concrete(schedule.log_snr) is None:
        return
    check_kind(made.kind, schedule)
    high, low = grid[:-1], grid[1:]
    _warn(made.kind, schedule, high, low, _ways_down(made.kind, schedule, high))
    if encoded:
        inner = low > 0
        way = "encode with refine=1, or on a grid without a step from so small a time"
        _warn(made.kind, schedule, low[inner], high[inner], way)


def warn_of_clipping(denoise_fn: DenoiseFn, caller: str) -> None:
    """Warns when `as_denoiser` made this denoiser with clipping, whose path cannot be followed."""
    made = made_with(denoise_fn)
    if made is not None and made.clip_x0:
        warnings.warn(
            f"{caller} follows the path of the network itself, and this denoiser clips x_0, which "
            "breaks that path: make it with as_denoiser(..., clip_x0=False)",
            UserWarning,
            stacklevel=3,
        )


def _ways_down(kind: Kind, schedule: Schedule, high: np.ndarray) -> str:
    fraction = safe_fraction(schedule, kind=kind)
    if high.max() > round(fraction * schedule.num_steps):
        return (
            f"end the grid at timesteps(..., fraction={fraction:.4g}), which "
            f'jaxddim.safe_fraction(schedule, kind="{kind}") gives, or train with kind="v"'
        )
    return "take more steps"


def _warn(kind: Kind, schedule: Schedule, t: np.ndarray, s: np.ndarray, way: str) -> None:
    gains = step_gain(kind, schedule, t, s)
    if not gains.size or gains.max() <= WARNED:
        return
    worst = int(np.argmax(gains))
    warnings.warn(
        f"the step between t = {t[worst]} and t = {s[worst]} multiplies the error of this "
        f'"{kind}"-network at t = {t[worst]} by {gains[worst]:.3g}, so the noise and the image do '
        f"not determine each other: {way}",
        UserWarning,
        stacklevel=4,
    )
