"""Runs of several processes: the results of one, agreement, and stopping together."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest

from experiments.terminal import processes
from experiments.terminal.errors import UserError
from tests import tiny
from tests.scale import layouts
from tests.scale.layouts import WAIT, ran, said, started, wait_for

root = layouts.root


def difference(one, other):
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def alone(root):
    """A run of one process and one device, never interrupted."""
    workdir = root / "alone"
    assert ran(root, workdir, "1x1") == [0], said(root, workdir, 0)
    return workdir


@pytest.mark.slow  # five processes compile a training step
def test_two_processes_train_what_one_does_and_any_layout_goes_on(root, alone):
    workdir = root / "together"
    half = "--train.steps=10"
    assert ran(root, workdir, "2x2", "--train.split-state", half) == [0, 0], said(root, workdir, 0)
    assert "Traceback" not in said(root, workdir, 0) + said(root, workdir, 1)
    assert "a process of this run" not in said(root, workdir, 0)
    again = root / "again"
    shutil.copytree(workdir, again)
    expected = tiny.state(alone)
    for folder, layout in ((workdir, "2x1"), (again, "1x4")):
        codes = ran(root, folder, layout)
        assert set(codes) == {0}, said(root, folder, 0)
        assert difference(tiny.state(folder), expected) < 1e-6, layout
        records = [line for line in tiny.metrics(folder) if "validation_loss" in line]
        assert [line["step"] for line in records] == [10, 20]
        picture = "samples/0000020.png"
        assert (folder / picture).read_bytes() == (alone / picture).read_bytes()


@pytest.mark.slow  # two processes compile a training step
def test_one_process_that_is_told_to_stop_stops_all(root):
    workdir = root / "stopped"
    with started(root, workdir, "2x1", "--train.steps=100000") as running:
        wait_for(workdir / "checkpoints" / "10")
        running[1].send_signal(signal.SIGTERM)
        codes = [process.wait(WAIT) for process in running]
    assert codes == [128 + signal.SIGTERM] * 2
    step = tiny.saved(workdir)[-1]
    assert f"stopped by a signal: step {step} is saved" in said(root, workdir, 0)
    assert ran(root, workdir, "1x1", f"--train.steps={step + 1}") == [0]


@pytest.mark.slow  # two processes start
def test_processes_with_different_commands_end_at_once(root):
    workdir = root / "different"
    codes = ran(root, workdir, "2x1", each=[["--seed=0"], ["--seed=1"]])
    assert codes == [2, 2]
    for index in range(2):
        assert "process 1 was started with another command than process 0 (seed 1" in said(
            root, workdir, index
        )
    assert not (workdir / "config.json").exists()


@pytest.mark.slow  # two processes start
def test_processes_that_do_not_share_the_folder_end_at_once(root):
    workdir, elsewhere = root / "mine", root / "elsewhere"
    codes = ran(root, workdir, "2x1", each=[[], ["--workdir", str(elsewhere)]])
    assert codes == [2, 2]
    assert "process 1 does not see the files" in said(root, workdir, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    {
        "no number": ({1: "two", 2: "0", 0: "localhost:1"}, "must be whole numbers"),
        "no index": ({1: "2", 0: "localhost:1"}, "JAX_PROCESS_ID is not set"),
        "no address": ({1: "2", 2: "0"}, "JAX_COORDINATOR_ADDRESS is not set"),
        "index too large": ({0: "localhost:1", 1: "2", 2: "2"}, "must lie in"),
        "superscript": ({0: "localhost:1", 1: "²", 2: "0"}, "must be whole numbers"),
        "no port": ({0: "localhost", 1: "2", 2: "0"}, "HOST:PORT"),
    }.values(),
)
def test_incomplete_variables_are_named(monkeypatch, values, message):
    for index, name in enumerate(processes.VARIABLES):
        monkeypatch.delenv(name, raising=False)
        if index in values:
            monkeypatch.setenv(name, values[index])
    with pytest.raises(UserError, match=message):
        processes.start()
    assert not processes.joined()


def test_alone_a_process_agrees_with_itself(tmp_path):
    processes.check_equal("command", {"seed": 0})
    processes.check_shared(tmp_path)
    assert not os.listdir(tmp_path)
    assert processes.gather("é") == ["é"]
