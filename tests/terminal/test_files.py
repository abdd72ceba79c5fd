"""Output files: pixel values, pictures, metrics.jsonl, TensorBoard events, JSON and arrays."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments.evaluation.pictures import save_histogram
from experiments.terminal import files, pictures
from experiments.trainer.log import Log
from jaxddim.runs import record as records
from jaxddim.runs.drawing import to_uint8
from jaxddim.runs.errors import RunError
from tests import tiny


def levels(*values):
    """Values in 0..255 mapped to [-1, 1]."""
    return np.array(values) / 127.5 - 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1, 0), (1, 255), (0, 128), (-7.0, 0), (1.001, 255)],
)
def test_pixels_have_known_values_at_the_ends_in_the_middle_and_outside(value, expected):
    assert to_uint8(np.float32(value)) == expected


def test_pixels_are_rounded_and_not_truncated():
    assert to_uint8(levels(10.6, 10.4, 254.7, 0.51)).tolist() == [11, 10, 255, 1]


def test_every_pixel_value_survives_the_way_to_minus_one_to_one_and_back():
    values = np.arange(256)
    np.testing.assert_array_equal(to_uint8(levels(*values).astype(np.float32)), values)


def test_a_grid_is_filled_row_by_row_with_white_between_and_after():
    images = np.stack([np.full((2, 3, 3), shade, np.uint8) for shade in (10, 20, 30, 40, 50)])
    w = 255
    expected = [
        [10, 10, 10, w, 20, 20, 20, w, 30, 30, 30],
        [10, 10, 10, w, 20, 20, 20, w, 30, 30, 30],
        [w] * 11,
        [40, 40, 40, w, 50, 50, 50, w, w, w, w],
        [40, 40, 40, w, 50, 50, 50, w, w, w, w],
    ]
    picture = pictures.grid(images, gap=1)
    assert picture[..., 0].tolist() == expected
    assert (picture[..., 0] == picture[..., 2]).all()
    assert picture.dtype == np.uint8


def test_a_grid_of_one_column_stands_and_of_n_columns_lies():
    images = np.zeros((4, 8, 6, 3), np.uint8)
    assert pictures.grid(images, columns=1).shape == (4 * 8 + 3 * 2, 6, 3)
    assert pictures.grid(images, columns=4).shape == (8, 4 * 6 + 3 * 2, 3)


def test_a_png_holds_each_pixel_enlarged_and_nothing_else_is_left(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    pictures.save_png(tmp_path / "new" / "a.png", pixels, zoom=2)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.format == "PNG"
        read = np.asarray(image)
    assert read[:, :, 0].tolist() == [[0, 0, 3, 3], [0, 0, 3, 3], [6, 6, 9, 9], [6, 6, 9, 9]]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.png"
    pictures.save_png(path, np.zeros((2, 2, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        pictures.save_png(path, np.zeros((2, 2, 5), np.uint8))
    assert path.read_bytes() == before


def test_an_npz_holds_the_images_under_their_name(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    pictures.save_npz(tmp_path / "a.npz", images)
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["images"], images)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_numbers_and_pictures_can_be_read_back_from_both_files(tmp_path):
    log = Log(tmp_path)
    log.write(3, loss=0.25, epoch=1.5)
    log.picture(3, "samples", np.full((4, 5, 3), 7, np.uint8))
    log.close()
    assert tiny.metrics(tmp_path) == [{"step": 3, "loss": 0.25, "epoch": 1.5}]
    values = {
        value.tag: (event.step, value)
        for event in tiny.events(tmp_path)
        for value in event.summary.value
    }
    assert set(values) == {"loss", "epoch", "samples"}
    assert [values["loss"][0], values["loss"][1].simple_value] == [3, 0.25]
    image = values["samples"][1].image
    assert (image.height, image.width) == (4, 5)


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    log = Log(tmp_path)
    log.write(1, loss=1.0)
    assert len(tiny.metrics(tmp_path)) == 1
    log.close()


def test_resuming_drops_what_came_after_the_checkpoint_and_a_line_cut_short(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (5, 10, 11, 15)]
    torn = '{"step": 9, "lo'
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, torn]))
    log = Log(tmp_path, resumed_at=10)
    log.write(15, loss=2.0)
    log.close()
    assert [(line["step"], line["loss"]) for line in tiny.metrics(tmp_path)] == [
        (5, 1.0),
        (10, 1.0),
        (15, 2.0),
    ]


def test_json_has_a_line_a_name_and_lists_of_numbers_on_one():
    record = {"a": [1, 2.5, -3], "b": {"c": [], "d": ["x, [y]", 'q"]'], "e": [[1, 2], [3, 4]]}}
    text = files.to_json(record)
    assert json.loads(text) == record
    assert '\n  "a": [1, 2.5, -3],\n' in text
    assert "      [1, 2],\n      [3, 4]\n" in text


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, np.float64(np.nan)])
@pytest.mark.parametrize("where", ["save_json", "to_json", "metrics.jsonl"])
def test_json_has_null_for_a_number_that_is_not_finite(tmp_path, where, number):
    path = tmp_path / "a.json"
    if where == "save_json":
        files.save_json(path, {"step": 1, "a": number, "b": 2.5})
    elif where == "to_json":
        path.write_text(files.to_json({"step": 1, "a": number, "b": 2.5}))
    else:
        log, path = Log(tmp_path), tmp_path / where
        log.write(1, a=number, b=2.5)
        log.close()
    constants = []
    read = json.loads(path.read_text(), parse_constant=constants.append)
    assert (read, constants) == ({"step": 1, "a": None, "b": 2.5}, [])


WRITERS = {
    "json": lambda path: files.save_json(path, {"a": 1}),
    "text": lambda path: files.save_text(path, "text"),
    "arrays": lambda path: files.save_arrays(path, a=np.zeros(3)),
    "png": lambda path: pictures.save_png(path, np.zeros((2, 2, 3), np.uint8)),
    "npz": lambda path: pictures.save_npz(path, np.zeros((1, 2, 2, 3), np.uint8)),
    "histogram": lambda path: save_histogram(path, np.ones(3), np.ones(3), "x"),
    "record": lambda path: records.write(str(path.parent), {"config": {}}),
    "names": lambda path: records.write_names(str(path.parent), ["a"]),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_is_stopped_leaves_no_file(tmp_path, monkeypatch, name, error):
    def stopped(*arguments):
        raise error

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises((error, RunError)):
        WRITERS[name](tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_arrays_come_back_bit_for_bit(tmp_path):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}
    files.save_arrays(tmp_path / "new" / "a.npz", **arrays)
    with np.load(tmp_path / "new" / "a.npz") as file:
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("owner", "mode", "trusted"),
    [
        (1000, 0o755, True),
        (1000, 0o775, True),
        (1000, 0o757, False),
        (1000, 0o1777, False),
        (0, 0o755, True),
        (0, 0o777, False),
        (1001, 0o700, False),
        (1002, 0o700, True),  # the owner of the cache
    ],
)
def test_what_others_may_have_written_is_not_trusted(owner, mode, trusted, monkeypatch):
    class Entry:
        def __init__(self, owner, mode):
            self.stat = lambda: SimpleNamespace(st_uid=owner, st_mode=mode)

    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert files.is_trusted(Entry(owner, mode), Entry(1002, 0o755)) is trusted
