"""The page about a run: all in one file, with what the run says as text and never as markup."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from experiments.reporting import contents, page
from experiments.terminal import pictures
from tests import tiny
from tests.terminal.test_cli import assert_mistake

root = tiny.root
HOSTILE = '<img src="x" onerror="alert(1)"></td><script>'


class Page(html.parser.HTMLParser):
    """The tags, addresses and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    found = Page(path.read_text())
    assert found.open == []
    assert not {"script", "iframe", "link", "object"} & set(found.tags)
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", one) for one in found.addresses)
    return found


@pytest.fixture
def run(root, tmp_path):
    workdir = tmp_path / "cars of mine"
    others = shutil.ignore_patterns("evaluations", "*.html")  # of tests that ran before
    shutil.copytree(tiny.trained(root)[0], workdir, ignore=others)
    return workdir


def test_a_page_shows_curves_pictures_and_settings(run):
    told = tiny.command("report", "--workdir", run)
    assert told.code == 0, told.err
    found, text = read(run / "report.html"), (run / "report.html").read_text()
    words = " ".join(found.words)
    for part in ("cars of mine", "step 20 of 20", "Validation loss", "model.channels", "GiB"):
        assert part in words
    drawn = len(list((run / "samples").glob("*.png")))
    strips = len(list((run / "samples").glob("*_strip.png")))
    curves = ["Loss", "Learning rate", "Norm of the gradient", "Speed", "Peak memory"]
    assert [title for title in curves if title in found.words] == curves
    assert found.tags.count("img") == drawn - strips + 1 + len(curves)
    assert tiny.command("report", "--workdir", run, "--out", run / "b.html").code == 0
    assert (run / "b.html").read_text() == text


def test_fields_that_are_not_the_named_configurations_are_marked(run):
    settings = page.settings(contents.read(str(run)))
    assert {name for name, _, other in settings if other} >= {"model.channels", "model.groups"}
    assert {name for name, _, other in settings if not other} >= {"seed", "optim.ema"}


def test_evaluations_have_their_numbers_and_pictures(run):
    flags = ["--num", "4", "--steps", "2", "--metrics", "kid", "neighbours", "validation_loss"]
    told = tiny.command("evaluate", "--workdir", run, *flags)
    assert told.code == 0, told.err
    (evaluation,) = contents.read(str(run)).evaluations
    assert evaluation.title == "step 20, ema weights: ddim, 2 steps, eta = 0; 4 images"
    record = json.loads(next((run / "evaluations").glob("*.json")).read_text())
    for name, value, _ in evaluation.metrics:
        assert record["metrics"][name]["value"] == value
    assert any(name.startswith("KID") for name, _, _ in evaluation.metrics)
    assert len(evaluation.pictures) == len(list((run / "evaluations").glob("*.png"))) > 0
    assert tiny.command("report", "--workdir", run).code == 0
    assert evaluation.title in read(run / "report.html").words


def test_text_of_a_run_is_never_markup(run):
    record = json.loads((run / "config.json").read_text())
    record["config"]["data.path"] = HOSTILE
    record["data"]["source"] = record["backend"] = HOSTILE
    record["versions"] = {HOSTILE: HOSTILE}
    (run / "config.json").write_text(json.dumps(record))
    folder = run / "evaluations"
    folder.mkdir()
    pictures.save_png(folder / f"a-{HOSTILE.replace('/', '')}.png", np.zeros((4, 4, 3), np.uint8))
    run_part = {"checkpoint": HOSTILE, "weights": HOSTILE}
    metrics = {HOSTILE: {"value": 1.0, HOSTILE: 2.0, "text": HOSTILE}}
    made = {"run": run_part, "metrics": metrics, "notes": [HOSTILE], "date": HOSTILE}
    (folder / "a.json").write_text(json.dumps(made))
    told = tiny.command("report", "--workdir", run)
    assert told.code == 0, told.err
    assert sum(word.count(HOSTILE) for word in read(run / "report.html").words) >= 9


def test_what_cannot_be_read_is_noted_and_the_rest_shown(run):
    damaged = b'{"step": 1e5}\n[1]\n{"loss": 1}\n\xff\n{"step": 2'
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + damaged)
    last = sorted((run / "samples").glob("*.png"))[0]
    last.write_bytes(b"GIF89a")
    (run / "evaluations").mkdir()
    for name, text in (("a", "{}"), ("b", "[]"), ("c", '{"run": 1, "metrics": {}}'), ("d", "{")):
        (run / "evaluations" / f"{name}.json").write_text(text)
    told = tiny.command("report", "--workdir", run)
    assert told.code == 0, told.err
    words = " ".join(read(run / "report.html").words)
    for part in ("5 lines cannot be read", f"{last.name} cannot be shown", "d.json is no record"):
        assert part in told.out
        assert part in words


def test_of_many_pictures_and_long_logs_a_page_shows_some(run, monkeypatch):
    first = sorted((run / "samples").glob("*[0-9].png"))[0]
    for step in range(100, 160):
        shutil.copy(first, run / "samples" / f"{step:07d}.png")
    found = contents.read(str(run))
    grids = [one.title for one in found.pictures if one.title.startswith("Samples")]
    assert len(grids) == contents.MOST_GRIDS
    assert grids[-1] == "Samples of step 159"
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 30_001)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tiny.command("report", "--workdir", run).code == 0
    assert (run / "report.html").stat().st_size < 1_000_000


def test_a_run_that_has_only_begun(run):
    for name in ("metrics.jsonl", "samples"):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).unlink(missing_ok=True)
    told = tiny.command("report", "--workdir", run)
    assert (told.code, tiny.complaints(told.err)) == (0, [])
    assert "step 0 of 20" in told.out
    read(run / "report.html")


def test_mistakes_are_told_in_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    for flags, words in (
        (["--workdir", tmp_path / "none"], "holds no run"),
        ([], "--workdir is missing"),
        (["--workdir", run, "--out", "a.pdf"], "--out a.pdf: expected a FILE.html"),
        (["--workdir", run, "--out", tmp_path / "file" / "a.html"], "cannot be written"),
    ):
        assert_mistake(tiny.command("report", *flags), words)
