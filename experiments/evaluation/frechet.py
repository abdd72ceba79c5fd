r"""The Frechet distance between Gaussians fitted to two sets of features.

    d^2 = |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^1/2 C_b C_a^1/2)^1/2)

(the literature calls d^2 the Frechet distance). With C = L L^T the last trace is the sum of the
singular values of L_a^T L_b. L comes from Cholesky's decomposition with pivots, which ends at the
rank of C to working precision. So nothing is inverted, nothing becomes complex, and covariances of
fewer images than dimensions need no special case and take a tenth of the time.

Means and covariances are accumulated in float64 over batches of any size: with n = n_a + n_b and
delta = m_b - m_a,

    m = m_a + delta n_b / n,    M = M_a + M_b + delta delta^T n_a n_b / n,    C = M / (n - 1).
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

ROWS = 4096  # rows converted to float64 at a time


class Statistics(NamedTuple):
    """The size, mean and scatter matrix of a set of features.

    Attributes:
      count: number of images, n.
      mean: float64 [d].
      scatter: float64 [d, d], the sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, float64 [d, d]."""
        return self.scatter / (self.count - 1)


def statistics(features: np.ndarray | Iterable[np.ndarray]) -> Statistics:
    """Mean and scatter of features, in float64.

    Args:
      features: [n, d], or an iterable of batches [n_i, d] of any sizes.
    Returns:
      The statistics of all features.
    Raises:
      ValueError: if there are no images.
    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    Example:
      >>> measured = statistics(np.array([[0.0, 0.0], [2.0, 4.0]]))
      >>> measured.count, measured.mean.tolist(), measured.covariance.tolist()
      (2, [1.0, 2.0], [[2.0, 4.0], [4.0, 8.0]])
    """
    batches = [features] if isinstance(features, np.ndarray) else features
    parts = [_measure(rows) for rows in _blocks(batches)]
    if not parts:
        raise ValueError("no features: expected those of at least one image")
    return functools.reduce(merge, parts)


def _blocks(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for batch in batches:
        for start in range(0, len(batch), ROWS):
            yield np.asarray(batch[start : start + ROWS], np.float64)


def _measure(rows: np.ndarray) -> Statistics:
    mean = rows.mean(0)
    return Statistics(len(rows), mean, (rows - mean).T @ (rows - mean))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of the union of two sets.

    Example:
      >>> merge(statistics(np.zeros((3, 1))), statistics(np.ones((1, 1)))).mean.tolist()
      [0.25]
    """
    count, delta = a.count + b.count, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.count * b.count / count)
    return Statistics(count, a.mean + delta * (b.count / count), scatter)


class Frechet(NamedTuple):
    """A Frechet distance, and the ranks of the covariances.

    Attributes:
      distance: d^2.
      ranks: the ranks of both covariances; below the dimension if singular.
    """

    distance: float
    ranks: tuple[int, int]


def frechet(a: Statistics, b: Statistics) -> Frechet:
    """The Frechet distance with the ranks of the covariances.

    Args:
      a: statistics of one set.
      b: statistics of the other set.
    Returns:
      The distance d^2 >= 0, accurate to about 1e-6 of the traces where covariances are singular.
    Raises:
      ValueError: if a set has fewer than two images, or the dimensions differ.
    Source: Dowson and Landau, 1982; Heusel et al., arXiv 1706.08500, eq. 6.
    """
    if min(a.count, b.count) < 2:
        raise ValueError(f"a covariance needs 2 images or more, got {a.count} and {b.count}")
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features differ in dimension: {a.mean.size} and {b.mean.size}")
    delta, roots = a.mean - b.mean, [_root(part.covariance) for part in (a, b)]
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    overlap = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    distance = max(float(delta @ delta + traces - 2 * overlap), 0.0)
    return Frechet(distance, (roots[0].shape[1], roots[1].shape[1]))


def _root(covariance: np.ndarray) -> np.ndarray:
    """L [d, r] with L L^T = C, where r is the rank of C to working precision."""
    from scipy.linalg import get_lapack_funcs  # takes half a second

    (decompose,) = get_lapack_funcs(["pstrf"], [covariance])
    factor, order, rank, _ = decompose(covariance, lower=1)
    root = np.zeros((len(order), rank))
    root[order - 1] = np.tril(factor)[:, :rank]
    return root


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The Frechet distance (d^2) between two sets of features; see `frechet`.

    Example:
      >>> points = np.random.default_rng(0).normal(size=(50, 2))
      >>> a, b = statistics(points), statistics(points + [3, 4])
      >>> round(frechet_distance(a, b), 6)
      25.0
    """
    return frechet(a, b).distance
