"""A run opened in Python draws what the command draws, at once for every seed."""

import importlib
import shutil

import jax
import numpy as np
import pytest

import jaxddim
from jaxddim.runs.errors import RunError
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root


@pytest.fixture
def run(root):
    return jaxddim.load_run(str(tiny.trained(root)[0]))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"seed": 7, "eta": 0.5, "spacing": "quadratic"},
        {"seed": 2**32 - 1, "method": "ddpm", "variance": "large"},
        {"method": "dpm++2m", "spacing": "log_snr"},
    ],
    ids=str,
)
def test_the_pixels_are_those_of_the_command(run, tmp_path, how):
    flags = [word for name, value in how.items() for word in (f"--{name}", value)]
    place = ["--workdir", run.config.workdir, "--num", 5, "--steps", 3]
    done = tiny.command("sample", *place, *flags, "--out", tmp_path / "a.npz")
    assert done.code == 0, done.err
    images = run.sample(5, 3, **how)
    assert (images.dtype, images.shape) == (np.uint8, (5, *run.config.data.shape))
    np.testing.assert_array_equal(images, np.load(tmp_path / "a.npz")["images"])


def test_another_seed_compiles_nothing(run):
    first = run.sample(2, 3)
    (draw,) = run._samplers.values()
    other = run.sample(3, 3, seed=1)
    assert list(run._samplers.values()) == [draw]
    assert (other[:2] != first).any()
    np.testing.assert_array_equal(run.sample(2, 3), first)


def test_checkpoints_weights_and_clipping(run):
    workdir = run.config.workdir
    step = run.step
    assert jaxddim.load_run(workdir, str(step)).step == jaxddim.load_run(workdir, "latest").step
    raw = jaxddim.load_run(workdir, weights="raw", clip="none")
    assert (raw.sample(1, 2) != run.sample(1, 2)).any()
    for options, told in (
        ({"checkpoint": "first"}, "first"),
        ({"ema": 0.1}, "--optim.averages"),
    ):
        with pytest.raises(RunError, match=told):
            jaxddim.load_run(workdir, **options)


def test_its_denoiser_and_schedule_are_those_of_the_library(run):
    grid = jaxddim.timesteps(run.schedule.num_steps, 3)
    shape = (2, *run.config.data.shape)
    denoise_fn, key = run.denoiser(), jax.random.key(0)
    x = jaxddim.sample(key, denoise_fn, run.schedule, grid, shape)
    images = np.round(np.clip((np.asarray(x) + 1) * 127.5, 0, 255))
    np.testing.assert_allclose(images, run.sample(2, 3).astype(float), atol=1)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"num": 0}, "num must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 2000}, "2000"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^32\), got -1"),
        ({"eta": 1.5}, "eta"),
        ({"method": "euler"}, "'euler' is not known: expected one of ddim, ddpm"),
        ({"label": 3}, "has not learned labels"),
        ({"guidance": 2.0}, "has not learned labels"),
    ],
    ids=str,
)
def test_a_mistake_is_an_error_that_says_what_is_wrong(run, how, told):
    with pytest.raises(RunError, match=told):
        run.sample(**how)


def test_a_run_that_was_moved_is_named_by_where_it_is(run, tmp_path):
    shutil.copytree(run.config.workdir, tmp_path / "moved")
    moved = jaxddim.load_run(str(tmp_path / "moved"))
    with pytest.raises(RunError, match=f"{tmp_path}/moved has not learned labels"):
        moved.sample(label=1)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match=str(tmp_path)):
        jaxddim.load_run(str(tmp_path))


def test_without_flax_the_error_says_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="flax")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"needs flax.*pip install '\.\[runs\]'"):
        _ = jaxddim.load_run
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        _ = jaxddim.load_runs
