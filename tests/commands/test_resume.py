"""Resuming: a run that was stopped, killed or finished continues as if uninterrupted."""

import json
import shutil
import signal
import tarfile
import time

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.trainer import log
from jaxddim.runs import build, record
from jaxddim.runs.config import MAY_DIFFER
from jaxddim.runs.errors import RunError
from jaxddim.runs.flat import flatten, from_flat
from jaxddim.runs.presets import PRESETS
from tests import tiny

root = tiny.root


def wait_until(done, process):
    """Waits until `done()` is true while the process runs."""
    end = time.monotonic() + 120
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


# -- stopped ------------------------------------------------------------------------


@pytest.mark.slow  # trains twice, in two calls of the command
def test_stopped_at_10_of_20_and_continued_equals_uninterrupted_bit_for_bit(root, tmp_path):
    whole, _ = tiny.trained(root)
    flags = tiny.flags(root, tmp_path)
    assert tiny.command("train", *flags, "--train.steps", "10").code == 0
    assert int(tiny.state(tmp_path).step) == 10
    finished = tiny.command("train", *flags, "--train.steps", "20")
    assert "resumed at step 10" in finished.out
    for which in ("15", "20"):
        tiny.assert_same_bits(tiny.state(tmp_path, which), tiny.state(whole, which))
    assert tiny.computed(tmp_path) == tiny.computed(whole)


@pytest.mark.slow  # trains twice, in two calls of the command
def test_ctrl_c_saves_first_and_the_same_command_ends_in_the_same_bits(root, tmp_path, monkeypatch):
    whole, _ = tiny.trained(root)
    flags = tiny.flags(root, tmp_path)
    picture = log.Log.picture

    def interrupted(self, step, name, pixels):
        picture(self, step, name, pixels)
        if (step, name) == (8, "samples"):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(log.Log, "picture", interrupted)
        finished = tiny.command("train", *flags)
    assert finished.code == 128 + signal.SIGINT
    assert "step 9 is saved; the same command resumes" in finished.out
    assert tiny.saved(tmp_path) == [5, 9]
    finished = tiny.command("train", *flags)
    assert finished.code == 0
    assert "resumed at step 9" in finished.out
    tiny.assert_same_bits(tiny.state(tmp_path), tiny.state(whole))
    points = [(line["step"], "loss" in line) for line in tiny.metrics(tmp_path)]
    assert points == [(line["step"], "loss" in line) for line in tiny.metrics(whole)]


@pytest.mark.slow  # starts a process, which compiles
def test_sigterm_from_outside_saves_the_step_it_came_in(root, tmp_path):
    flags = tiny.flags(root, tmp_path)
    endless = ["--train.steps", "100000", "--train.checkpoint-every", "100000"]
    process = tiny.start(root, "train", *flags, *endless)
    wait_until(lambda: (tmp_path / "metrics.jsonl").exists() and tiny.metrics(tmp_path), process)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert tiny.complaints(err) == []
    (step,) = tiny.saved(tmp_path)
    assert f"stopped by a signal: step {step} is saved" in " ".join(out.split())
    assert int(tiny.state(tmp_path).step) == step
    finished = tiny.command("train", *flags, "--train.steps", step + 1)
    assert f"resumed at step {step}" in finished.out
    assert int(tiny.state(tmp_path).step) == step + 1


# -- killed -------------------------------------------------------------------------


