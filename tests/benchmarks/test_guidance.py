"""benchmarks.studies.guidance: its classifier and its picture."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.studies import guidance
from experiments.terminal.errors import UserError


def test_the_classifier_tells_classes_apart_and_knows_no_more_than_there_is():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 20)) * 3
    labels = rng.integers(0, 3, 600)
    features = (centers[labels] + rng.normal(size=(600, 20))).astype(np.float32)
    predict = guidance.classifier(features[:300], labels[:300], 3)
    assert np.mean(predict(features[300:]) == labels[300:]) > 0.97
    blind = guidance.classifier(features[:300], rng.permutation(labels[:300]), 3)
    assert np.mean(blind(features[300:]) == labels[300:]) < 0.6


def test_a_row_of_the_picture_is_a_class_and_a_block_a_strength():
    classes, n = 3, 2 * guidance.COLUMNS
    labels = np.arange(classes * n) % classes
    number = np.arange(classes * n) // classes
    images = np.zeros((classes * n, 4, 4, 3), np.uint8)
    images[..., 0] = labels[:, None, None]
    images[..., 1] = number[:, None, None]
    picture = guidance.grid([images, images + np.array([0, 0, 7], np.uint8)], classes)
    assert picture.shape == (3 * 6 - 2, 2 * (4 * 6 - 2) + 8, 3)
    second = picture[:, 4 * 6 - 2 + 8 :]
    for row in range(classes):
        for column in range(guidance.COLUMNS):
            assert picture[6 * row, 6 * column].tolist() == [row, column, 0]
            assert second[6 * row, 6 * column].tolist() == [row, column, 7]


def test_a_run_without_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(guidance, "load_run", lambda workdir: SimpleNamespace(classes=None))
    with pytest.raises(UserError, match="runs/demo has not learned labels"):
        guidance.measure(guidance.GuidanceConfig(workdir="runs/demo", out=str(tmp_path)))
