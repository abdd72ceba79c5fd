"""kill -9 anywhere: the same command goes on, and at its end nothing is lost, doubled or other."""

import pytest

from tests import tiny
from tests.faults.conftest import flags
from tests.faults.same import assert_same
from tests.scale.layouts import port

KILLS = [  # one start of the command each, in this order, on one run
    # start
    ("experiments.data:load", 1, "before"),
    ("experiments.trainer.lock:_write", 1, "after"),
    ("jaxddim.runs.record:writing.replace", 1, "half"),
    ("jaxddim.files.writing:os.fsync", 1, "before"),
    ("jaxddim.files.writing:flush", 1, "after"),
    ("experiments.trainer.loop:new_state", 1, "after"),
    # training
    ("experiments.trainer.monitor:Window.begin", 1, "before"),
    ("experiments.trainer.log:_Events._add", 1, "before"),
    ("experiments.trainer.monitor:Window.add", 1, "after"),
    # the first checkpoint
    ("experiments.trainer.tasks:save", 1, "before"),
    ("experiments.trainer.tasks:finish", 1, "before"),
    ("experiments.trainer.log:Log._append", 1, "half"),
    ("experiments.trainer.log:Log._append", 1, "after"),
    ("jaxddim.runs.averages:save", 1, "after"),
    ("jaxddim.runs.disk.saver:ocp.AsyncCheckpointer.save", 2, "before"),
    ("jaxddim.runs.checkpoints:save", 1, "after"),
    ("jaxddim.runs.disk.saver:sums.write", 2, "before"),
    ("jaxddim.runs.disk.saver:sums.write", 2, "after"),
    ("jaxddim.runs.disk.saver:flush_all", 2, "after"),
    ("jaxddim.runs.disk.store:flush", 2, "before"),
    # restoring, and the records of steps that come again
    ("jaxddim.runs.disk.store:Store.check", 1, "after"),
    ("jaxddim.runs.disk.store:Store.restore", 1, "after"),
    ("experiments.trainer.log:Log._append", 2, "after"),
    ("experiments.trainer.log:replace", 1, "half"),
    ("experiments.trainer.log:replace", 1, "before"),
    ("experiments.trainer.log:replace", 1, "after"),
    ("experiments.trainer.tasks:make_up", 1, "before"),
    ("experiments.trainer.tasks:make_up", 1, "after"),
    # logging, validation, samples
    ("experiments.trainer.log:_Events.write", 2, "before"),
    ("experiments.trainer.tasks:jaxddim.variables", 2, "before"),
    ("experiments.terminal.pictures:replace", 1, "half"),
    ("experiments.terminal.pictures:replace", 1, "after"),
    ("experiments.terminal.pictures:replace", 2, "before"),
    ("experiments.trainer.log:Log.picture", 2, "before"),
    # deleting older checkpoints
    ("jaxddim.runs.disk.store:Store.delete", 3, "before"),
    ("jaxddim.runs.disk.store:shutil.rmtree", 2, "before"),
    ("jaxddim.runs.disk.store:shutil.rmtree", 3, "after"),
    ("experiments.trainer.tasks:write_line", 2, "after"),
    ("experiments.trainer.tasks:validated", 2, "after"),
    ("experiments.trainer.tasks:draw", 1, "after"),
    ("jaxddim.runs.disk.store:Store.close", 1, "before"),
]
TOGETHER = [  # the same at two processes: the number of the one that is killed first, and where
    # start
    (0, "experiments.data:load", 1, "before"),
    (1, "experiments.data:load", 1, "after"),
    (0, "jaxddim.runs.record:writing.replace", 1, "half"),
    (0, "jaxddim.files.writing:flush", 1, "after"),
    (1, "experiments.trainer.loop:new_state", 1, "after"),
    # training
    (0, "experiments.trainer.monitor:Window.begin", 1, "before"),
    (1, "experiments.trainer.monitor:Window.add", 1, "after"),
    (0, "experiments.trainer.monitor:Window.add", 2, "after"),
    # the first checkpoint
    (0, "experiments.trainer.tasks:save", 1, "before"),
    (1, "experiments.trainer.tasks:save", 1, "before"),
    (1, "experiments.trainer.tasks:finish", 1, "before"),
    (0, "experiments.trainer.log:Log._append", 1, "half"),
    (0, "experiments.trainer.log:Log._append", 1, "after"),
    (1, "jaxddim.runs.averages:save", 1, "after"),
    (0, "jaxddim.runs.disk.saver:ocp.AsyncCheckpointer.save", 2, "before"),
    (1, "jaxddim.runs.disk.saver:ocp.AsyncCheckpointer.save", 2, "after"),
    (1, "jaxddim.runs.checkpoints:save", 1, "after"),
    (0, "jaxddim.runs.disk.saver:sums.write", 2, "before"),
    (0, "jaxddim.runs.disk.saver:sums.write", 2, "after"),
    (0, "jaxddim.runs.disk.saver:flush_all", 2, "after"),
    # restoring, and the records of steps that come again
    (0, "jaxddim.runs.disk.store:Store.check", 1, "after"),
    (1, "jaxddim.runs.disk.store:Store.restore", 1, "before"),
    (1, "jaxddim.runs.disk.store:Store.restore", 1, "after"),
    (0, "jaxddim.runs.disk.store:Store.restore", 1, "after"),
    (0, "experiments.trainer.log:Log._append", 2, "after"),
    (0, "experiments.trainer.log:replace", 1, "half"),
    (0, "experiments.trainer.log:replace", 1, "after"),
    (1, "experiments.trainer.tasks:make_up", 1, "before"),
    (0, "experiments.trainer.tasks:make_up", 1, "after"),
    # logging, validation, samples
    (1, "experiments.trainer.tasks:jaxddim.variables", 2, "before"),
    (0, "experiments.trainer.log:_Events.write", 2, "before"),
    (0, "experiments.terminal.pictures:replace", 1, "half"),
    (0, "experiments.trainer.log:Log.picture", 2, "before"),
    (1, "experiments.trainer.tasks:draw", 1, "before"),
    # deleting older checkpoints
    (0, "jaxddim.runs.disk.store:Store.delete", 2, "before"),
    (0, "jaxddim.runs.disk.store:shutil.rmtree", 2, "after"),
    (1, "experiments.trainer.tasks:validated", 2, "after"),
    (0, "experiments.trainer.tasks:write_line", 2, "after"),
    (1, "jaxddim.runs.disk.store:Store.close", 1, "before"),
    (0, "jaxddim.runs.disk.store:Store.close", 1, "before"),
]
SECONDS = (0.4, 0.8, 1.2, 1.6, 2.0, 2.4)
"""And at moments that nobody has chosen."""


