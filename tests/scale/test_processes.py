"""Runs of several processes: the results of one, agreement, stopping together, and ending together.

Each process is the command, with XLA's least optimisation: most of the time is compiling.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments.terminal import processes
from experiments.terminal.errors import UserError
from tests import tiny

FLAGS = [*tiny.NETWORK, "--data.source=rendered", "--data.num-images=64", "--train.batch-size=16"]
FLAGS += ["--train.sample-steps=5", "--train.accumulate=2", "--model.dropout=0.1"]
FLAGS += ["--train.checkpoint-every=10", "--train.sample-every=20", "--train.steps=20"]
WAIT = 300
"""Seconds after which a process counts as hanging, on the slowest machine."""


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started(root, workdir, layout, *flags, each=None):
    """The processes of a layout such as 2x1: processes, and devices of each."""
    count, devices = map(int, layout.split("x"))
    address = f"127.0.0.1:{port()}"
    xla = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    running = []
    for index in range(count):
        env = tiny.environment(root) | {"XLA_FLAGS": xla}
        words = [*FLAGS, "--workdir", str(workdir), *flags]
        if count > 1:
            env |= dict(zip(processes.VARIABLES, (address, str(count), str(index)), strict=True))
            env["JAX_COORDINATOR_BIND_ADDRESS"] = address
            words.append("--distributed")
        words += each[index] if each else []
        with (root / f"{workdir.name}-{index}.out").open("w") as out:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "experiments.train", *words],
                    cwd=tiny.REPOSITORY,
                    env=env,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def said(root, workdir, index):
    return (root / f"{workdir.name}-{index}.out").read_text()


def ran(root, workdir, layout, *flags, **more):
    """The exit codes of a run that nobody disturbs."""
    with started(root, workdir, layout, *flags, **more) as running:
        return [process.wait(WAIT) for process in running]


def wait_for(path):
    end = time.monotonic() + WAIT
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.2)


def difference(one, other):
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("scale")


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


LONG = ("--train.steps=80", "--train.checkpoint-every=20", "--train.sample-every=80")


@pytest.fixture(scope="module")
def undisturbed(root):
    workdir = root / "undisturbed"
    assert ran(root, workdir, "2x1", *LONG) == [0, 0], said(root, workdir, 0)
    return workdir


@pytest.mark.slow  # two processes compile a training step, and miss a heartbeat
@pytest.mark.parametrize(
    ("who", "number"),
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (0, signal.SIGSTOP), (1, signal.SIGSTOP)],
)
def test_the_end_of_one_process_ends_all_with_a_last_word(root, undisturbed, who, number):
    workdir = root / f"ended-{who}-{number}"
    other = 1 - who
    with started(root, workdir, "2x1", *LONG) as running:
        wait_for(workdir / "checkpoints" / "20")
        running[who].send_signal(number)
        began = time.monotonic()
        code = running[other].wait(WAIT)
        seconds = time.monotonic() - began
    assert code != 0
    assert seconds < 60
    time.sleep(1.0)
    last = said(root, workdir, other).splitlines()[-1]
    assert "the last good checkpoint: " in last
    assert int(last.partition("checkpoints/")[2].partition(".")[0]) in tiny.saved(workdir)
    if number == signal.SIGKILL:
        assert ran(root, workdir, "2x1", *LONG) == [0, 0], said(root, workdir, 0)
        tiny.assert_same_bits(tiny.state(workdir), tiny.state(undisturbed))
        assert tiny.computed(workdir) == tiny.computed(undisturbed)


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