def made_up_pictures(folder):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(64):
        pixels = rng.integers(0, 256, (12, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")


def photographs(folder):
    if not tiny.PHOTOGRAPHS.exists():
        pytest.skip(f"the real photographs are not here: {tiny.PHOTOGRAPHS}")
    with tarfile.open(tiny.PHOTOGRAPHS) as tar:
        for i in range(64):
            tar.extract(f"./{i:04d}.jpg", folder, filter="data")


@pytest.fixture(scope="module", params=[made_up_pictures, photographs], ids=lambda f: f.__name__)
def uninterrupted(request, root):
    """A folder of 64 pictures, and a run of 30 steps on it."""
    folder = root / request.param.__name__
    request.param(folder)
    workdir = root / f"{folder.name}_run"
    finished = tiny.command("train", *folder_flags(root, workdir, folder))
    assert finished.code == 0
    assert "58 images of folder" in finished.out
    return folder, workdir


def folder_flags(root, workdir, folder):
    source = ["--data.source", "folder", "--data.path", str(folder)]
    loop = ["--train.steps", "30", "--train.checkpoint-every", "30", "--train.sample-every", "30"]
    return [*tiny.flags(root, workdir), *source, *loop]


@pytest.mark.slow  # starts two processes and trains three runs
def test_killed_and_started_again_equals_uninterrupted_bit_for_bit(root, tmp_path, uninterrupted):
    folder, whole = uninterrupted
    flags = [*folder_flags(root, tmp_path, folder), "--train.checkpoint-every", "3"]
    process = tiny.start(root, "train", *flags)
    wait_until(lambda: tiny.saved(tmp_path), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert tiny.saved(tmp_path)[-1] < 30, "it was killed too late"
    process = tiny.start(root, "train", *flags)
    out, err = process.communicate()
    assert (process.returncode, tiny.complaints(err)) == (0, [])
    assert "resumed at step" in out
    tiny.assert_same_bits(tiny.state(tmp_path), tiny.state(whole))
    points = [(line["step"], "loss" in line) for line in tiny.metrics(tmp_path)]
    assert points == sorted(set(points), key=lambda point: (point[0], not point[1]))
    assert {step for step, loss in points if loss} >= {5, 10, 15, 20, 25, 30}


def test_a_run_follows_its_pictures_to_another_place_but_not_to_other_pictures(
    root, tmp_path, uninterrupted
):
    folder, whole = uninterrupted
    moved = shutil.copytree(folder, tmp_path / "moved")
    finished = tiny.command("train", *folder_flags(root, whole, moved))
    assert (finished.code, tiny.complaints(finished.err)) == (0, [])
    assert "nothing to do" in finished.out
    picture = sorted(moved.iterdir())[0]
    Image.new("RGB", (9, 9), "red").save(picture)
    finished = tiny.command("train", *folder_flags(root, whole, moved))
    assert finished.code == 2
    assert "was trained on other images (64 of folder then, 64 now)" in finished.err


# -- finished, or another run ---------------------------------------------------------


def test_a_finished_run_says_that_there_is_nothing_to_do_and_changes_nothing(root):
    workdir, _ = tiny.trained(root)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    finished = tiny.command("train", *tiny.flags(root, workdir))
    assert finished.code == 0
    assert "nothing to do: 20 of 20 steps are done; raise --train.steps" in finished.out
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_another_configuration_is_a_mistake_that_names_each_field_and_both_values(root):
    workdir, _ = tiny.trained(root)
    flags = ["--seed", "1", "--optim.learning-rate", "0.5", "--train.keep", "7"]
    finished = tiny.command("train", *tiny.flags(root, workdir), *flags)
    assert finished.code == 2
    assert tiny.complaints(finished.err) == [
        f"error: {workdir} is a run of another configuration (optim.learning_rate was 0.001, is "
        "0.5, seed was 0, is 1): give the old values to resume it, or another --workdir; only "
        + ", ".join(sorted(MAY_DIFFER - {"workdir"}))
        + " may change"
    ]


@pytest.mark.parametrize("field", flatten(PRESETS["tiny"]()))
def test_a_field_may_differ_exactly_when_it_changes_nothing_that_was_computed(field):
    harmless = {"workdir", "config", "model.remat"}
    harmless |= {"data.path", "data.data_dir", "data.cache_dir"}
    harmless |= {"train.steps", "train.epochs", "train.log_every", "train.checkpoint_every"}
    harmless |= {
        "distributed",
        "train.split_state",
        "train.on_nan",
        "train.sample_every",
        "train.keep",
        "train.num_samples",
        "train.sample_steps",
    }
    assert harmless == MAY_DIFFER | {"config"}
    old = flatten(PRESETS["tiny"]())
    kept = json.loads(json.dumps(old))
    record.check_same_config("runs/x", flatten(from_flat(old)), kept)
    changed = old | {field: "changed"}
    if field in harmless:
        record.check_same_config("runs/x", changed, kept)
    else:
        with pytest.raises(RunError, match=rf"\({field} was .* is changed\)"):
            record.check_same_config("runs/x", changed, kept)


# -- several devices ------------------------------------------------------------------


@pytest.mark.slow  # starts two processes, the first of which compiles
def test_two_devices_train_save_one_copy_and_resume(root, tmp_path):
    devices = f"--xla_force_host_platform_device_count=2 {tiny.QUICK}"
    for steps, told in ((3, "on 2 cpu device(s)"), (5, "resumed at step 3")):
        flags = [*tiny.flags(root, tmp_path), *tiny.SMALL, "--train.steps", steps]
        process = tiny.start(root, "train", *flags, XLA_FLAGS=devices)
        out, err = process.communicate()
        assert (process.returncode, tiny.complaints(err)) == (0, [])
        assert told in " ".join(out.split())
    state, fresh = tiny.state(tmp_path), build.new_state(build.build(record.load(str(tmp_path))))
    assert int(state.step) == 5
    for saved, new in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        assert (saved.shape, saved.dtype) == (new.shape, new.dtype)
        assert np.isfinite(saved).all()
    assert [line["step"] for line in tiny.metrics(tmp_path) if "loss" in line] == [3, 5]