@pytest.mark.slow  # starts the command 45 times
def test_a_run_that_is_killed_everywhere_ends_as_one_that_is_not(start, whole, tmp_path):
    command = flags(start.root, tmp_path / "run", "--train.steps", 45, "--optim.averages")
    for trap in KILLS:
        ended = start("train", *command, trap=trap)
        assert ended.code == -9, (trap, ended.told)
        assert "Traceback" not in ended.told and "warning" not in ended.told, (trap, ended.told)
    for seconds in SECONDS:
        ended = start("train", *command, seconds=seconds)
        assert ended.code in (-9, 0), (seconds, ended.told)
    ended = start("train", *command)
    assert ended.code == 0, ended.told
    assert_same(tmp_path / "run", whole)
    steps = [line["step"] for line in tiny.computed(whole) if "loss" in line]
    assert steps == list(range(5, 46, 5))


@pytest.mark.slow  # starts two processes 42 times
def test_two_processes_that_are_killed_everywhere_end_as_two_that_are_not(start, tmp_path):
    more = ("--train.steps", 45, "--optim.averages", "--distributed")
    undisturbed = tmp_path / "undisturbed"
    ended = start("train", *flags(start.root, undisturbed, *more), port=port())
    assert ended.code == 0, ended.told
    command = flags(start.root, tmp_path / "run", *more)
    for who, *trap in TOGETHER:
        ended = start("train", *command, trap=trap, who=who, port=port())
        assert ended.code == -9, (who, trap, ended.told)
        assert "Traceback" not in ended.told and "warning" not in ended.told, (trap, ended.told)
    ended = start("train", *command, port=port())
    assert ended.code == 0, ended.told
    assert_same(tmp_path / "run", undisturbed)
