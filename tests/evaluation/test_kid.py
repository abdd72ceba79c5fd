"""KID: its expectation by enumeration, two halves of one set, and its blocks."""

import numpy as np
import pytest

from experiments.evaluation.kid import kid, mmd2

POINTS = np.array([[0.0, 0.0], [1.0, -1.0], [2.0, 3.0]])
P, Q = np.array([0.5, 0.25, 0.25]), np.array([0.2, 0.2, 0.6])


def kernel(x, y):
    return (np.dot(x, y) / len(x) + 1) ** 3


def expected_mmd2():
    """E k(x, x') + E k(y, y') - 2 E k(x, y) over all pairs of points, with their probabilities."""
    table = np.array([[kernel(x, y) for y in POINTS] for x in POINTS])
    return P @ table @ P + Q @ table @ Q - 2 * P @ table @ Q


def draws(weights, count, rng):
    return POINTS[rng.choice(len(POINTS), count, p=weights)]


def test_the_estimate_by_hand():
    x, y = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0], [-1.0]])
    among_x = kernel([1], [2])
    among_y = (kernel([0], [1]) + kernel([0], [-1]) + kernel([1], [-1])) / 3
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert mmd2(x, y) == pytest.approx(among_x + among_y - 2 * between)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (20, 10)])
def test_the_estimate_is_unbiased_whatever_the_number_of_images(n, m):
    rng = np.random.default_rng(0)
    values = [mmd2(draws(P, n, rng), draws(Q, m, rng)) for _ in range(4000)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values) - expected_mmd2()) < 3 * error
    assert error < 0.1 * expected_mmd2()  # otherwise the test shows nothing


def test_kid_is_unbiased_over_repeats():
    rng = np.random.default_rng(1)
    values = [kid(draws(P, 30, rng), draws(Q, 40, rng), blocks=5, seed=i).mean for i in range(400)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values) - expected_mmd2()) < 3 * error
    assert error < 0.1 * expected_mmd2()


def test_two_halves_of_one_set_are_within_two_standard_deviations_of_zero():
    rng = np.random.default_rng(2)
    inside = []
    for repeat in range(20):
        features = np.maximum(rng.normal(size=(400, 64)) @ rng.normal(size=(64, 64)) / 8, 0)
        found = kid(features[:200], features[200:], seed=repeat)
        assert found.size == 100
        inside.append(abs(found.mean) < 2 * found.std)
    assert np.mean(inside) >= 0.9


def test_sets_that_differ_are_far_outside():
    features = np.random.default_rng(3).normal(size=(400, 64))
    found = kid(features[:200], features[200:] + 0.3)
    assert found.mean > 10 * found.std > 0


def test_the_standard_deviation_is_that_of_the_full_estimate_when_blocks_are_halves():
    """The values of half sets vary as much as those of whole sets (when the sets differ)."""
    rng, whole, halves = np.random.default_rng(4), [], []
    for repeat in range(200):
        x, y = rng.normal(size=(40, 3)), rng.normal(1, 1, (40, 3))
        whole.append(mmd2(x, y))
        halves.append(kid(x, y, blocks=20, seed=repeat).std)
    assert np.mean(halves) == pytest.approx(np.std(whole), rel=0.25)


def test_the_seed_and_nothing_else_decides_the_blocks():
    x, y = np.random.default_rng(5).normal(size=(2, 50, 4))
    assert kid(x, y, blocks=10, seed=7) == kid(x.copy(), y.copy(), blocks=10, seed=7)
    assert kid(x, y, blocks=10, seed=7) != kid(x, y, blocks=10, seed=8)


def test_blocks_are_as_large_as_asked_for_but_half_of_the_smaller_set_at_most():
    x, y = np.random.default_rng(6).normal(size=(2, 90, 4))
    assert kid(x, y[:41], blocks=3).size == 20
    found = kid(x, y, blocks=3, size=11)
    assert (found.size, found.blocks) == (11, 3)


@pytest.mark.parametrize(("n", "m", "blocks"), [(3, 90, 9), (90, 3, 9), (90, 90, 1)])
def test_too_few_images_or_blocks(n, m, blocks):
    x = np.zeros((90, 2))
    with pytest.raises(ValueError, match="4 images or more in each set and 2 blocks"):
        kid(x[:n], x[:m], blocks=blocks)


def test_features_in_float32_are_summed_in_float64():
    x, y = np.random.default_rng(7).normal(1, 0.01, (2, 300, 50)).astype(np.float32)
    exact = mmd2(x.astype(np.float64), y.astype(np.float64))
    assert mmd2(x, y) == exact
    assert abs(exact) < 1e-4  # differences of numbers near 8
