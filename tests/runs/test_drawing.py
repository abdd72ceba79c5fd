"""From numbers to pixels: images that hold no numbers are never written."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.trainer import previews
from jaxddim.runs import opened
from jaxddim.runs.config import Config
from jaxddim.runs.drawing import in_chunks, to_uint8
from jaxddim.runs.errors import RunError
from jaxddim.runs.opened import load_run
from tests import tiny

root = tiny.root


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(), (0,), (1, 2, 3, 0)])
def test_images_that_are_not_finite_are_an_error(value, where):
    images = np.zeros((2, 4, 4, 3), np.float32)
    np.testing.assert_array_equal(to_uint8(images), 128)
    images[where] = value
    with pytest.raises(RunError, match="not finite"):
        to_uint8(images)


@pytest.mark.parametrize("num", [0, 1, 2, 3, 7])
def test_a_chunk_is_dispatched_before_the_one_before_it_is_taken(num):
    size, told = 2 * jax.device_count(), []

    def draw(first):
        told.append(f"drawn {first // size}")
        return np.full((2, 1, 1, 1), first / 100)

    for i, images in enumerate(in_chunks(draw, num * size, 2)):
        told.append(f"taken {i}")
        np.testing.assert_array_equal(images, to_uint8(np.full((2, 1, 1, 1), i * size / 100)))
    taken = [f"taken {i}" for i in range(num)]
    drawn = [f"drawn {i}" for i in range(num)]
    pairs = zip(drawn[1:], taken, strict=False)
    assert told == drawn[:1] + [word for pair in pairs for word in pair] + taken[-1:]


@pytest.mark.parametrize("wrong", ["samples", "strip"])
def test_a_preview_of_nan_writes_no_picture(wrong, tmp_path):
    images = {name: np.zeros((2, 4, 4, 3)) for name in ("samples", "strip")}
    images[wrong][0] = np.nan

    class Log:
        def picture(self, step, name, pixels):
            assert not name.endswith(wrong.removeprefix("samples")) or wrong == "samples"
            assert wrong != "samples"

    with pytest.raises(RunError, match="not finite"):
        previews.write_samples(Config(str(tmp_path)), Log(), 1, **images)
    assert len(list(tmp_path.rglob("*.png"))) == (wrong == "strip")


@pytest.mark.parametrize(
    "command, flags",
    [
        ("sample", ["--num", "1", "--out", "images.png"]),
        ("sample", ["--num", "1", "--out", "images.npz"]),
        ("sample", ["--num", "1", "--out", "images"]),
        ("evaluate", ["--num", "4", "--metrics", "neighbours"]),
    ],
)
def test_a_command_that_draws_nan_says_so_and_writes_nothing(
    command, flags, root, tmp_path, monkeypatch
):
    """With weights that are NaN, as after a training that diverged between two checkpoints."""
    workdir = tiny.trained(root)[0]

    def damaged(*args):
        run = load_run(*args)
        return dataclasses.replace(run, variables=jax.tree.map(lambda a: a * np.nan, run.variables))

    monkeypatch.setattr(opened, "load_run", damaged)
    monkeypatch.chdir(tmp_path)
    told = tiny.command(command, "--workdir", workdir, "--steps", "2", *flags)
    assert (told.code, told.out) == (2, "")
    (line,) = tiny.complaints(told.err)
    assert "not finite" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
