"""`experiments.paper`: the report of a tiny run, resuming after a kill, and user errors."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments import paper
from experiments.evaluation.features import networks
from experiments.reproduction import findings, quality, texts, timing
from tests import tiny
from tests.terminal.test_cli import assert_mistake

pytestmark = [
    pytest.mark.slow,  # five samplers, a timing and two coders are compiled
    pytest.mark.usefixtures("quick_module"),
]
root = tiny.root
FLAGS = ("--max-steps", "10", "--num", "4", "--num-encoded", "3", "--seed", "3")
BEFORE_THE_KILL = 3


@pytest.fixture(scope="module")
def trained(root):
    return tiny.trained(root)[0]


class Killed(BaseException):
    """Stands for a kill of the process."""


@pytest.fixture(scope="module")
def calls():
    """The sampler's arguments in each call of the command."""
    return []


@pytest.fixture(scope="module")
def report(trained, calls):
    """The folder of a report whose command was killed during table 1, and then run again."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = quality.drawn

        def watched(config, run, num, chunk=None, **track):
            if len(calls) == 1 and len(calls[0]) == BEFORE_THE_KILL:
                raise Killed
            calls[-1].append((config.method, config.eta, config.variance, config.steps, num))
            return drawn(config, run, num, chunk, **track)

        patch.setattr(quality, "drawn", watched)
        patch.setattr(timing, "STEPS_A_ROUND", 1)
        calls.append([])
        with pytest.raises(Killed):
            tiny.command("paper", "--workdir", trained, *FLAGS)
        for _ in range(2):
            calls.append([])
            told = tiny.command("paper", "--workdir", trained, *FLAGS)
            assert (told.code, tiny.complaints(told.err)) == (0, []), told
    return trained / "paper"


@pytest.fixture(scope="module")
def record(report):
    return json.loads((report / "report.json").read_text())


@pytest.fixture(scope="module")
def text(report):
    return (report / "report.md").read_text()


def test_a_killed_command_goes_on_without_repeating_a_cell(report, calls):
    killed, resumed, again = calls
    assert (len(killed), len(resumed), again) == (BEFORE_THE_KILL, 5 - BEFORE_THE_KILL, [])
    rows = [("ddim", eta, "small") for eta in (0.0, 0.2, 0.5, 1.0)] + [("ddpm", 0.0, "large")]
    assert sorted(killed + resumed) == sorted((*row, 10, 4) for row in rows)
    assert not list((report / "cells").glob("*.part"))


def test_a_cell_is_what_evaluate_measures(record, trained, tmp_path):
    cells = {(cell["eta"], cell["steps"]): cell for cell in record["parts"]["table1"]["cells"]}
    for flags, where in (
        (["--eta", "0.5", "--steps", "10"], ("0.5", 10)),
        (["--method", "ddpm", "--variance", "large", "--steps", "10"], ("sigma-hat", 10)),
    ):
        flags += ["--num", "4", "--seed", "3", "--metrics", "frechet", "kid"]
        told = tiny.command("evaluate", "--workdir", trained, *flags, "--out", tmp_path / "a.json")
        assert told.code == 0, told
        metrics = json.loads((tmp_path / "a.json").read_text())["metrics"]
        assert cells[where]["fd"] == pytest.approx(metrics["FD (EfficientNet-Lite0)"]["value"])
        kid = metrics["KID (EfficientNet-Lite0)"]
        assert cells[where]["kid"] == pytest.approx(kid["value"])
        assert cells[where]["kid_std"] == pytest.approx(kid["std"])


def test_the_report_has_every_part_and_its_pictures(report, text):
    for part in paper.PARTS.values():
        assert f"\n## {part.title}\n" in text
    names = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert len(names) == len(set(names)) == 9
    for name in names:
        with Image.open(report / name) as file:
            assert min(file.size) > 100
            assert np.asarray(file.convert("L")).std() > 0
    assert {path.name for path in report.glob("*.png")} == set(names)


def test_the_report_says_what_it_is_about(text, record):
    assert "`tiny`, unet, rendered images" in text
    assert "ema of step 20" in text
    assert "cosine schedule, T = 1000, v-prediction" in text
    assert "N = 4 samples per cell, against 58 training images" in text
    assert "FID" not in text
    assert "3 held-out images" in text
    assert record["run"]["weights_sha256"][:12] in text


def test_the_numbers_of_the_report_are_those_of_the_record(text, record):
    table1 = record["parts"]["table1"]
    for name in ("0", "0.2", "0.5", "1", "sigma-hat"):
        row = [c for c in table1["cells"] if c["eta"] == name]
        values = " | ".join(texts.number(cell["fd"]) for cell in row)
        assert f"| {texts.ETA.get(name, name)} | {values} |" in text
        assert " | ".join(findings.spread(cell) for cell in row) in text
    for row in record["parts"]["table2"]["rows"]:
        values = " | ".join(texts.number(error, 2) for error in row["error"])
        assert f"| {row['refine']} | {values} |" in text
    figure4 = record["parts"]["figure4"]
    assert f"| 10 | {figure4['seconds'][0]:.3f} |" in text
    held_out = table1["held_out"]
    assert f"4 held-out images have an FD of {texts.number(held_out['fd'])}" in text


def test_ddim_is_euler_for_a_network(record):
    assert record["parts"]["ode"]["largest"] < 1e-3


def test_markdown_is_a_function_of_the_record(text, record):
    assert paper.markdown(record) == text


@pytest.mark.parametrize("other", [(), ("--seed", 4), ("--num", 5), ("--weights", "raw")])
def test_other_settings_are_not_taken_from_what_is_kept(
    report, trained, tmp_path, monkeypatch, other
):
    asked = []

    def drawn(config, run, num, chunk=None, **track):
        asked.append(config)
        size = run.config.data.image_size
        return iter([np.zeros((num, size, size, 3), np.uint8)])

    numbers = {"fd": 1.0, "kid": 0.5, "kid_std": 0.1, "kid_block": 2}
    monkeypatch.setattr(quality, "drawn", drawn)
    monkeypatch.setattr(quality, "distances", lambda features, real, seed: numbers)
    monkeypatch.setattr(networks, "features", lambda network, images: images)
    shutil.copytree(report, tmp_path / "paper")
    flags = [*FLAGS, "--parts", "table1", "--out", tmp_path / "paper", *other]
    told = tiny.command("paper", "--workdir", trained, *flags)
    assert (told.code, len(asked)) == (0, 5 if other else 0), told


# -- user errors -------------------------------------------------------------------------

MISTAKES = {
    "--nun 4": ("unknown flag --nun", "did you mean --num?"),
    "--num 3": ("--num must be at least 4, got 3",),
    "--num-encoded 0": ("--num-encoded must be at least 1",),
    "--max-steps 0": ("--max-steps must be at least 1",),
    "--max-steps 1001": ("--max-steps must be at most T = 1000, got 1001",),
    "--seed -1": ("--seed", "-1"),
    "--parts": ("--parts is empty", "table1, figure4"),
    "--parts tabel1": ("unknown part 'tabel1' in --parts; did you mean table1?",),
    "--spacing cubic": ("'cubic'", "'quadratic'"),
    "--network inception": ("--network-weights FILE",),
    "--checkpoint 7": ("no checkpoint '7'",),
    "--workdir=": ("--workdir is missing",),
    "--workdir empty": ("empty holds no run",),
    "--out text/new": ("--out: text/new cannot be made",),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_2_and_leaves_nothing(words, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no folder")
    flags = words.split() if "--out" in words else [*words.split(), "--out", "new"]
    finished = tiny.command("paper", "--workdir", trained, *flags)
    assert_mistake(finished, *MISTAKES[words])
    assert finished.out == ""
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_to(trained, tmp_path):
    (tmp_path / "cells").write_text("no folder")
    flags = ["--parts", "ode", "--max-steps", "10", "--out", tmp_path]
    assert_mistake(tiny.command("paper", "--workdir", trained, *flags), "cannot be written to")


def test_help_lists_the_flags():
    finished = tiny.command("paper", "--help")
    assert (finished.code, finished.err) == (0, "")
    for field in dataclasses.fields(paper.PaperConfig):
        assert f"--{field.name.replace('_', '-')}" in finished.out
