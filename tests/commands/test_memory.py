"""Commands that train keep the memory of their computations, as the kernel's count tells."""

import contextlib
import ctypes
import itertools
import resource
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


@pytest.mark.slow  # starts three processes, which compile
def test_a_step_on_many_points_takes_no_memory_anew(root, tmp_path):
    """Of the swiss roll; by the whole process, as it prints no line a step."""
    flags = ["--networks", "2", "--batch-size", "32768", "--num-points", "16", "--evaluations", "2"]

    def faults(steps):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
        where = ["--workdir", tmp_path / str(steps), "--train-steps", steps]
        process = tiny.start(root, "swiss_roll", *where, *flags)
        assert tiny.complaints(process.communicate()[1]) == []
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before

    faults(1)  # fills the cache of compiled functions
    # a process may take a block of 190 MB once more than another, 48,000 pages
    assert (faults(102) - faults(2)) / 100 < 1_000
