"""Runs around the moments of their images, with Muon, log-normal levels and averages."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.evaluate import EvaluateConfig
from jaxddim.runs.opened import load_run
from jaxddim.runs.presets import PRESETS
from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = pytest.mark.usefixtures("quick_module")
root = tiny.root
NEW = ["--diffusion.kind", "x0", "--diffusion.precondition", "gaussian"]
NEW += ["--diffusion.levels", "lognormal", "--optim.name", "muon", "--optim.averages"]


@pytest.fixture(scope="module")
def run(root):
    workdir = root / "preconditioned"
    told = tiny.command("train", *tiny.flags(root, workdir), *NEW)
    assert told.code == 0, told
    return workdir


@pytest.fixture
def draw(run, tmp_path):
    def draw(*flags, workdir=None):
        out = tmp_path / "x.npz"
        told = tiny.command(
            "sample", "--workdir", workdir or run, "--num", 4, "--steps", 4, *flags, "--out", out
        )
        assert told.code == 0, told
        return np.load(out)["images"]

    return draw


def test_it_resumes_bit_for_bit(root, run, tmp_path):
    flags = [*tiny.flags(root, tmp_path), *NEW]
    tiny.command("train", *flags, "--train.steps", 10)
    told = tiny.command("train", *flags)
    assert "resumed at step 10" in told.out
    tiny.assert_same_bits(tiny.state(tmp_path), tiny.state(run))


def test_the_loss_begins_at_one_and_the_moments_are_those_of_the_training_images(root, run):
    first = tiny.metrics(run)[0]
    assert 0.7 < first["loss"] < 1.4
    moments = np.load(run / "moments.npz")
    assert moments["mean"].shape == moments["variance"].shape == (8, 8, 3)
    assert np.all(moments["variance"] > 0)


def test_averages_of_every_length_are_made_after_training(run, draw):
    plain = draw()
    lengths = [draw("--ema", length) for length in (0.05, 0.1, 0.2)]
    assert all(images.shape == plain.shape for images in lengths)
    assert not np.array_equal(lengths[0], lengths[2])
    # the pair stored last is one of the two that are kept
    found = load_run(str(run), ema=0.1).variables["params"]
    kept = tiny.state(run).averages[1]
    for a, b in zip(*(jax.tree.leaves(x) for x in (found, kept)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_clipping_is_what_it_is_called(run, draw):
    drawn = {clip: draw("--clip", clip) for clip in ("rederive", "keep", "dynamic", "none")}
    np.testing.assert_array_equal(drawn["rederive"], draw())
    x = 3 * np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for clip in ("rederive", "keep", "dynamic", "none"):
        opened = load_run(str(run), clip=clip)
        pair = opened.denoiser(opened.variables)(x, 900)
        raw = opened.denoiser(opened.variables, clip_x0=False)(x, 900)
        inside = float(abs(pair.x0).max()) <= 1.0
        assert inside or clip == "none"
        alpha, sigma = opened.schedule.scales(900)
        consistent = np.allclose(alpha * pair.x0 + sigma * pair.eps, x, atol=1e-4)
        assert consistent or clip == "keep"
        if clip in ("keep", "none"):
            np.testing.assert_array_equal(pair.eps, raw.eps)


def test_evaluate_compares_with_other_pictures_and_sees_what_is_wrong_with_them(run, tmp_path):
    rng = np.random.default_rng(0)
    real, dotted = tmp_path / "real", tmp_path / "dotted"
    dots = 40 * (np.indices((8, 8)).sum(0) % 2)[..., None]
    for folder in (real, dotted):
        folder.mkdir()
    for i in range(8):
        pixels = rng.integers(0, 200, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(real / f"{i}.png")
        Image.fromarray((pixels + dots).astype(np.uint8)).save(dotted / f"{i}.png")
    out = tmp_path / "record.json"
    flags = ["--workdir", run, "--samples", dotted, "--reference", real, "--out", out]
    told = tiny.command("evaluate", *flags, "--metrics", "appearance")
    assert told.code == 0, told
    found = json.loads(out.read_text())["metrics"]
    corner = found["power at the corner (1/2, 1/2), over the reference's"]["value"]
    spread = found["spread of mean brightness, over the reference's"]["value"]
    assert corner > 5 and spread == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "record-spectrum.png").exists()


@pytest.mark.parametrize(
    ("name", "flags", "parts"),
    [
        ("sample", ["--ema", "0.5"], ["--ema 0.5", "0.03 to 0.25"]),
        ("sample", ["--ema", "0.1", "--weights", "raw"], ["--ema 0.1", "--weights raw"]),
        ("evaluate", ["--reference", "trian"], ["--reference 'trian'", "did you mean", "train"]),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, name, flags, parts):
    out = ["--out", tmp_path / "x.png"] if name == "sample" else []
    assert_mistake(tiny.command(name, "--workdir", run, *flags, *out), *parts)


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_lost_moments_are_named(root, run, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "moments.npz"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        np.savez(path, mean=np.ones((2, 2, 3)), colours=np.eye(3), variance=np.ones((2, 2, 3)))
    told = tiny.command("sample", "--workdir", copy, "--out", tmp_path / "x.png")
    assert_mistake(told, "moments.npz", "restore the file")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--diffusion.precondition", "gaussian"], ["needs --diffusion.kind x0"]),
        ([*NEW, "--diffusion.weighting", "p2"], ["--diffusion.weighting none"]),
        ([*NEW, "--diffusion.norm", "l1"], ["--diffusion.norm l2"]),
        ([*NEW, "--diffusion.levels-std", "0"], ["std must be positive"]),
        (["--optim.muon-rate", "0"], ["--optim.muon-rate must be positive"]),
    ],
)
def test_settings_that_do_not_go_together_are_named(root, tmp_path, flags, parts):
    told = tiny.command("train", *tiny.flags(root, tmp_path / "new"), *flags)
    assert_mistake(told, *parts)
    assert not (tmp_path / "new").exists()


def test_a_run_without_averages_says_how_to_keep_them(root, tmp_path):
    workdir = tiny.trained(root)[0]
    told = tiny.command("sample", "--workdir", workdir, "--ema", "0.1", "--out", tmp_path / "x.png")
    assert_mistake(told, "--optim.averages")


def test_own_configurations_are_whole():
    for name in ("demo", "cars64", "cars_gpu"):
        config = PRESETS[name]()
        assert config.diffusion.precondition == "gaussian" and config.optim.averages
        assert config.optim.decay_steps == config.train.steps
    assert EvaluateConfig().clip == "rederive"
