r"""Averages of the weights whose length is chosen after training.

A power-function average after n steps weighs the parameters of step k by ``k^g``:

    theta_n = sum_k p(k, n) theta_k,    p(k, n) = (g + 1) k^g / n^(g + 1),
    theta_n = (1 - 1/n)^(g + 1) theta_{n-1} + (1 - (1 - 1/n)^(g + 1)) params_n.

Its length is the relative deviation of this profile, ``sqrt(g + 1) / ((g + 2) sqrt(g + 3))``: 0.1
looks back over about a tenth of the training. Training keeps two, of the lengths in `LENGTHS`, and
stores both from time to time. Any other profile is close to a sum of stored ones, with the
coefficients of least squares,

    min_c | sum_i c_i p_i - p |^2,   sum_i c_i = 1,
    <p_a, p_b> = (a + 1)(b + 1) / (a + b + 1) m^b / M^(b + 1)   (m of p_a, M of p_b the larger),

and the average of that length is the same sum of the stored weights.

Source: Karras et al., arXiv 2312.02696, section 3 and appendix C.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LENGTHS = (0.05, 0.10)
"""The two averages that are kept: relative deviations of their profiles."""
SHORTEST, LONGEST = 0.03, 0.25
"""Lengths that can be asked for. At 0.289 every step would count alike."""
RATIO, OLDEST = 1.1, 0.1
"""Pairs are stored when training is longer by this ratio, and those below this share forgotten."""


def exponent(length: float) -> float:
    """The exponent g of the profile of this length.

    Args:
      length: relative deviation of the profile, in `SHORTEST` to `LONGEST`.
    Raises:
      ValueError: for another length.
    Source: arXiv 2312.02696, eq. 123 and appendix C.1.
    Example:
      >>> round(exponent(0.10), 2), round(exponent(0.05), 2)
      (6.94, 16.97)
    """
    if not SHORTEST <= length <= LONGEST:
        raise ValueError(
            f"the length of an average must lie in {SHORTEST:g} to {LONGEST:g}, a share of the "
            f"training, got {length:g}"
        )
    # sqrt(g + 1) / ((g + 2) sqrt(g + 3)) = length
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(np.max(roots[np.abs(roots.imag) < 1e-9].real))


def updated(averages: Sequence[Any], params: Any, n: jax.Array) -> tuple[Any, ...]:
    """Both averages after step n, which led to these parameters; none if there are none."""

    def mean(average: Any, length: float) -> Any:
        keep = (1 - 1 / n.astype(jnp.float32)) ** (exponent(length) + 1)
        return jax.tree.map(
            lambda a, p: (keep * a + (1 - keep) * p).astype(a.dtype), average, params
        )

    return tuple(mean(*pair) for pair in zip(averages, LENGTHS, strict=False))


def coefficients(steps: Sequence[int], length: float, step: int) -> np.ndarray:
    """What each stored average contributes to the one of this length at this step.

    Args:
      steps: steps of the stored pairs, none above `step`.
      length: relative deviation of the wanted profile.
      step: the step that it ends at.
    Returns:
      Float64 [steps, 2], for the pairs of each step in the order of `LENGTHS`.
    Raises:
      ValueError: for no steps, a step above, or an impossible length.
    Example:
      >>> np.abs(coefficients([500, 1000], 0.05, 1000).round(6)).tolist()
      [[0.0, 0.0], [1.0, 0.0]]
    """
    if not len(steps) or max(steps) > step or min(steps) < 1:
        raise ValueError(f"steps must be some of 1..{step}, got {list(steps)}")
    ends = np.repeat(np.asarray(steps, np.float64), len(LENGTHS)) / step
    powers = np.tile([exponent(length) for length in LENGTHS], len(steps))
    wanted = np.array([1.0]), np.array([exponent(length)])
    gram = _products((ends, powers), (ends, powers))
    right = _products((ends, powers), wanted)
    one = np.ones((len(ends), 1))
    system = np.block([[gram, one], [one.T, np.zeros((1, 1))]])
    found, *_ = np.linalg.lstsq(system, np.vstack([right, [[1.0]]]), rcond=1e-12)
    return found[:-1].reshape(-1, len(LENGTHS))


def _products(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Inner products of profiles that end at given times with given exponents."""
    (s, g), (t, h) = (np.expand_dims(x, 1) for x in a), (np.expand_dims(x, 0) for x in b)
    first = s <= t
    least, most = np.where(first, s, t), np.where(first, t, s)
    power = np.where(first, h, g)  # of the profile that ends later
    return (g + 1) * (h + 1) / (g + h + 1) * (least / most) ** power / most


def combined(stored: Sequence[Sequence[Any]], weights: np.ndarray) -> Any:
    """The sum of stored averages, [steps][2] trees, with these coefficients, in float64."""
    trees = [tree for pair in stored for tree in pair]
    scales = weights.reshape(-1)

    def total(*leaves: Any) -> jax.Array:
        parts = (
            scale * np.asarray(leaf, np.float64) for scale, leaf in zip(scales, leaves, strict=True)
        )
        return jnp.asarray(sum(parts), np.asarray(leaves[0]).dtype)

    return jax.tree.map(total, *trees)
