"""SIGTERM and Ctrl-C at every phase: one line, no traceback, no half-written file, nothing lost."""

import re
import signal

import pytest

from tests.faults.conftest import flags
from tests.faults.same import assert_same

INT, TERM = signal.SIGINT, signal.SIGTERM
STARTING = [  # nothing is to be saved: it ends at once
    ("experiments.data:load", 1, "before"),
    ("jaxddim.files.writing:os.fsync", 1, "before"),
    ("experiments.trainer.loop:new_state", 1, "after"),
    ("experiments.trainer.step:compiled_step", 1, "after"),
    ("jax._src.compiler:compile_or_get_cached", 1, "before"),
]
TRAINING = [  # it saves first
    ("experiments.trainer.monitor:Window.begin", 1, "before"),
    ("experiments.trainer.monitor:Window.add", 1, "after"),
    ("experiments.trainer.log:Log._append", 1, "before"),
    ("experiments.trainer.tasks:jaxddim.variables", 1, "before"),
    ("jaxddim.runs.checkpoints:save", 1, "after"),
    ("experiments.terminal.pictures:replace", 1, "after"),
    ("jaxddim.runs.disk.store:flush", 1, "before"),
    ("jaxddim.runs.disk.store:shutil.rmtree", 1, "before"),
]
RESUMING = [
    ("jaxddim.runs.disk.store:Store.restore", 1, "before"),
    ("experiments.trainer.tasks:make_up", 1, "before"),
]
SAID = {INT: "stopped by Ctrl-C", TERM: "stopped by SIGTERM"}


def told_once(ended, number):
    """Whether the command said once what stopped it, and nothing of how."""
    assert ended.code == 128 + number, ended
    assert len(re.findall("stopped by", ended.told)) == 1, ended.told
    for word in ("Traceback", "Exception", "Error", "error:", "warning"):
        assert word not in ended.told, ended.told


@pytest.mark.slow  # starts the command thirty times
@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_is_stopped_in_every_phase_ends_as_one_that_is_not(
    start, whole, tmp_path, times
):
    workdir = tmp_path / "run"
    command = flags(start.root, workdir, "--train.steps", 45, "--optim.averages")
    for phase in (STARTING, TRAINING, RESUMING):
        for index, trap in enumerate(phase):
            number = (INT, TERM)[(index + times) % 2]
            ended = start("train", *command, trap=trap, signals=[number] * times)
            told_once(ended, number)
            saves = "first step after" in ended.told and times == 1
            assert ("is saved; the same command resumes" in ended.told) == saves, ended.told
            assert not list(workdir.rglob("*.part"))
    assert start("train", *command).code == 0
    assert_same(workdir, whole)


def test_diverged_weights_are_not_saved_by_a_signal(start, tmp_path):
    workdir = tmp_path / "run"
    rate = ["--optim.learning-rate", "1e30", "--optim.clip", "0"]
    command = flags(start.root, workdir, *rate)
    trap = ("experiments.trainer.monitor:Window.begin", 1, "after")
    ended = start("train", *command, trap=trap, signals=[INT])
    assert ended.code == 2, ended.told
    assert "became" in ended.told.splitlines()[-1] and "none was saved" in ended.told
    assert not list((workdir / "checkpoints").glob("*"))


@pytest.mark.parametrize("number", [INT, TERM])
@pytest.mark.parametrize(
    ("name", "trap"),
    [
        ("sample", ("jaxddim.runs.disk.store:Store.restore", 1, "before")),
        ("sample", ("jax._src.compiler:compile_or_get_cached", 3, "before")),
        ("sample", ("experiments.terminal.pictures:replace", 2, "half")),
        ("evaluate", ("jaxddim.runs.disk.store:Store.restore", 1, "after")),
        ("evaluate", ("jax._src.compiler:compile_or_get_cached", 3, "before")),
    ],
)
def test_sampling_and_evaluating_end_with_one_line(start, whole, tmp_path, name, trap, number):
    more = {
        "sample": ["--num", 3, "--steps", 2, "--out", tmp_path / "images"],
        "evaluate": ["--metrics", "validation_loss", "--out", tmp_path / "found.json"],
    }
    ended = start(name, "--workdir", whole, *more[name], trap=trap, signals=[number])
    told_once(ended, number)
    assert not list(tmp_path.rglob("*.part"))
