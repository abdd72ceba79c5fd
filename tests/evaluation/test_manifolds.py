"""Precision and recall of sets counted by eye, and neighbours against brute force."""

import numpy as np
import pytest

from experiments.evaluation import manifolds
from experiments.evaluation.manifolds import nearest, precision_recall

LINE = np.arange(10.0)[:, None]  # k = 1: all balls have radius 1; k = 2: those of the ends have 2


@pytest.fixture(params=[1000, 3])
def rows(request, monkeypatch):
    """Distances in one block, and in several."""
    monkeypatch.setattr(manifolds, "ROWS", request.param)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("samples", "k", "precision", "recall"),
    [
        (LINE, 1, 1, 1),
        (LINE[::-1], 3, 1, 1),
        (LINE + 100, 3, 0, 0),
        (np.full((10, 1), 4.2), 1, 1, 0),  # one mode: close to the data, but covers none of it
        (LINE[:5], 1, 1, 0.6),  # 0..4, and 5 on the edge of the last ball
        (np.concatenate([LINE[:5], LINE[:5] + 50]), 1, 0.5, 0.6),
        (np.array([[-1.5], [10.5], [-2.5], [11.5]]), 1, 0, 0),
        (np.array([[-1.5], [10.5], [-2.5], [11.5]]), 2, 0.5, 1),
    ],
)
def test_counted_by_eye(samples, k, precision, recall):
    assert precision_recall(LINE, samples, k=k) == (precision, pytest.approx(recall))


def test_samples_of_another_number_than_the_reference():
    assert precision_recall(LINE, np.array([[0.5], [1.5], [50.0]]), k=1) == (
        pytest.approx(2 / 3),
        pytest.approx(1.0),  # the ball of 50 reaches 1.5 and covers the line except 0 and 1
    )


def test_precision_and_recall_change_places_with_the_sets():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 3)) * [[[1]], [[2]]]
    one, other = precision_recall(x, y), precision_recall(y, x)
    assert one.precision < 0.8 < one.recall
    assert one == (other.recall, other.precision)


@pytest.mark.parametrize("k", [0, 3, 4])
def test_a_neighbour_that_is_not_there(k):
    with pytest.raises(ValueError, match=r"k must lie in 1..2 for 10 and 3 images"):
        precision_recall(LINE, LINE[:3], k=k)


@pytest.mark.usefixtures("rows")
def test_neighbours_are_those_of_a_search_pair_by_pair():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32)
    found = nearest(x, y, 3)
    for i, row in enumerate(x):
        pairs = sorted((float(np.linalg.norm(row - other)), j) for j, other in enumerate(y))[:3]
        assert found.indices[i].tolist() == [j for _, j in pairs]
        np.testing.assert_allclose(found.distances[i], [d for d, _ in pairs], rtol=1e-6)


def test_a_copy_is_at_distance_zero_however_large_the_features():
    y = np.random.default_rng(2).uniform(1000, 1001, (50, 300)).astype(np.float32)
    found = nearest(y[7:9], y, 1)
    assert found.indices.ravel().tolist() == [7, 8]
    assert found.distances.max() == 0
