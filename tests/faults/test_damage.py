"""Damaged checkpoints in each command: a warning and the one before, or a line that says why."""

import shutil

import jax
import numpy as np
import pytest

from jaxddim.runs import averages, checkpoints
from tests import tiny
from tests.faults.conftest import flags, one_line
from tests.faults.same import assert_same

root = tiny.root


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def array_files(folder):
    """The largest files of a checkpoint first."""
    return sorted(folder.rglob("*"), key=lambda path: path.is_file() * -path.stat().st_size)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize("harm", [flip, empty, remove])
def test_a_run_goes_on_from_the_checkpoint_before_and_ends_in_the_same_bits(
    start, whole, copied, harm
):
    latest = copied / "checkpoints" / "45"
    harm(array_files(latest)[0])
    command = flags(start.root, copied, "--train.steps", 45, "--optim.averages")
    ended = start("train", *command)
    assert ended.code == 0 and "Traceback" not in ended.told, ended.told
    assert f"warning: checkpoint 45 in {latest.parent} is damaged: " in ended.told
    assert "taken is the one of step 42" in ended.told and "resumed at step 42" in ended.told
    assert_same(copied, whole)


@pytest.mark.parametrize("name", ["manifest.ocdbt", "metrics", "_METADATA", "log.json"])
def test_an_empty_file_of_an_older_checkpoint_hinders_nobody(start, whole, copied, name):
    (path,) = [
        p
        for p in (copied / "checkpoints" / "42").rglob(name)
        if "process" not in str(p) and p.is_file()
    ]
    path.write_bytes(b"")
    command = flags(start.root, copied, "--train.steps", 46, "--optim.averages")
    ended = start("train", *command)
    assert ended.code == 0 and "warning" not in ended.told, ended.told
    assert tiny.saved(copied)[-2:] == [45, 46]


def test_sampling_takes_the_one_before_unless_a_step_was_named(start, copied, tmp_path):
    flip(array_files(copied / "checkpoints" / "45")[0])
    more = ["--num", 1, "--steps", 2, "--out", tmp_path / "out.png"]
    ended = start("sample", "--workdir", copied, *more)
    assert ended.code == 0 and "weights of step 42" in ended.told, ended.told
    assert "warning: checkpoint 45" in ended.told and "Traceback" not in ended.told
    one_line(start("sample", "--workdir", copied, *more, "--checkpoint", 45), "45", "is damaged")
    one_line(start("sample", "--workdir", copied, *more, "--checkpoint", "²"), "no checkpoint '²'")


def test_where_all_are_damaged_an_error_says_so_and_nothing_is_deleted(start, copied, tmp_path):
    for step in tiny.saved(copied):
        flip(array_files(copied / "checkpoints" / str(step))[0])
    before = sorted(copied.rglob("*"))
    command = flags(start.root, copied, "--train.steps", 46, "--optim.averages")
    one_line(start("train", *command), "no checkpoint in", "can be read", "nothing was deleted")
    more = ["--num", 1, "--steps", 2, "--out", tmp_path / "out.png"]
    one_line(start("sample", "--workdir", copied, *more), "nothing was deleted")
    assert sorted(copied.rglob("*")) == before


def test_damaged_averages_are_left_out_with_a_warning(start, copied, tmp_path):
    store = averages.manager(copied)
    steps = store.all_steps()
    more = ["--num", 1, "--steps", 2, "--ema", 0.2, "--out", tmp_path / "out.png"]
    flip(array_files(store.path(steps[0]))[0])
    ended = start("sample", "--workdir", copied, *more)
    assert ended.code == 0, ended.told
    assert f"warning: checkpoint {steps[0]} in {store.directory} is damaged" in ended.told
    for step in steps[1:]:
        flip(array_files(store.path(step))[0])
    one_line(start("sample", "--workdir", copied, *more), "no averages", "can be read")


# -- weights that are no numbers ---------------------------------------------------------


def spoiled(workdir):
    """Adds a checkpoint of a training that has diverged, as older versions did after a signal."""
    state = tiny.state(workdir)
    bad = jax.tree.map(lambda a: a * np.float32(np.nan), state.ema_params)
    with checkpoints.manager(workdir, keep=9) as store:
        checkpoints.save(store, state._replace(step=state.step + 1, ema_params=bad), None)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sample", ["--num", 1, "--steps", 2, "--out", "out.png"]),
        ("evaluate", ["--metrics", "validation_loss"]),
        ("export", ["--batch", 1, "--steps", 2, "--out", "out.jaxddim"]),
        ("paper", []),
    ],
)
def test_weights_that_are_not_finite_are_refused(start, copied, tmp_path, name, more, monkeypatch):
    spoiled(copied)
    more = [tmp_path / one if str(one).startswith("out") else one for one in more]
    one_line(start(name, "--workdir", copied, *more), "checkpoint 46", "are not finite")
    assert not list(tmp_path.glob("out*"))


def test_best_is_a_mistake_where_no_validation_loss_is_known(start, copied, tmp_path):
    for step in tiny.saved(copied):
        shutil.rmtree(copied / "checkpoints" / str(step) / "metrics")
    more = ["--num", 1, "--steps", 2, "--out", tmp_path / "out.png", "--checkpoint", "best"]
    one_line(start("sample", "--workdir", copied, *more), "has a validation loss", "one of")


def test_a_sampler_goes_on_when_the_training_deletes_the_checkpoint_it_reads(
    copied, monkeypatch, capsys
):
    from jaxddim.runs import record
    from jaxddim.runs.build import abstract_state, build

    store, real = checkpoints.manager(copied), checkpoints.Store.restore
    abstract = abstract_state(build(record.load(str(copied))))

    def late(self, step, wanted):
        if step == 45:
            with checkpoints.manager(copied, keep=1) as other:  # what a training does meanwhile
                later = tiny.state(copied, "42")
                checkpoints.save(other, later._replace(step=later.step + 6), None)
            shutil.rmtree(self.path(45), ignore_errors=True)
        return real(self, step, wanted)

    monkeypatch.setattr(checkpoints.Store, "restore", late)
    assert int(checkpoints.restore(store, abstract).step) == 48
    assert capsys.readouterr().err == ""
