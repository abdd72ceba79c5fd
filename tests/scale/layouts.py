"""A run of one or several processes, each of which is the command.

With XLA's least optimisation: most of the time is compiling.
"""

import contextlib
import socket
import subprocess
import sys
import time

import pytest

from experiments.terminal import processes
from tests import tiny

FLAGS = [*tiny.NETWORK, "--data.source=rendered", "--data.num-images=64", "--train.batch-size=16"]
FLAGS += ["--train.sample-steps=5", "--train.accumulate=2", "--model.dropout=0.1"]
FLAGS += ["--train.checkpoint-every=10", "--train.sample-every=20", "--train.steps=20"]
COMMAND = """
import runpy
from tests.faults.starter import keep_compiled

keep_compiled()
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""
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
    xla = f"--xla_force_host_platform_device_count={devices} {tiny.QUICK}"
    running = []
    for index in range(count):
        env = tiny.environment(root) | {"XLA_FLAGS": xla}
        words = [*FLAGS, "--workdir", str(workdir), *flags]
        command = ["-c", COMMAND] if index else ["-m", "experiments.train"]
        if count > 1:
            env |= dict(zip(processes.VARIABLES, (address, str(count), str(index)), strict=True))
            env["JAX_COORDINATOR_BIND_ADDRESS"] = address
            words.append("--distributed")
        words += each[index] if each else []
        with (root / f"{workdir.name}-{index}.out").open("w") as out:
            running.append(
                subprocess.Popen(
                    [sys.executable, *command, *words],
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("scale")
