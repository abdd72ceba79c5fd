"""Sampling: image i depends only on the weights, the seed, i and the method."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxddim
from experiments import sample
from experiments.terminal.errors import UserError
from jaxddim.models import UNet
from jaxddim.runs import build, drawing, methods, record
from jaxddim.runs.config import DataConfig
from jaxddim.runs.drawing import to_uint8
from jaxddim.runs.opened import load_run
from tests import tiny
from tests.terminal.test_cli import assert_mistake

root = tiny.root
SHORT = ("--steps", "4")


@pytest.fixture(scope="module")
def trained(root):
    return tiny.trained(root)[0]


@pytest.fixture
def draw(trained, tmp_path):
    """draw(num, flag, ...) -> uint8 images, through a .npz."""

    def draw(num, *flags):
        path = tmp_path / "images.npz"
        told = tiny.command(
            "sample", "--workdir", trained, "--num", num, *SHORT, *flags, "--out", path
        )
        assert (told.code, tiny.complaints(told.err)) == (0, []), told
        with np.load(path) as file:
            images = file["images"]
        assert (images.shape, images.dtype) == ((num, 8, 8, 3), np.uint8)
        return images

    return draw


@pytest.fixture(scope="module")
def sixty_four(trained, root):
    path = root / "sixty_four.npz"
    told = tiny.command("sample", "--workdir", trained, "--num", 64, *SHORT, "--out", path)
    assert told.out == f"64 images in {path}: ddim, 4 steps, ema weights of step 20"
    with np.load(path) as file:
        return file["images"]


def expected_images(trained, num, seed=0, weights="ema", step=jaxddim.ddim_step):
    """Images from the library itself, in the chunks of 16 that a CPU uses for small images."""
    config = record.load(str(trained))
    schedule, model = build.build_schedule(config.diffusion), build.build_model(config.model)
    variables = jaxddim.variables(tiny.state(trained), weights)

    @jaxddim.compiled
    def draw(variables, first):
        denoise_fn = jaxddim.as_denoiser(
            schedule, functools.partial(model.apply, variables), kind="v"
        )
        grid = jaxddim.timesteps(1000, 4)
        key = jax.random.key(seed)
        shape = (16, 8, 8, 3)
        return jaxddim.sample(key, denoise_fn, schedule, grid, shape, step=step, first_index=first)

    return np.concatenate([draw(variables, first) for first in range(0, num, 16)])[:num]


# -- what an image depends on -----------------------------------------------------------


def test_the_images_are_those_of_the_library_rounded(trained, sixty_four):
    exact = (expected_images(trained, 8) + 1.0) * 127.5
    np.testing.assert_array_equal(sixty_four[:8], np.rint(exact).clip(0, 255))
    truncated = exact.clip(0, 255).astype(np.uint8)
    assert (sixty_four[:8] != truncated).mean() > 0.2


def test_the_images_are_all_different(sixty_four):
    assert len({image.tobytes() for image in sixty_four}) == 64


@pytest.mark.parametrize(("num", "batch"), [(1, 64), (7, 1), (7, 7), (64, 1), (64, 7)])
def test_neither_the_number_nor_the_batch_changes_a_bit(draw, sixty_four, num, batch):
    np.testing.assert_array_equal(draw(num, "--batch-size", batch), sixty_four[:num])


def test_the_network_works_on_one_shape_whatever_the_batch(draw, monkeypatch):
    shapes, real = [], jaxddim.sample

    def spy(key, denoise_fn, schedule, grid, shape, **options):
        shapes.append(shape)
        return real(key, denoise_fn, schedule, grid, shape, **options)

    monkeypatch.setattr(drawing, "sample", spy)
    for batch in (1, 7):
        draw(7, "--batch-size", batch)
    assert len(shapes) == 2
    assert len(set(shapes)) == 1


def test_another_seed_gives_other_images(draw, sixty_four):
    other = draw(4, "--seed", 1)
    assert all((a != b).mean() > 0.5 for a, b in zip(other, sixty_four, strict=False))


def test_averaged_and_last_weights_differ_and_are_what_they_are_called(trained, draw, sixty_four):
    raw = draw(4, "--weights", "raw")
    assert (raw != sixty_four[:4]).any()
    np.testing.assert_array_equal(raw, to_uint8(expected_images(trained, 4, weights="raw")))


def test_ddpm_is_ddim_with_eta_1_and_neither_is_ddim(draw, sixty_four, quick_compiler):
    ddpm, noisy = draw(4, "--method", "ddpm"), draw(4, "--eta", "1")
    assert np.abs(ddpm.astype(int) - noisy).max() <= 1
    assert (noisy != sixty_four[:4]).mean() > 0.5


def test_the_larger_variance_is_the_one_of_the_library(trained, draw):
    step = functools.partial(jaxddim.ddpm_step, variance="large")
    images = draw(4, "--method", "ddpm", "--variance", "large")
    np.testing.assert_array_equal(images, to_uint8(expected_images(trained, 4, step=step)))
    assert (images != draw(4, "--method", "ddpm")).mean() > 0.5


METHODS = {
    "heun": (jaxddim.heun(), 7),
    "dpm++2m": (jaxddim.dpm_solver_pp_2m(), 4),
    "dpm++2m-sde": (jaxddim.dpm_solver_pp_2m(eta=1.0), 4),
    "plms": (jaxddim.plms(), 5),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_solvers_images_are_those_of_the_library_and_its_cost_is_told(trained, method, tmp_path):
    step, cost = METHODS[method]
    path = tmp_path / "a.npz"
    flags = ["--workdir", trained, "--num", 4, *SHORT, "--method", method, "--out", path]
    told = tiny.command("sample", *flags)
    expected = f"4 images in {path}: {method}, 4 steps ({cost} evaluations), ema weights of step 20"
    assert (told.code, told.out) == (0, expected)
    with np.load(path) as file:
        images = file["images"]
    np.testing.assert_array_equal(images, to_uint8(expected_images(trained, 4, step=step)))


def test_one_call_of_a_large_network_makes_fewer_images(trained):
    run = load_run(str(trained))
    assert drawing.chunk_size(run) == 16
    for channels, chunk in ((96, 8), (256, 4)):
        model = UNet(channels=channels, multipliers=(1,), num_blocks=1, attention=())
        config = SimpleNamespace(data=DataConfig(image_size=32))
        x = jnp.zeros((1, 32, 32, 3))
        variables = jax.eval_shape(model.init, jax.random.key(0), x, jnp.zeros(1, jnp.int32))
        large = dataclasses.replace(run, config=config, model=model, variables=variables)
        assert drawing.chunk_size(large) == chunk


def test_larger_chunks_change_images_by_rounding_only(trained, sixty_four):
    config = methods.DrawConfig(workdir=str(trained), steps=4)
    (images,) = drawing.drawn(config, load_run(str(trained)), 6, chunk=6)
    assert np.abs(images.astype(int) - sixty_four[:6]).max() <= 1


@pytest.mark.parametrize(
    "flags", ["--eta 0.5", "--spacing quadratic", "--spacing karras", "--steps 5"]
)
def test_eta_spacing_and_the_number_of_steps_change_the_images(
    draw, sixty_four, quick_compiler, flags
):
    assert (np.abs(draw(2, *flags.split()).astype(int) - sixty_four[:2]) > 2).mean() > 0.1


# -- checkpoints -------------------------------------------------------------------------


def test_each_checkpoint_is_found_by_its_name(trained, draw, sixty_four):
    np.testing.assert_array_equal(draw(2, "--checkpoint", "20"), sixty_four[:2])
    before = draw(2, "--checkpoint", "15")
    assert (before != sixty_four[:2]).any()
    losses = {m["step"]: m["validation_loss"] for m in tiny.metrics(trained) if len(m) == 2}
    best = before if losses[15] < losses[20] else sixty_four[:2]
    np.testing.assert_array_equal(draw(2, "--checkpoint", "best"), best)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--checkpoint 7", ("no checkpoint '7'", "expected latest, best or one of 15, 20")),
        ("--checkpoint last", ("no checkpoint 'last'",)),
        ("--steps 2000", ("--steps 2000", "1000 training steps")),
        ("--out folder.png", ("--out folder.png cannot be written",)),
    ],
)
def test_mistakes_that_only_the_run_can_tell(trained, tmp_path, monkeypatch, flags, parts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    base = ["--workdir", trained, "--num", 2, *SHORT, "--out", "a.png"]
    finished = tiny.command("sample", *base, *flags.split())
    assert_mistake(finished, *parts)
    assert not (tmp_path / "a.png").exists()


# -- files -----------------------------------------------------------------------------


def test_a_grid_and_a_folder_hold_the_same_pixels_as_the_array(trained, tmp_path, sixty_four):
    base = ["--workdir", trained, "--num", 7, *SHORT, "--batch-size", 3, "--out"]
    assert tiny.command("sample", *base, tmp_path / "new" / "grid.png").code == 0
    assert tiny.command("sample", *base, tmp_path / "folder").code == 0
    files = sorted((tmp_path / "folder").iterdir())
    assert [path.name for path in files] == [f"{i:05d}.png" for i in range(7)]
    for path, image in zip(files, sixty_four, strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    grid = np.asarray(Image.open(tmp_path / "new" / "grid.png"))[::12, ::12]  # as training's grids
    assert grid.shape == (3 * 8 + 2 * 2, 3 * 8 + 2 * 2, 3)
    for i, image in enumerate(sixty_four[:7]):
        top, left = i // 3 * 10, i % 3 * 10
        np.testing.assert_array_equal(grid[top : top + 8, left : left + 8], image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]


@pytest.mark.parametrize("name", ["a.png", "a.npz"])
def test_the_same_command_twice_writes_the_same_bytes(trained, tmp_path, name):
    written = []
    for _ in range(2):
        base = ["--workdir", trained, "--num", 3, *SHORT, "--eta", "0.5"]
        assert tiny.command("sample", *base, "--out", tmp_path / name).code == 0
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_in_a_process_of_its_own_the_images_are_the_same(root, trained, tmp_path, sixty_four):
    flags = ["--workdir", trained, "--num", 2, *SHORT, "--out", tmp_path / "a.npz"]
    process = tiny.start(root, "sample", *flags)
    _, err = process.communicate()
    assert (process.returncode, tiny.complaints(err)) == (0, [])
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["images"], sixty_four[:2])


OUT = {
    "eta_0.5": "folder",
    "steps.100": "folder",
    "v1.2.3": "folder",
    "a.b/run_0.0": "folder",
    "folder": "folder",
    "a.png": "file",
    "a_0.5.PNG": "file",
    "b_0.5.npz": "file",
    "a.jpg": "refused",
    "a_0.5.webp": "refused",
    "a.TIFF": "refused",
    "a.npy": "refused",
    "a.avif": "refused",
    "a.jp2": "refused",
    "a.ico": "refused",
    "a.svg": "refused",
}


@pytest.mark.parametrize("name", OUT)
def test_known_suffixes_decide_what_is_written(tmp_path, name):
    out = tmp_path / name
    config = sample.SampleConfig(workdir="none", out=str(out), num=3)
    if OUT[name] == "refused":
        with pytest.raises(UserError, match=r"expected a FILE.png, a FILE.npz or a folder"):
            sample.check(config)
        assert not out.exists()
        return
    sample.check(config)
    sample.write(out, iter([np.zeros((3, 8, 8, 3), np.uint8)]))
    assert out.is_dir() == (OUT[name] == "folder")
    assert out.is_file() == (OUT[name] == "file")
    if out.is_dir():
        assert len(list(out.iterdir())) == 3


EARLIER = {
    "more of an earlier call": ({"00002.png", "00003.png"}, ["00002.png", "00003.png"]),
    "as many": ({"00000.png", "00001.png"}, []),
    "others": ({"a.PNG", "b.jpg", "readme.txt", ".c.png"}, ["a.PNG", "b.jpg"]),
    "none": (set(), []),
}


@pytest.mark.parametrize("case", EARLIER)
def test_pictures_that_are_already_in_the_folder_are_found(tmp_path, case):
    there, expected = EARLIER[case]
    for name in there:
        (tmp_path / name).touch()
    sample.write(tmp_path, iter([np.zeros((2, 8, 8, 3), np.uint8)]))
    assert sample.strangers(tmp_path, 2) == expected


def test_pictures_of_an_earlier_call_are_told(trained, tmp_path):
    base = ["--workdir", trained, *SHORT, "--out", tmp_path / "steps_0.5"]
    told = [tiny.command("sample", *base, "--num", num).out for num in (3, 3, 2)]
    assert "note: " not in told[0] + told[1]
    assert "steps_0.5 holds 1 more picture (00002.png)" in told[2]
