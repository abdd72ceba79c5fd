"""Averages of any length: profiles against their definition, and against averages kept directly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxddim.training import averages

N = 1000


def profile(length, steps):
    """The weights of steps 1..steps in a power-function average, as sums give them."""
    k = np.arange(1, steps + 1, dtype=np.float64)
    weights = k ** averages.exponent(length)
    return weights / weights.sum()


def path(n=N, size=30):
    """Parameters that move as in a training whose learning rate falls."""
    moves = np.random.default_rng(0).normal(size=(n, size)) * np.linspace(1, 0.02, n)[:, None]
    return np.cumsum(moves, 0)


@pytest.mark.parametrize("length", [0.03, 0.05, 0.1, 0.17, 0.25])
def test_the_length_is_the_relative_deviation_of_the_profile(length):
    weights, times = profile(length, 20_000), np.arange(1, 20_001) / 20_000
    mean = weights @ times
    assert np.sqrt(weights @ (times - mean) ** 2) == pytest.approx(length, rel=1e-3)


def test_updating_step_by_step_gives_the_profile():
    points = path(200)
    kept = (jnp.zeros(30), jnp.zeros(30))
    for n, point in enumerate(points, 1):
        kept = averages.updated(kept, jnp.asarray(point, jnp.float32), jnp.int32(n))
    for found, length in zip(kept, averages.LENGTHS, strict=True):
        # the recursion and the sum differ by how they treat the width of a step
        np.testing.assert_allclose(found, profile(length, 200) @ points, atol=0.1)


@pytest.mark.parametrize("length", [0.04, 0.05, 0.07, 0.1, 0.15, 0.2])
def test_another_length_is_made_of_stored_ones(length):
    points, steps = path(), [N]
    while steps[-1] > averages.OLDEST * N:
        steps.append(int(steps[-1] / averages.RATIO))
    steps = sorted(steps)
    stored = [
        [{"w": np.float32(profile(kept, step) @ points[:step])} for kept in averages.LENGTHS]
        for step in steps
    ]
    weights = averages.coefficients(steps, length, N)
    found = averages.combined(stored, weights)["w"]
    wanted = profile(length, N) @ points
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    error = np.square(found - wanted).mean() / np.square(wanted - points[-1]).mean()
    assert np.sqrt(error) < 0.05


@pytest.mark.parametrize("length", [0.0, 0.02, 0.3, float("nan")])
def test_impossible_lengths_are_named(length):
    with pytest.raises(ValueError, match="must lie in"):
        averages.exponent(length)


@pytest.mark.parametrize("steps", [[], [5, 11], [0, 5]])
def test_pairs_must_not_be_later_than_the_average(steps):
    with pytest.raises(ValueError, match="must be some of"):
        averages.coefficients(steps, 0.1, 10)


def test_types_and_structure_are_kept():
    stored = [[{"a": jnp.ones(2, jnp.bfloat16), "b": [jnp.ones(())]}] * 2] * 3
    found = averages.combined(stored, np.full((3, 2), 1 / 6))
    assert jax.tree.map(lambda leaf: leaf.dtype.name, found) == {"a": "bfloat16", "b": ["float32"]}
    np.testing.assert_allclose(found["b"][0], 1.0, rtol=1e-6)
