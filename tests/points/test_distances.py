"""Distances between clouds of points, against known values."""

import numpy as np
import pytest

from experiments.points.distances import BANDWIDTHS, mmd2, sliced_wasserstein

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4000, 2))


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_a_shift_has_its_length_over_the_root_of_two():
    """Over all directions the mean of (shift . direction)^2 is |shift|^2 / 2."""
    assert sliced_wasserstein(X, X + np.array([3, 4])) == pytest.approx(5 / 2**0.5)
    assert sliced_wasserstein(X, X) == 0


def test_two_gaussians_have_the_distance_of_their_means_and_widths():
    """In one dimension W2^2 of N(a, s^2) and N(b, r^2) is (a - b)^2 + (s - r)^2."""
    y = [1.2, -0.5] + 1.8 * RNG.normal(size=X.shape)
    expected = np.sqrt((1.2**2 + 0.5**2) / 2 + 0.8**2)
    assert sliced_wasserstein(X, y) == pytest.approx(expected, abs=0.05)


def test_the_order_of_points_and_turning_both_clouds_change_nothing():
    y = np.abs(RNG.normal(size=X.shape))
    distance = sliced_wasserstein(X, y)
    assert sliced_wasserstein(X[::-1], y) == pytest.approx(distance)
    assert sliced_wasserstein(y, X) == pytest.approx(distance)
    turned = sliced_wasserstein(X @ turn(0.7).T, y @ turn(0.7).T)
    assert turned == pytest.approx(distance, rel=1e-3)


def test_the_floor_falls_with_the_root_of_the_number_of_points():
    floors = [
        np.mean([sliced_wasserstein(*RNG.normal(size=(2, n, 2))) for _ in range(30)])
        for n in (200, 3200)
    ]
    assert 3 < floors[0] / floors[1] < 5


def expected_kernel(shift):
    """E k(x, y) of two points of N(0, I), one of them shifted: a Gaussian integral."""
    square = np.sum(np.square(shift))
    widths = np.square(BANDWIDTHS)
    return np.mean(widths / (widths + 2) * np.exp(-square / 2 / (widths + 2)))


@pytest.mark.parametrize("shift", [[0, 0], [0.6, -0.3]])
def test_the_estimate_of_mmd2_is_unbiased_even_of_a_few_points(shift):
    expected = 2 * expected_kernel([0, 0]) - 2 * expected_kernel(shift)
    estimates = [
        mmd2(RNG.normal(size=(20, 2)), shift + RNG.normal(size=(30, 2))) for _ in range(1500)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - expected) < 4 * error
    # with the pairs i = j it would be too large by about (1 / 20 + 1 / 30), for distant points
    assert 4 * error < 0.2 * (1 / 20 + 1 / 30)


def test_mmd2_of_a_cloud_with_itself_is_below_zero():
    """Only the pairs i = j between the clouds contribute."""
    n = 100
    x = RNG.normal(size=(n, 2)) * 1e3  # too far apart for other pairs to count
    assert mmd2(x, x) == pytest.approx(-2 / n, rel=1e-6)


def test_mmd2_sees_what_the_means_and_covariances_do_not():
    n = 3000
    signs = RNG.choice([-0.9, 0.9], size=(n, 2)) + np.sqrt(1 - 0.81) * RNG.normal(size=(n, 2))
    other = [mmd2(*RNG.normal(size=(2, n, 2))) for _ in range(5)]
    assert mmd2(X[:n], signs) > 20 * np.max(np.abs(other))


@pytest.mark.parametrize(
    ("x", "y"), [((5, 2), (6, 2)), ((5, 3), (5, 3)), ((5,), (5,)), ((2, 5, 2), (2, 5, 2))]
)
def test_sliced_wasserstein_says_what_it_takes(x, y):
    with pytest.raises(ValueError, match=r"two clouds \[n, 2\]"):
        sliced_wasserstein(np.zeros(x), np.zeros(y))


@pytest.mark.parametrize(("x", "y"), [((1, 2), (5, 2)), ((5, 2), (5, 3)), ((5,), (5,))])
def test_mmd2_says_what_it_takes(x, y):
    with pytest.raises(ValueError, match="expected clouds"):
        mmd2(np.zeros(x), np.zeros(y))
