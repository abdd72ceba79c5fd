"""The Frechet distance against closed forms, and statistics against NumPy."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from experiments.evaluation.frechet import Statistics, frechet, frechet_distance, merge, statistics


def gaussian(mean, covariance, count=1000):
    """Statistics that are exactly those of N(mean, covariance)."""
    covariance = np.asarray(covariance, float)
    return Statistics(count, np.asarray(mean, float), covariance * (count - 1))


def rotation(dims, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dims, dims)))[0]


def rotated(variances, q):
    return (q * np.asarray(variances, float)) @ q.T


# -- closed forms --------------------------------------------------------------------


def test_equal_covariances_leave_the_distance_of_the_means():
    covariance = rotated([4, 1, 0.25], rotation(3))
    a, b = gaussian([0, 0, 0], covariance), gaussian([1, 2, -2], covariance)
    assert frechet_distance(a, b) == pytest.approx(9, rel=1e-12)


def test_in_one_dimension_it_is_the_distance_of_mean_and_deviation():
    a, b = gaussian([1], [[9]]), gaussian([-1], [[0.25]])
    assert frechet_distance(a, b) == pytest.approx(2**2 + (3 - 0.5) ** 2, rel=1e-12)


@pytest.mark.parametrize("dims", [2, 50, 300])
def test_covariances_with_common_axes(dims):
    rng, q = np.random.default_rng(1), rotation(dims)
    u, v = rng.uniform(0, 9, dims), rng.uniform(0, 9, dims)
    a, b = gaussian(np.zeros(dims), rotated(u, q)), gaussian(np.ones(dims), rotated(v, q))
    expected = dims + np.square(np.sqrt(u) - np.sqrt(v)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_two_dimensions_with_other_axes():
    """The root of a 2x2 matrix M has the trace sqrt(tr M + 2 sqrt(det M))."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.5, -1.1], [-1.1, 1.0]])
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert abs(a @ b - b @ a).max() > 1
    distance = frechet_distance(gaussian([0, 0], a), gaussian([0, 3], b))
    assert distance == pytest.approx(9 + 3 + 2.5 - 2 * root, rel=1e-12)


def test_covariances_on_one_line_each():
    """For C_a = u u^T and C_b = v v^T the trace of the root is |u . v|, in any dimension."""
    rng = np.random.default_rng(2)
    u, v = rng.normal(size=(2, 200))
    a, b = gaussian(np.zeros(200), np.outer(u, u)), gaussian(np.zeros(200), np.outer(v, v))
    found = frechet(a, b)
    assert found.distance == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-9)
    assert found.ranks == (1, 1)


def test_one_singular_covariance():
    variances, dims = np.array([4.0, 1, 0, 0, 0]), 5
    q = rotation(dims)
    found = frechet(gaussian(np.zeros(5), rotated(variances, q)), gaussian(np.zeros(5), np.eye(5)))
    assert found.distance == pytest.approx(1 + 0 + 3, rel=1e-9)  # (2 - 1)^2 + 0 + 3 (0 - 1)^2
    assert found.ranks == (2, 5)


def test_no_spread_at_all_leaves_the_means():
    a, b = statistics(np.zeros((5, 3))), statistics(np.ones((4, 3)))
    assert frechet(a, b) == (3.0, (0, 0))


def test_fewer_images_than_dimensions_are_nothing_special():
    """The few images span a subspace; there the distance is that of a full-rank problem."""
    x, y = np.random.default_rng(3).normal(size=(2, 40, 4)) * [1, 2, 3, 4]
    q = rotation(500)[:, :4]
    inside = frechet_distance(statistics(x), statistics(y))
    found = frechet(statistics(x @ q.T), statistics(y @ q.T))
    assert found.distance == pytest.approx(inside, rel=1e-9)
    assert found.ranks == (4, 4)


# -- properties ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 500])
def test_zero_for_the_same_set_symmetric_and_blind_to_rotations(count):
    rng, q = np.random.default_rng(4), rotation(60)
    x, y = rng.gamma(1.0, size=(2, count, 60)).astype(np.float32)
    a, b = statistics(x), statistics(y)
    distance = frechet_distance(a, b)
    assert distance > 1
    assert frechet_distance(a, a) < 1e-9 * np.trace(a.covariance)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(statistics(x @ q), statistics(y @ q)) == pytest.approx(
        distance, rel=1e-5
    )


def test_it_grows_with_the_square_of_the_scale():
    x, y = np.random.default_rng(5).normal(size=(2, 100, 8))
    small = frechet_distance(statistics(x), statistics(y))
    assert frechet_distance(statistics(10 * x), statistics(10 * y)) == pytest.approx(100 * small)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 2)), np.zeros((5, 2)), "needs 2 images or more, got 1 and 5"),
        (np.zeros((5, 2)), np.zeros((5, 3)), "features differ in dimension: 2 and 3"),
    ],
)
def test_what_has_no_distance(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet(statistics(a), statistics(b))


# -- statistics ----------------------------------------------------------------------


@hypothesis.given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_batches_of_any_sizes_give_what_numpy_gives(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(1000, 1, (size, 3)).astype(np.float32) for size in sizes]
    everything = np.concatenate(parts).astype(np.float64)
    measured = statistics(iter(parts))
    assert measured.count == sum(sizes)
    np.testing.assert_allclose(measured.mean, everything.mean(0), rtol=1e-14)
    centred = everything - everything.mean(0)
    np.testing.assert_allclose(measured.scatter, centred.T @ centred, rtol=1e-9, atol=1e-9)


def test_covariance_is_numpys_also_when_features_come_in_one_piece():
    features = np.random.default_rng(6).normal(5, 2, (9000, 4)).astype(np.float32)
    measured = statistics(features)  # read in blocks
    np.testing.assert_allclose(measured.covariance, np.cov(features.T.astype(float)), rtol=1e-12)
    assert (measured.count, measured.mean.dtype) == (9000, np.float64)


def test_merging_does_not_depend_on_the_order():
    a, b = (statistics(np.random.default_rng(i).normal(i, 1, (n, 3))) for i, n in ((0, 7), (1, 2)))
    for one, other in zip(merge(a, b), merge(b, a), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_statistics_of_nothing_are_an_error():
    for nothing in ([], [np.zeros((0, 3))], np.zeros((0, 3))):
        with pytest.raises(ValueError, match="at least one"):
            statistics(nothing)
