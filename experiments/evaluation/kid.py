r"""The kernel distance (KID) between two sets of features, without assuming Gaussians.

    k(x, y) = (x . y / d + 1)^3

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

is unbiased: its expectation does not depend on the number of images, and is zero for two sets from
the same distribution (so a single value may be negative). KID is its mean over blocks, random
subsets of both sets; the spread over blocks is the scale for judging a difference between two
values. A block holds at most half of a set: larger blocks overlap too much, and the spread would
be too small.
"""

from typing import NamedTuple

import numpy as np


class Kid(NamedTuple):
    """A kernel distance.

    Attributes:
      mean: mean over the blocks.
      std: standard deviation over the blocks.
      blocks: number of blocks.
      size: images per set in a block.
    """

    mean: float
    std: float
    blocks: int
    size: int


def kid(x: np.ndarray, y: np.ndarray, *, blocks: int = 100, size: int = 1000, seed: int = 0) -> Kid:
    """KID between two sets of features.

    Args:
      x: [n, d].
      y: [m, d].
      blocks: number of blocks.
      size: images per set in a block; at most half of the smaller set.
      seed: the seed of the blocks.
    Returns:
      Mean and standard deviation over the blocks.
    Raises:
      ValueError: for fewer than 4 images in a set, or fewer than 2 blocks.
    Source: Binkowski et al., arXiv 1801.01401, section 4.
    Example:
      >>> features = np.random.default_rng(0).normal(size=(400, 8))
      >>> near, far = kid(features[:200], features[200:]), kid(features[:200], features[200:] + 1)
      >>> abs(near.mean) < 2 * near.std, far.mean > 10 * far.std, near.size
      (True, True, 100)
    """
    size = min(size, len(x) // 2, len(y) // 2)
    if size < 2 or blocks < 2:
        raise ValueError(
            f"KID needs 4 images or more in each set and 2 blocks or more, got {len(x)} and "
            f"{len(y)} images and {blocks} blocks"
        )
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(blocks):
        chosen = [np.sort(rng.choice(len(a), size, replace=False)) for a in (x, y)]
        values.append(mmd2(x[chosen[0]], y[chosen[1]]))
    return Kid(float(np.mean(values)), float(np.std(values, ddof=1)), blocks, size)


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of MMD^2 from all of x and y.

    Args:
      x: [n, d], n >= 2.
      y: [m, d], m >= 2.
    Returns:
      The estimate, computed in float64.
    Source: Gretton et al., "A kernel two-sample test", 2012, eq. 3.
    Example:
      >>> mmd2(np.zeros((3, 1)), np.ones((2, 1)))
      7.0
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return _among(x) + _among(y) - 2 * float(_kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base  # ten times faster than base ** 3


def _among(x: np.ndarray) -> float:
    """The mean of the kernel over pairs of different images."""
    kernel, n = _kernel(x, x), len(x)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
