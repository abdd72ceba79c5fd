"""Going on from a run: from its weights, from another folder, with more photographs."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxddim.runs import record
from tests import tiny
from tests.terminal.test_cli import assert_mistake

root = tiny.root
FILES = 60


pytestmark = pytest.mark.usefixtures("quick_module")  # none compares with other tests' runs


def pictures(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def flags(root, workdir, folder, *more):
    source = ["--data.source", "folder", "--data.path", folder, "--data.holdout", "5"]
    return [*tiny.flags(root, workdir), *tiny.SMALL, *source, "--train.steps", "2", *more]


@pytest.fixture(scope="module")
def run(root):
    """A folder of pictures, and a run of two steps on it."""
    folder, workdir = root / "going_on", root / "going_on_run"
    pictures(folder, range(FILES))
    finished = tiny.command("train", *flags(root, workdir, folder))
    assert (finished.code, tiny.complaints(finished.err)) == (0, []), finished
    return folder, workdir


@pytest.fixture
def copied(run, tmp_path):
    """Copies of both, to change."""
    return shutil.copytree(run[0], tmp_path / "photos"), shutil.copytree(run[1], tmp_path / "run")


def losses(workdir, *more):
    return tiny.command("evaluate", "--workdir", workdir, "--metrics", "validation_loss", *more)


# -- more photographs ----------------------------------------------------------------


def test_photographs_that_are_added_later_are_left_out(copied, root):
    folder, workdir = copied
    expected = json.loads(losses(workdir, "--data.path", folder).out)["metrics"]
    pictures(folder, [FILES])
    pictures(folder / "more", [7, 8])
    found = losses(workdir, "--data.path", folder)
    assert (found.code, json.loads(found.out)["metrics"]) == (0, expected), found
    finished = tiny.command("train", *flags(root, workdir, folder, "--train.steps", "3"))
    assert (finished.code, tiny.complaints(finished.err)) == (0, []), finished
    assert "holds 63 files now: used are the run's 60" in finished.out
    assert "resumed at step 2" in finished.out
    assert tiny.saved(workdir)[-1] == 3


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("one gone", ("60 files", "59 now", "1 of the run's are gone (003.png)")),
        ("one gone, one more", ("60 files", "60 now", "1 of the run's are gone (003.png)")),
        ("one changed", ("other images (60 of folder then, 60 now)",)),
        ("one more, not listed", ("other images (60 of folder then, 61 now)",)),
        ("list damaged", ("images.json is not a list",)),
    ],
)
def test_other_photographs_are_told_with_both_counts(copied, root, command, change, parts):
    folder, workdir = copied
    if "gone" in change:
        (folder / "003.png").unlink()
    if "more" in change:
        pictures(folder, [FILES])
    if "changed" in change:
        Image.new("RGB", (9, 9), "red").save(folder / "003.png")
    if "not listed" in change:
        (workdir / "images.json").unlink()
    if "damaged" in change:
        (workdir / "images.json").write_text("{")
    if command == "train":
        finished = tiny.command("train", *flags(root, workdir, folder))
    else:
        finished = losses(workdir, "--data.path", folder)
    assert_mistake(finished, *parts)


def test_paths_are_recorded_absolute(run, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    workdir, (folder, first) = tmp_path / "new", run
    more = [
        "--data.cache-dir",
        "images",
        "--data.data-dir",
        "tfds",
        "--train.init-from",
        first.name,
    ]
    finished = tiny.command("train", *flags(root, workdir, folder.name, *more))
    assert finished.code == 0, finished
    kept = json.loads((workdir / "config.json").read_text())["config"]
    for name, path in (
        ("data.path", folder),
        ("data.cache_dir", root / "images"),
        ("data.data_dir", root / "tfds"),
        ("train.init_from", first),
    ):
        assert kept[name] == str(path)
    monkeypatch.chdir(tmp_path)
    told = losses("new")
    assert told.code == 0, told
    told = losses("new", "--data.path", "../" + "/".join(folder.parts[-1:]))
    assert told.code == 2  # relative to where the command is given


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "60 images, 5 held out"),
        (("--data.num-images", "30"), "30 of 60 images (--data.num-images), 3 held out"),
        (("--data.num-images", "60"), "60 images, 5 held out"),
        (("--data.num-images", "90"), "60 images, 5 held out"),
        (("--data.num-images", "2"), "2 of 60 images (--data.num-images), 1 held out"),
        (("--data.num-images", "2"), "1 image of folder at 8x8; 1 step of 8 images"),
        (("--data.num-images", "2"), "batch of 8 is larger than the data set of 1 training image:"),
    ],
)
def test_what_is_used_of_the_folder_is_told(run, root, tmp_path, more, told):
    steps = ("--train.steps", "1")
    finished = tiny.command("train", *flags(root, tmp_path, run[0], *more, *steps))
    assert told in finished.out


# -- another run's weights -----------------------------------------------------------


def test_a_run_from_weights_starts_with_them_and_anew_in_all_else(run, root, tmp_path):
    folder, first = run
    more = ["--train.init-from", first, "--optim.learning-rate", "1e-30", "--seed", "5"]
    more += ["--data.num-images", "20", "--train.steps", "1"]
    finished = tiny.command("train", *flags(root, tmp_path, folder, *more))
    assert (finished.code, tiny.complaints(finished.err)) == (0, []), finished
    assert f"starts from the ema weights of step 2 of {first}" in finished.out
    theirs, ours = tiny.state(first), tiny.state(tmp_path)
    assert int(ours.step) == 1
    for found in (ours.params, ours.ema_params):  # a step of 1e-30 moves no weight but 0
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-20),
            found,
            theirs.ema_params,
        )
    counts = [leaf for leaf in jax.tree.leaves(ours.opt_state) if leaf.dtype == np.int32]
    assert set(map(int, counts)) == {1}
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["init"] == {"run": str(first), "step": 2, "weights": "ema"}
    # the same command resumes it, and another start is another run
    again = tiny.command("train", *flags(root, tmp_path, folder, *more))
    assert "nothing to do" in again.out
    without = more[2:]
    assert_mistake(
        tiny.command("train", *flags(root, tmp_path, folder, *without)), "train.init_from was"
    )
    assert record.load(str(tmp_path)).train.init_from == str(first)


def test_a_start_that_was_cut_off_takes_the_recorded_step(run, root, tmp_path):
    folder, first = run
    source, workdir = shutil.copytree(first, tmp_path / "source"), tmp_path / "new"
    command = flags(root, workdir, folder, "--train.init-from", source)
    assert tiny.command("train", *command).code == 0
    expected = tiny.state(workdir)
    shutil.rmtree(workdir / "checkpoints")
    more = tiny.command("train", *flags(root, source, folder, "--train.steps", "3"))
    assert more.code == 0
    assert tiny.command("train", *command).code == 0
    tiny.assert_same_bits(tiny.state(workdir), expected)
    shutil.rmtree(workdir / "checkpoints")
    shutil.rmtree(source / "checkpoints" / "2")
    assert_mistake(tiny.command("train", *command), "--train.init-from: no checkpoint '2'")
    kept = json.loads((workdir / "config.json").read_text())
    del kept["init"]
    (workdir / "config.json").write_text(json.dumps(kept))
    assert_mistake(tiny.command("train", *command), "the field init is missing")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("--model.channels", "8"), ("another network (model.channels was 4, is 8)",)),
        (("--model.multipliers", "1", "2"), ("model.multipliers was [1, 1], is [1, 2]",)),
        (("--model.dtype", "bfloat16"), ("model.dtype was float32, is bfloat16",)),
        (("--model.name", "unet"), ("model.name was simple_unet, is unet",)),
        (
            ("--data.channels", "1"),
            ("data.channels was 3, is 1: give its --data.channels",),
        ),
    ],
)
def test_another_network_is_told_and_starts_no_run(run, root, tmp_path, more, parts):
    workdir = tmp_path / "new"
    finished = tiny.command(
        "train", *flags(root, workdir, run[0], "--train.init-from", run[1], *more)
    )
    assert_mistake(finished, "--train.init-from", *parts)
    assert not workdir.exists()


def test_weights_of_another_schedule_are_told(run, root, tmp_path):
    more = ["--train.init-from", run[1], "--diffusion.schedule", "linear", "--train.steps", "1"]
    finished = tiny.command("train", *flags(root, tmp_path, run[0], *more))
    assert finished.code == 0
    assert "the weights were trained with diffusion.schedule cosine" in finished.out


# -- epochs that are shorter than a step -----------------------------------------------


@pytest.mark.parametrize(
    ("images", "batch", "steps"),
    [
        (5, 8, [50, 60]),
        (8, 8, [50, 60]),
        (15, 8, [50, 60]),
        (58, 8, [8, 15, 22, 29, 37, 44, 51, 58, 60]),
        (16, 8, [*range(2, 61, 2)]),
    ],
)
def test_short_epochs_do_not_make_a_picture_at_every_step(images, batch, steps):
    from experiments.trainer.loop import Loop
    from jaxddim.runs.build import build
    from jaxddim.runs.flat import flatten, from_flat
    from jaxddim.runs.presets import PRESETS

    config = from_flat(flatten(PRESETS["tiny"]()) | {"train.batch_size": batch})
    loop = Loop(build(config), 60, images, *[None] * 7)  # pyrefly: ignore[bad-argument-type]
    due = [step for step in range(1, 61) if loop.is_due(step, None)]
    assert due == steps
    assert [step for step in range(1, 61) if loop.is_due(step, 20)] == [20, 40, 60]
    ends = [step for step in range(1, 61) if loop.ends_epoch(step)]
    assert set(ends) <= set(steps)
