"""Commands that train keep the memory of their computations, as the kernel's count tells."""

import contextlib
import ctypes
import itertools
import statistics
import subprocess
import sys

import pytest

from benchmarks.trainer import lines
from tests import tiny

root = tiny.root
NETWORK = ["--config", "tiny", "--data.image-size", "64", "--model.channels", "32", *tiny.SMALL]
LOOP = ["--train.batch-size", "32", "--train.log-every", "2", "--train.steps", "100"]
LOOP += ["--train.checkpoint-every", "100", "--train.sample-every", "100"]
FORGETS = """
import runpy, sys
from experiments.terminal import startup
startup.keep_memory = lambda: None
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""
COUNTS = """
import os, resource, runpy, sys
from experiments.trainer.monitor import Window

wait, faults = Window.wait, []

def counted(window):
    wait(window)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    if len(faults) == 2:
        os.write(2, f"{faults[1] - faults[0]}".encode())
        os._exit(0)

Window.wait = counted
runpy.run_module("experiments.swiss_roll", run_name="__main__", alter_sys=True)
"""  # of page faults between the first step and the last, where it ends
LINES = 6

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="keep_memory needs glibc",
)


@pytest.mark.slow  # starts two processes, which compile
def test_a_step_of_training_takes_no_memory_anew(root, tmp_path):
    def faults(*command):
        flags = [*tiny.flags(root, tmp_path / command[0]), *NETWORK, *LOOP]
        options = {"cwd": tiny.REPOSITORY, "env": tiny.environment(root)}
        options["stderr"] = subprocess.DEVNULL
        with contextlib.closing(lines([sys.executable, *command, *flags], **options)) as trainer:
            pairs = list(itertools.pairwise(itertools.islice(trainer, LINES)))
        return statistics.median((b.faults - a.faults) / (b.step - a.step) for a, b in pairs)

    assert faults("-c", FORGETS) > 10_000
    assert faults("-m", "experiments.train") < 1_000


@pytest.mark.slow  # starts a process, which compiles
def test_a_step_on_many_points_takes_no_memory_anew(root, tmp_path):
    """Of the swiss roll, which prints no line a step."""
    flags = ["--networks", "2", "--batch-size", "32768", "--train-steps", "61"]
    command = [sys.executable, "-W", "error", "-c", COUNTS, *flags, "--workdir", tmp_path]
    options = {"cwd": tiny.REPOSITORY, "env": tiny.environment(root), "check": True}
    told = subprocess.run(command, capture_output=True, text=True, **options).stderr
    # a block of 190 MB, 48,000 pages, may be taken once
    assert int(told.splitlines()[-1]) / 60 < 1_000
