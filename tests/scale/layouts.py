"""A run of one or several processes, each of which is the command.

They are forked from a process that has imported it, with XLA's least optimisation: most of the time
is importing and compiling.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time

import jax
import pytest

from experiments.terminal import processes
from tests import tiny
from tests.faults.starter import IMPORTED, keep_compiled

FLAGS = [*tiny.NETWORK, "--data.source=rendered", "--data.num-images=64", "--train.batch-size=16"]
FLAGS += ["--train.sample-steps=5", "--train.accumulate=2", "--model.dropout=0.1"]
FLAGS += ["--train.checkpoint-every=10", "--train.sample-every=20", "--train.steps=20"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*IMPORTED, "tests.scale.layouts"])
WAIT = 300
"""Seconds after which a process counts as hanging, on the slowest machine."""


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Process(FORKS.Process):
    """One of them, with the methods of `subprocess.Popen` that the tests call."""

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=None):
        self.join(seconds)
        assert self.exitcode is not None, "it hangs"
        return self.exitcode


def command(words, environment, out, first):
    """In the fork: the command as a user calls it, with its output in a file."""
    os.environ.update(environment)
    for name in ("jax_platforms", "jax_compilation_cache_dir", *tiny.KEPT):
        jax.config.update(name, tiny.KEPT.get(name, environment[name.upper()]))
    for stream in (1, 2):
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["train", *words]
    if not first:
        keep_compiled()
    sys.modules.pop("experiments.train", None)
    runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)


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
        if count > 1:
            env |= dict(zip(processes.VARIABLES, (address, str(count), str(index)), strict=True))
            env["JAX_COORDINATOR_BIND_ADDRESS"] = address
            words.append("--distributed")
        words += each[index] if each else []
        out = root / f"{workdir.name}-{index}.out"
        out.write_text("")
        running.append(Process(target=command, args=(words, env, out, index == 0)))
        running[-1].start()
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
