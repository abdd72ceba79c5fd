"""The time grid of a sampler: which of the T noise levels its S steps visit.

The grid gives the start and the end of every step, so no step computes "the previous
time" from T and S, which fails whenever S does not divide T.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim.numerics import whole_number

SPACINGS = ("linear", "quadratic", "leading", "trailing", "linspace")


def timesteps(
    num_train: int, num_sample: int, *, spacing: str = "linear", fraction: float = 1.0
) -> jax.Array:
    """The time grid tau of a sampler: exactly S steps, from noise to 0.

    With c chosen so that the largest time is ``fraction * T`` and i = 1..S:

    * "linear":    floor(c i), the DDIM paper's;
    * "quadratic": floor(c i^2), the DDIM paper's, raised where two times coincide;
    * "leading":   1 + floor(c (i - 1)), starts at 1 and stays below T;
    * "trailing":  round(c i), starts at T;
    * "linspace":  S times evenly from T to 1.

    Args:
      num_train: T.
      num_sample: S, in 1..T.
      spacing: one of the names above.
      fraction: the largest time as a fraction of T. The official DDIM code's quadratic
        grid ends at 0.8 T, the paper's at T; `safe_fraction` gives the largest at which a network
        can encode.
    Returns:
      int32 [S+1], strictly decreasing, ends in 0.
    Raises:
      ValueError: when S such times do not exist, or the spacing is unknown.
    Source: arXiv 2010.02502, appendix D.2; arXiv 2305.08891, table 2.
    Example:
      >>> timesteps(1000, 5).tolist()
      [1000, 800, 600, 400, 200, 0]
      >>> timesteps(1000, 5, spacing="quadratic").tolist()
      [1000, 640, 360, 160, 40, 0]
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
    else:
        raise ValueError(f"unknown spacing {spacing!r}; expected one of {', '.join(SPACINGS)}")
    return jnp.asarray(np.concatenate([tau[::-1], [0]]), jnp.int32)
