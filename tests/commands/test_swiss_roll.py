"""`experiments.swiss_roll`: end to end on a small scale, and user errors."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.points import roll
from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = pytest.mark.slow  # six samplers and a training step are compiled
root = tiny.root
FILES = ["forward.png", "reverse.png", "methods.png", "trajectories.png", "animation.gif"]
FILES += ["results.json", "table.md"]
SMALL = ["--networks", "2", "--train-steps", "12", "--batch-size", "16", "--num-points", "48"]
SMALL += ["--evaluations", "4"]


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("swiss") / "run"
    return workdir, tiny.command("swiss_roll", "--workdir", workdir, *SMALL)


def contents(workdir):
    return {name: (workdir / name).read_bytes() for name in FILES}


def test_it_ends_well_and_writes_what_it_promises(run):
    workdir, finished = run
    assert (finished.code, tiny.complaints(finished.err)) == (0, [])
    assert "2 networks" in finished.out and str(workdir) in finished.out
    for name in FILES[:5]:
        with Image.open(workdir / name) as image:
            assert min(image.size) >= 250
            assert np.asarray(image.convert("L")).std() > 3
    results = json.loads((workdir / "results.json").read_text())
    cells = {(r["method"], r["evaluations"], r["weights"]) for r in results["rows"]}
    assert cells == {(m, 4, w) for m in roll.METHODS for w in ("ema", "raw", "exact")}
    for entry in (*results["rows"], results["floor"]):
        for name in ("sliced_w2", "mmd2"):
            values = entry[name]["values"]
            assert len(values) == 2 and np.all(np.isfinite(values))
            assert entry[name]["mean"] == pytest.approx(np.mean(values))
    table = (workdir / "table.md").read_text()
    mean = results["floor"]["sliced_w2"]["mean"]
    assert f"{mean:.4f}" in table and "annealed Langevin" in table
    (exact,) = (r for r in results["rows"] if (r["method"], r["weights"]) == ("ddim", "exact"))
    assert f"{exact['sliced_w2']['mean']:.4f} ± " in table


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(run, tmp_path):
    tiny.command("swiss_roll", "--workdir", tmp_path / "again", *SMALL)
    assert contents(tmp_path / "again") == contents(run[0])
    tiny.command("swiss_roll", "--workdir", tmp_path / "other", *SMALL, "--seed", "1")
    other, first = contents(tmp_path / "other"), contents(run[0])
    assert all(other[name] != first[name] for name in FILES)


def test_the_same_command_again_takes_the_networks_and_writes_the_same_files(run):
    workdir, _ = run
    before = contents(workdir)
    for name in FILES:
        (workdir / name).unlink()
    finished = tiny.command("swiss_roll", "--workdir", workdir, *SMALL)
    assert finished.code == 0 and "trained before" in finished.out
    assert contents(workdir) == before


def test_a_run_is_not_overwritten_by_another_one_and_serves_no_other_command(run):
    workdir, _ = run
    before = contents(workdir)
    flags = ["--workdir", workdir]
    finished = tiny.command("swiss_roll", *flags, *SMALL, "--ema", "0.5")
    assert_mistake(finished, "another configuration", "ema was 0.999, is 0.5")
    finished = tiny.command("sample", *flags, "--out", workdir / "a.png")
    assert_mistake(finished, "a run of experiments.swiss_roll")
    finished = tiny.command("train", *flags, "--config", "tiny")
    assert_mistake(finished, "a run of experiments.swiss_roll")
    assert contents(workdir) == before


MISTAKES = {
    "--workdir=": ("--workdir is missing",),
    "--workdir file": ("--workdir file cannot be written to",),
    "--workdir images": ("images holds a run of experiments.train",),
    "--seed -1": ("--seed must lie in", "-1"),
    "--networks 1": ("--networks must be at least 2, got 1",),
    "--networks unet": ("--networks", "expected a whole number, got 'unet'"),
    "--num-points 1": ("--num-points must be at least 2",),
    "--train-steps 0": ("--train-steps must be at least 1",),
    "--batch-size 0": ("--batch-size must be at least 1",),
    "--learning-rate 0": ("--learning-rate must be positive",),
    "--learning-rate nan": ("--learning-rate must be positive",),
    "--ema 1": ("--ema must lie in [0, 1)",),
    "--evaluations": ("--evaluations",),
    "--evaluations 1 20": ("--evaluations must be different numbers in 2..1000, got 1 20",),
    "--evaluations 1001": ("--evaluations",),
    "--evaluations 20 20": ("--evaluations must be different",),
    "--evaluation 20": ("unknown flag --evaluation;", "did you mean --evaluations?"),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_2_and_starts_no_run(words, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "config.json").write_text('{"config": {"seed": 0}}')
    before = sorted(tmp_path.rglob("*"))
    flags = ["--workdir", "new", *SMALL, *words.split()]
    assert_mistake(tiny.command("swiss_roll", *flags), *MISTAKES[words])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_loss_that_is_no_number_ends_the_run_and_says_what_to_try(root, tmp_path, monkeypatch):
    monkeypatch.setattr(roll, "swiss_roll", lambda key, num: np.full((num, 2), np.nan, "f4"))
    finished = tiny.command("swiss_roll", "--workdir", tmp_path, *SMALL)
    assert_mistake(finished, "the loss became nan at step 1", "--learning-rate")
