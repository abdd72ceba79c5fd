r"""Distances between two clouds of points.

Sliced Wasserstein-2: in one dimension, optimal transport of n points to n others keeps their order:

    SW2^2 = mean over directions of mean_i (x_(i) - y_(i))^2,

with the sorted projections x_(i), y_(i). Between two samples of the same distribution it is not 0
but of order 1 / sqrt(n): the floor that every comparison needs as a reference.

Squared maximum mean discrepancy, without the pairs i = j, so that it is unbiased (and 0 on average
for samples of the same distribution, below as often as above):

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j),

where k is the mean of three Gaussians exp(-|x - y|^2 / 2 h^2), h in `BANDWIDTHS`.
"""

import jax
import jax.numpy as jnp
import numpy as np

BANDWIDTHS = (0.4, 0.2, 0.1)
"""h of the kernels, each half the previous one; the turns of the roll are 0.63 apart."""

DIRECTIONS = 128
"""Number of directions of the slices, evenly spaced over half a turn."""


def sliced_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Sliced Wasserstein-2 distance between two clouds of equally many points in the plane.

    Args:
      x: [n, 2].
      y: [n, 2].
    Returns:
      The distance, in units of the points.
    Raises:
      ValueError: if the clouds are not both [n, 2].
    Source: arXiv 1304.1442 (Bonneel et al., Sliced and Radon Wasserstein barycenters).
    Example:
      >>> x = np.random.default_rng(0).normal(size=(100, 2))
      >>> round(sliced_wasserstein(x, x + [3.0, 4.0]), 4)  # |shift| / sqrt(2)
      3.5355
    """
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(
            f"expected two clouds [n, 2] of the same size, got {x.shape} and {y.shape}"
        )
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)])
    sorted_x, sorted_y = (np.sort((points @ directions).T) for points in (x, y))
    return float(np.sqrt(np.mean((sorted_x - sorted_y) ** 2)))


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of two clouds of points.

    Args:
      x: [n, d], n >= 2.
      y: [m, d], m >= 2.
    Returns:
      The estimate; below 0 about half the time if both have the same distribution.
    Raises:
      ValueError: if a cloud has fewer than two points, or they differ in d.
    Source: Gretton et al., A kernel two-sample test (JMLR 13, 2012), eq. 3.
    Example:
      >>> x, y = np.random.default_rng(0).normal(size=(2, 500, 2))
      >>> abs(mmd2(x, y)) < 0.01 < mmd2(x, y + 1)
      True
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"expected clouds [n, d], [m, d], n, m >= 2, got {x.shape}, {y.shape}")
    n, m = len(x), len(y)
    within = (_kernel_sum(x, x) - n) / (n * (n - 1)) + (_kernel_sum(y, y) - m) / (m * (m - 1))
    return within - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """sum_{i, j} k(x_i, y_j): each row in float32, their sum in float64."""
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    return float(np.sum(np.asarray(_rows(x, y)), dtype=np.float64))


@jax.jit
def _rows(x: jax.Array, y: jax.Array) -> jax.Array:
    square = sum((x[:, None, i] - y[:, i]) ** 2 for i in range(x.shape[1]))
    kernel = jnp.exp(-square / (2 * BANDWIDTHS[0] ** 2))
    kernels = [kernel]
    for _ in BANDWIDTHS[1:]:  # half the bandwidth: the kernel's fourth power
        kernels.append(jnp.square(jnp.square(kernels[-1])))
    return jnp.sum(sum(kernels), 1) / len(kernels)
