r"""Nearest neighbours in feature space, and precision and recall of samples.

The manifold of a set is approximated by a union of balls, one around each feature. The radius of a
ball is the distance to the k-th nearest neighbour in the set:

    precision = fraction of the samples in the manifold of the reference (fidelity)
    recall    = fraction of the reference in the manifold of the samples (diversity)

Distances are Euclidean, in float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ROWS = 1000  # rows of the distance matrix held at a time


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in 0..1."""

    precision: float
    recall: float


def precision_recall(reference: np.ndarray, samples: np.ndarray, *, k: int = 3) -> PrecisionRecall:
    """Precision and recall of samples.

    Args:
      reference: features of real images, [n, d].
      samples: features of samples, [m, d]. More images make smaller balls, so compare values only
        for the same n and m, and use n = m if possible.
      k: the radius of a ball is the distance to the k-th nearest neighbour.
    Returns:
      Precision and recall.
    Raises:
      ValueError: if k is not in 1..min(n, m) - 1.
    Source: Kynkaanniemi et al., arXiv 1904.06991, algorithm 1.
    Example:
      >>> line = np.arange(10.0)[:, None]
      >>> precision_recall(line, line[:5] + 0.25, k=1)
      PrecisionRecall(precision=1.0, recall=0.6)
    """
    if not 1 <= k < min(len(reference), len(samples)):
        raise ValueError(
            f"k must lie in 1..{min(len(reference), len(samples)) - 1} for {len(reference)} and "
            f"{len(samples)} images, got {k}"
        )
    return PrecisionRecall(_inside(samples, reference, k), _inside(reference, samples, k))


def _inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """The fraction of the points in the manifold of the centres."""
    # Index k, not k - 1: a centre is its own nearest neighbour.
    radii = np.concatenate(
        [np.partition(rows, k, axis=1)[:, k] for rows in _squared(centres, centres)]
    )
    inside = [(rows <= radii).any(1) for rows in _squared(points, centres)]
    return float(np.concatenate(inside).mean())


def _squared(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """The squared distances from x to y, [n, m], in blocks of rows."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    norms = np.square(y).sum(1)
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        yield np.maximum(np.square(rows).sum(1)[:, None] + norms - 2 * rows @ y.T, 0)


class Neighbours(NamedTuple):
    """The nearest neighbours of each image.

    Attributes:
      distances: float64 [n, k], the nearest first.
      indices: int [n, k], rows of the searched set.
    """

    distances: np.ndarray
    indices: np.ndarray


def nearest(x: np.ndarray, y: np.ndarray, k: int) -> Neighbours:
    """The k features of y that are nearest to each feature of x.

    Args:
      x: [n, d].
      y: [m, d].
      k: number of neighbours, at most m.
    Returns:
      Distances and rows of y.
    Example:
      >>> found = nearest(np.array([[0.9]]), np.array([[3.0], [0.0], [1.0]]), 2)
      >>> found.indices.tolist(), np.round(found.distances, 6).tolist()
      ([[2, 1]], [[0.1, 0.9]])
    """
    distances, indices = [], []
    for block, squared in enumerate(_squared(x, y)):
        rows = np.asarray(x[block * ROWS : (block + 1) * ROWS], np.float64)
        chosen = np.argpartition(squared, k - 1, axis=1)[:, :k]
        exact = np.linalg.norm(y[chosen] - rows[:, None], axis=2)  # without cancellation
        order = np.argsort(exact, axis=1, kind="stable")
        distances.append(np.take_along_axis(exact, order, 1))
        indices.append(np.take_along_axis(chosen, order, 1))
    return Neighbours(np.concatenate(distances), np.concatenate(indices))
