"""Without a terminal every command says what it is doing: soon, stage by stage, and on stderr."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from experiments.terminal.progress import PATIENCE
from tests import tiny

root = tiny.root
SOON = PATIENCE + 8  # for a machine that is busy
RUN = """
import runpy, sys
import experiments.{name}
print("imported", flush=True)
del sys.modules["experiments.{name}"]
runpy.run_module("experiments.{name}", run_name="__main__", alter_sys=True)
"""
METRICS = ["--metrics", "kid", "neighbours", "validation_loss"]
PARTS = ["--parts", "table1", "figure4", "table2"]
STAGES = {
    "train": [
        "initialising the weights",
        "compiling the training step, then the first step",
        "drawing samples of step 4",
        "validating and saving step 6",
    ],
    "resumed": ["restoring the latest checkpoint", "compiling the training step", "saving step 22"],
    "sample": ["sampling: compiling, then batch 1 of 2"],
    "evaluate": [
        "metric 1 of 3: kid",
        "sampling: compiling, then batch 1 of 1",
        "features of samples: compiling, then batch 1 of 1",
        "features of rendered (train): batch 1 of 4",
        "metric 2 of 3: neighbours",
        "drawing the pictures",
        "metric 3 of 3: validation_loss",
        "validation loss: compiling, then noise level 1 of 21",
    ],
    "paper": [
        "cell 1 of 5: table1-0-2",
        "sampling: compiling, then batch 1 of 1",
        "cell 5 of 5: table1-sigma-hat-2",
        "drawing samples.png",
        "figure4: compiling sampler 1 of 3",
        "figure4: timing, round 3 of 3",
        "drawing figure4.png",
        "cell 1 of 3: table2-0-2",
        "cell 3 of 3: table2-3-2",
        "drawing table2.png",
    ],
    "swiss_roll": [
        "initialising the weights",
        "compiling the training step, then the first step",
        "saving the networks",
        "measuring: cell 1 of 8",
        "measuring: cell 8 of 8",
        "drawing the pictures",
    ],
}
SWISS = ["--networks", "2", "--train-steps", "4", "--batch-size", "16", "--num-points", "48"]


def flags(case, root, workdir):
    if case == "swiss_roll":
        return ["--workdir", workdir, "--evaluations", "2", "4", *SWISS]
    if case == "train":
        loop = ["--train.batch-size", "16", "--train.checkpoint-every", "6", "--train.steps", "6"]
        return [*tiny.flags(root, workdir), *loop, "--train.log-every", "100"]
    trained, _ = tiny.trained(root)
    if case == "resumed":
        shutil.copytree(trained, workdir)
        return [*tiny.flags(root, workdir), "--train.steps", "22"]
    new = ["--data.cache-dir", workdir / "cache"]  # with no features of other tests
    draw = ["--workdir", trained, "--num", "20" if case == "sample" else "4"]
    return {
        "sample": [*draw, "--steps", "2", "--out", workdir / "a.png"],
        "evaluate": [*draw, "--steps", "2", *METRICS, *new, "--out", workdir / "a.json"],
        "paper": [*draw, "--max-steps", "2", *PARTS, "--out", workdir],
    }[case]


def watched(root, name, words):
    """Exit code, stdout, stderr, and seconds from the end of the imports to each line of it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN.format(name=name), *map(str, words)],
        cwd=tiny.REPOSITORY,
        env=tiny.environment(root) | {"XLA_FLAGS": tiny.QUICK},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []

    def listen():
        lines.extend((time.monotonic(), line) for line in process.stderr)

    listener = threading.Thread(target=listen)
    listener.start()
    assert process.stdout.readline() == "imported\n"
    began = time.monotonic()
    out = process.stdout.read()
    listener.join()
    process.stdout.close()
    process.stderr.close()
    return process.wait(), out, "".join(line for _, line in lines), lines[0][0] - began


@pytest.mark.slow  # starts a process for each command, which compiles
@pytest.mark.parametrize("case", STAGES)
def test_each_stage_is_named_in_order_and_the_first_soon(root, tmp_path, case):
    name, workdir = {"resumed": "train"}.get(case, case), tmp_path / "new"
    code, out, err, first = watched(root, name, flags(case, root, workdir))
    assert (code, tiny.complaints(err)) == (0, []), err
    assert first < SOON
    place = 0
    for stage in STAGES[case]:
        found = err.find(stage, place)
        assert found >= 0, f"{stage!r} is not in {err[place:]!r}"
        place = found + len(stage)
    lines = err.splitlines()
    assert all(re.fullmatch(r"\S.* \.\.\.", line) for line in lines)
    assert not any(a == b for a, b in itertools.pairwise(lines))
    assert " ...\n" not in out
    if case == "evaluate":
        assert json.loads(out)["metrics"]
    else:
        assert "nan" not in out and not re.search(r" 0\.0 images/s", out + err)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("train", ("demo", "20 minutes", "two cores")),
        ("sample", ("two cores",)),
        ("evaluate", ("two cores",)),
        ("paper", ("demo", "30 minutes", "--max-steps 100", "two cores")),
        ("swiss_roll", ("minutes", "two cores")),
        ("prepare", ("two cores",)),
    ],
)
def test_help_says_how_long_it_takes(name, parts):
    finished = tiny.command(name, "--help")
    assert (finished.code, finished.err) == (0, "")
    about = finished.out.partition("options")[0]
    for part in parts:
        assert part in about


def test_help_says_what_the_log_follows():
    shown = tiny.command("train", "--help").out
    assert "an epoch's end has no line" in " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())


@pytest.mark.slow  # trains, in a call of the command
@pytest.mark.parametrize(
    ("every", "steps"), [(1, range(1, 21)), (3, [3, 6, 9, 12, 15, 18, 20]), (50, [20])]
)
def test_lines_follow_log_every_whatever_the_epochs(root, tmp_path, every, steps):
    finished = tiny.command("train", *tiny.flags(root, tmp_path), "--train.log-every", every)
    assert finished.code == 0
    logged = [line for line in tiny.metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in logged] == list(steps)
    printed = re.findall(r"epoch (\d+) \| step (\d+) \| loss", finished.out)
    assert printed == [(str(step * 8 // 58), str(step)) for step in steps]
    rates = [line.get("images_per_second") for line in logged]
    assert (rates[0] is None) is (every == 1)  # the first step's time is that of compiling
    assert all(rate > 0 for rate in rates[1:])
