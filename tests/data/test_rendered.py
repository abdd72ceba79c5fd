"""Rendered cars: pure functions of (seed, index, size), and the dataset made from them."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments.cars import VERSION, designs
from experiments.data import cache
from experiments.data.sources import rendered


@pytest.fixture(scope="module")
def pictures():
    return rendered.render(range(256), size=32)


@pytest.mark.parametrize("size", [16, 32, 64, 96])
def test_shape_and_range(size):
    images = rendered.render(range(20), size=size)
    assert images.shape == (20, size, size, 3)
    assert images.dtype == np.uint8
    assert images.min() < 40  # tyres
    assert images.max() > 200  # lamps


def test_a_picture_does_not_depend_on_its_batch(pictures):
    order = np.random.default_rng(0).permutation(256)
    np.testing.assert_array_equal(rendered.render(order, size=32), pictures[order])
    for index in (0, 17, 255):
        np.testing.assert_array_equal(rendered.render([index], size=32)[0], pictures[index])
    assert rendered.render([], size=32).shape == (0, 32, 32, 3)


def test_indices_and_seeds_differ(pictures):
    assert len({image.tobytes() for image in pictures}) == 256
    other = rendered.render(range(256), size=32, seed=1)
    assert (other != pictures).any(axis=(1, 2, 3)).all()
    assert (rendered.labels(range(256)) != rendered.labels(range(256), seed=1)).any()


def test_one_design_at_every_size():
    """Area averages of a large picture are close to the small picture."""
    small = rendered.render(range(64), size=32).astype(float)
    large = rendered.render(range(64), size=128).astype(float)
    shrunk = large.reshape(64, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    error = np.abs(small - shrunk).mean(axis=(1, 2, 3))
    mismatch = np.abs(small - np.roll(shrunk, 1, axis=0)).mean(axis=(1, 2, 3))
    assert error.max() < 8
    assert (error < 0.5 * mismatch).mean() > 0.95


def test_cars_fill_the_frame_and_face_both_ways(pictures):
    """Rows are constant outside the car, so pixels unlike a row's first one are the car."""
    images = pictures.astype(float)
    background = images[:, :, :1]  # the first column shows no car
    touched = (np.abs(images - background).max(axis=-1) > 12).any(axis=1)
    width = np.array([np.ptp(np.flatnonzero(row)) + 1 for row in touched]) / 32
    assert (width >= 0.70).mean() > 0.98
    assert (width <= 1.0).all()
    mirrored = designs.design(np.arange(256), 0).mirrored
    assert 0.4 < mirrored.mean() < 0.6
    # White or red lamps are at the ends, so mirroring shows in the pixels as well.
    assert np.abs(images - images[:, :, ::-1]).mean(axis=(1, 2, 3)).min() > 2


def test_no_picture_is_degenerate(pictures):
    assert pictures.std(axis=(1, 2)).mean(axis=1).min() > 15
    middle = pictures[:, 10:26, 4:28].astype(float)
    assert middle.std(axis=(1, 2)).mean(axis=1).min() > 15


def test_labels_cover_all_body_types():
    kinds = rendered.labels(range(700))
    counts = np.bincount(kinds, minlength=len(rendered.BODY_TYPES))
    assert len(counts) == len(rendered.BODY_TYPES)
    assert counts.min() > 60  # 100 expected, standard deviation 9
    np.testing.assert_array_equal(rendered.labels([5, 3]), kinds[[5, 3]])


def test_body_types_have_their_own_silhouettes(pictures):
    """Vans are taller than coupes: on average they begin further up in the frame."""
    kinds = rendered.labels(range(256))
    top = pictures[:, :, 12:20].astype(float)
    changed = np.abs(top - top[:, :1]).max(axis=(2, 3)) > 30
    first_row = {
        name: changed[kinds == number].argmax(axis=1).mean()
        for number, name in enumerate(rendered.BODY_TYPES)
    }
    assert first_row["van"] + 1 < first_row["coupe"]


def test_builder_holds_the_pictures(tmp_path):
    builder = rendered.prepare(16, 150, seed=3, data_dir=tmp_path)
    assert builder.info.features["label"].names == list(rendered.BODY_TYPES)
    source = builder.as_data_source("train")
    assert len(source) == 150
    np.testing.assert_array_equal(
        np.stack([record["image"] for record in source]),
        rendered.render(range(150), size=16, seed=3),
    )
    np.testing.assert_array_equal(
        [record["label"] for record in source], rendered.labels(range(150), seed=3)
    )


def test_preparing_again_reads_what_is_there(tmp_path, monkeypatch):
    first = rendered.prepare(16, 3, data_dir=tmp_path)
    other = rendered.prepare(16, 3, seed=1, data_dir=tmp_path)
    assert first.data_dir != other.data_dir
    monkeypatch.setattr(rendered, "render", None)  # drawing would now fail
    again = rendered.prepare(16, 3, data_dir=tmp_path)
    assert again.data_dir == first.data_dir
    assert len(again.as_data_source("train")) == 3


def test_losing_a_race_is_no_error(tmp_path, monkeypatch):
    """Another process may finish the same folder while this one still draws."""
    draw = rendered.render

    def slow(*args, **kwargs):
        monkeypatch.setattr(rendered, "render", draw)
        rendered.prepare(16, 3, data_dir=tmp_path)
        return draw(*args, **kwargs)

    monkeypatch.setattr(rendered, "render", slow)
    assert len(rendered.prepare(16, 3, data_dir=tmp_path).as_data_source("train")) == 3


def test_what_a_killed_conversion_left_a_day_ago_is_removed(tmp_path):
    builder = rendered.RenderedCars(
        data_dir=tmp_path, config=rendered.RenderedConfig(size=(16, 16), num_images=3, seed=0)
    )
    place = Path(builder.data_dir).parent
    for name, age in (("incomplete.OLD_1", 2), ("incomplete.NEW_1", 0)):
        (place / name).mkdir(parents=True)
        then = time.time() - age * cache.STALE_SECONDS
        os.utime(place / name, (then, then))
    rendered.prepare(16, 3, data_dir=tmp_path)
    assert [path.name for path in place.glob("incomplete.*")] == ["incomplete.NEW_1"]


def test_the_default_is_found_by_name(tmp_path):
    builder = tfds.builder("rendered_cars", data_dir=tmp_path, file_format="array_record")
    assert builder.builder_config.name == "64x64_4096_seed0"
    assert not builder.is_prepared()


def test_tensorflow_is_not_imported(tmp_path):
    script = (
        "import sys\n"
        "from experiments.data.sources.rendered import prepare\n"
        "source = prepare(16, 2, data_dir=sys.argv[1]).as_data_source('train')\n"
        "assert source[0]['image'].shape == (16, 16, 3)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


DRAWN = {"1.0.0": "9892da9478671c2e371ec76bde53b44412233485b0ea1a3d2f9f699929c4c0e8"}
"""Version of the drawing -> sha256 over eight small pictures and their labels."""


def test_other_pixels_or_labels_come_with_another_version():
    pictures, kinds = rendered.render(range(8), size=24), rendered.labels(range(8))
    found = hashlib.sha256(pictures.tobytes() + bytes(kinds.tolist())).hexdigest()
    advice = "the drawing has changed: raise VERSION in experiments/cars and add its hash here"
    assert DRAWN.get(VERSION) == found, advice
    assert str(rendered.RenderedCars.VERSION) == VERSION
