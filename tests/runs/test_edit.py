"""`experiments.edit`: what stays, what changes, and mistakes in one line."""

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (8, 8, 3), np.uint8)
OTHER = RNG.integers(0, 256, (8, 8, 3), np.uint8)
MASK = np.zeros((8, 8), np.uint8)
MASK[:, 5:] = 255


@pytest.fixture(scope="module")
def trained(root):
    return tiny.trained(root)[0]


@pytest.fixture(scope="module")
def files(root):
    folder = root / "edit"
    folder.mkdir()
    for name, pixels in {"a": PICTURE, "b": OTHER, "mask": MASK, "black": 0 * MASK}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def edited(trained, files, tmp_path):
    """edited(flag, ...) -> uint8 images through a .npz, and what was printed."""

    def edited(*flags):
        out = tmp_path / "out.npz"
        base = ["--workdir", trained, "--image", files / "a.png", "--steps", 4, "--out", out]
        told = tiny.command("edit", *base, *flags)
        assert (told.code, tiny.complaints(told.err)) == (0, []), told
        with np.load(out) as found:
            return found["images"], told.out

    return edited


def test_what_is_black_in_the_mask_stays_exactly(edited, files):
    flags = ["--mask", files / "mask.png", "--jump", 2, "--repeats", 2]
    images, told = edited(*flags, "--num", 3)
    assert images.shape == (3, 8, 8, 3)
    assert np.all(images[:, :, :5] == PICTURE[:, :5])
    assert (images[0, :, 5:] != images[1, :, 5:]).mean() > 0.5  # variants
    assert "38% of the pixels drawn anew, ddpm, 4 steps (6 evaluations)" in told
    fewer, _ = edited(*flags, "--num", 1)
    np.testing.assert_array_equal(fewer, images[:1])


def test_the_stronger_the_less_stays(edited):
    distances = []
    for strength in (0.05, 0.5, 1.0):
        images, told = edited("--strength", strength, "--num", 2, "--method", "dpm++2m")
        assert f"drawn from t = {round(1000 * strength)}, dpm++2m, 4 steps (4 evaluations)" in told
        distances.append(np.abs(images.astype(float) - PICTURE).mean())
    assert distances[0] < distances[1] < distances[2]
    assert distances[0] < 25


def test_between_two_images_the_ends_are_these_images(edited, files, trained, tmp_path):
    flags = ["--image2", files / "b.png", "--num", 5, "--steps", 50]
    images, told = edited(*flags)
    assert images.shape == (5, 8, 8, 3) and "between two images, ddim" in told
    for image, expected in ((images[0], PICTURE), (images[-1], OTHER)):
        assert np.abs(image.astype(float) - expected).mean() < 4
    middle = np.abs(images[2].astype(float) - PICTURE).mean()
    assert middle > 20


def test_a_picture_shows_the_given_images_too(trained, files, tmp_path):
    out = tmp_path / "row.png"
    flags = ["--image", files / "a.png", "--strength", 0.5, "--num", 2, "--steps", 2]
    told = tiny.command("edit", "--workdir", trained, *flags, "--out", out)
    assert told.code == 0
    pixels = np.asarray(Image.open(out))[::12, ::12]
    assert pixels.shape == (8, 3 * 8 + 2 * 2, 3)
    np.testing.assert_array_equal(pixels[:, :8], PICTURE)


MISTAKES = {
    "--strength 1.5": ("--strength must lie in (0, 1], got 1.5",),
    "--strength 0": ("--strength must lie in (0, 1]",),
    "--strength 0.002 --steps 9": ("--steps 9 with --strength 0.002", "2 training steps"),
    "": ("what to do is missing", "--mask FILE, --strength X or --image2 FILE"),
    "--strength 0.5 --mask mask.png": ("--mask and --strength exclude each other",),
    "--image2 b.png --mask mask.png": ("--mask and --image2 exclude each other",),
    "--strength 0.5 --jump 3": ("--strength and --jump exclude each other",),
    "--mask none.png": ("--mask none.png: there is no such file",),
    "--mask text.png": ("--mask text.png cannot be read as a picture: not an image",),
    "--mask black.png": ("--mask black.png has no white part",),
    "--mask mask.png --method heun": ("--mask needs --method ddpm or ddim, got heun",),
    "--mask mask.png --repeats 0": ("--repeats must be at least 1",),
    "--image2 b.png --method ddpm": ("--image2 encodes and decodes by ddim",),
    "--image2 none.png": ("--image2 none.png: there is no such file",),
    "--image2 .": ("--image2 .: is a folder",),
    "--strength 0.5 --image none.png": ("--image none.png: there is no such file",),
    "--strength 0.5 --image=": ("--image is missing",),
    "--strength 0.5 --num 0": ("--num must be at least 1",),
    "--strength 0.5 --out=": ("--out is missing",),
    "--strength 0.5 --out a.jpg": ("--out a.jpg: expected a FILE.png or a FILE.npz",),
    "--strength 0.5 --eta 0.5 --method plms": ("--eta belongs to --method ddim",),
    "--strenght 0.5": ("unknown flag --strenght", "did you mean --strength?"),
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_are_one_line(trained, files, monkeypatch, flags):
    monkeypatch.chdir(files)
    base = ["--workdir", trained, "--image", "a.png", "--out", "out.png"]
    assert_mistake(tiny.command("edit", *base, *flags.split()), *MISTAKES[flags])
    assert not (files / "out.png").exists()
