"""Runs on images that are not square, or grey, through every command."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import data
from jaxddim.runs.config import DataConfig
from tests import tiny

root = tiny.root
CASES = {  # flags -> height, width, channels
    "wide": (["--data.image-size", "8x12"], (8, 12, 3)),
    "tall-grey": (["--data.image-size", "12x8", "--data.channels", "1"], (12, 8, 1)),
    "grey": (["--data.channels", "1"], (8, 8, 1)),
}
FEW = ["--train.steps", "2", "--train.checkpoint-every", "2", "--train.num-samples", "2"]
FEW += ["--diffusion.num-steps", "50"]  # the variational bound has a term for each


pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(scope="module")
def run(root):
    made = {}

    def train(case):
        if case not in made:
            workdir = root / f"shape-{case}"
            made[case] = (
                workdir,
                tiny.command("train", *tiny.flags(root, workdir), *CASES[case][0], *FEW),
            )
        return made[case]

    return train


def pixels(path):
    with Image.open(path) as image:
        found = np.asarray(image)
    return found if found.ndim == 3 else found[..., None]


@pytest.mark.slow  # compiles each command for each shape
@pytest.mark.parametrize("case", CASES)
def test_every_command_takes_the_shape(root, tmp_path, run, case):
    height, width, channels = CASES[case][1]
    workdir, done = run(case)
    assert (done.code, tiny.complaints(done.err)) == (0, []), done.err
    words = f"at {height}x{width}{' in grey' if channels == 1 else ''};"
    assert words in done.out
    zoom = 96 // max(height, width)
    grid = pixels(workdir / "samples" / "0000002.png")
    assert grid.shape == (height * zoom, (2 * width + 2) * zoom, channels)

    draw = ["--workdir", workdir, "--num", "4", "--steps", "2"]
    for name in ("a.npz", "pictures", "a.png"):
        done = tiny.command("sample", *draw, "--out", tmp_path / name)
        assert done.code == 0, done.err
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (4, height, width, channels)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(pixels(tmp_path / f"pictures/0000{index}.png"), image)

    metrics = ["--metrics", "kid", "neighbours", "validation_loss", "variational_bound"]
    records = []
    for source in (["--steps", "2"], ["--samples", str(tmp_path / "pictures")]):
        out = tmp_path / "a.json"
        flags = ["--workdir", workdir, "--num", "4", *source, *metrics, "--out", out]
        done = tiny.command("evaluate", *flags)
        assert done.code == 0, done.err
        records.append(json.loads(out.read_text()))
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["samples"]["sha256"] == records[1]["samples"]["sha256"]

    if case != "tall-grey":
        return
    done = tiny.command("paper", *draw[:4], "--max-steps", "2", "--out", tmp_path / "paper")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "paper").glob("*.png"))) >= 4


def test_resume_and_another_shape(root, run):
    workdir, _ = run("wide")
    again = tiny.command("train", *tiny.flags(root, workdir), *CASES["wide"][0], *FEW)
    assert "nothing to do" in again.out
    for flags, change in (
        (["--data.image-size", "12x8"], "data.image_size"),
        ([*CASES["wide"][0], "--data.channels", "1"], "data.channels"),
    ):
        other = tiny.command("train", *tiny.flags(root, workdir), *FEW, *flags)
        assert other.code == 2
        assert change in other.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.image-size", "8,12"], "--data.image-size: expected pixels, or HEIGHTxWIDTH"),
        (["--data.image-size", "8x12x3"], "--data.image-size: expected pixels, or HEIGHTxWIDTH"),
        (["--data.image-size", "eight"], "--data.image-size: expected pixels, or HEIGHTxWIDTH"),
        (["--data.image-size", "0x8"], "--data.image-size must be at least 1, got 0"),
        (["--data.image-size", "-8"], "--data.image-size must be at least 1, got -8"),
        (["--data.channels", "2"], "--data.channels"),
        (["--config", "demo", "--data.image-size", "30x32"], "30x32 images (--data.image-size)"),
    ],
)
def test_impossible_shapes_are_told_in_one_line(tmp_path, flags, words):
    told = tiny.command("train", "--workdir", tmp_path / "run", *flags)
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert words in told.err


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (6, 4), (255, 0, 0)), 76),  # 0.299 of 255
        (Image.new("L", (6, 4), 9), 9),
        (Image.fromarray(np.full((4, 6), 257 * 9, np.uint16)), 9),
        (Image.new("RGBA", (6, 4), (0, 0, 0, 0)), 255),  # transparent: white
        (Image.new("P", (6, 4), 0), 0),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_grey_is_the_luma_of_any_picture(tmp_path, image, expected):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        image.save(folder / name)
    config = DataConfig(
        source="folder",
        path=str(folder),
        image_size=(4, 8),
        channels=1,
        cache_dir=str(tmp_path / "cache"),
    )
    found = data.load(config)
    assert found.images.shape == (2, 4, 8, 1)
    assert set(found.images.ravel().tolist()) == {expected}
    batch = next(data.batches(found.images, batch_size=2, seed=0))
    assert (batch.shape, batch.dtype) == ((2, 4, 8, 1), np.float32)


def test_turned_pictures_fill_a_frame_that_is_not_square(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    half = np.zeros((300, 400, 3), np.uint8)
    half[:, 200:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(half).save(folder / name, exif=exif, quality=95)
    places = {"path": str(folder), "cache_dir": str(tmp_path / "cache")}
    image = data.load(DataConfig(source="folder", image_size=(48, 32), **places)).images[0]
    assert image[:20].max() < 30
    assert image[28:].min() > 225
