"""Damaged records: said in a line, and nothing that is sound is lost."""

import json

import pytest

from tests import tiny
from tests.faults.conftest import flags

STEP_45 = b'{"step": 45, "loss": 0.5}\n'


def emptied(content):
    return b""


def removed(content):
    return None


def cut(content):
    return content[:-9]


def not_text(content):
    first, rest = content.split(b"\n", 1)
    return first + b"\n\xff\xfe{\n" + rest


def no_number(content):
    return content.replace(b'{"step": 5,', b'{"step": "five",', 1)


def no_object(content):
    rest = content.split(b"\n", 1)[1]
    return b"[1, 2]\n" + rest


def zeros(content):
    return content[:200] + bytes(300) + content[500:]


def deep(content):
    return b"[" * 100_000 + b"\n" + content


@pytest.mark.parametrize(
    ("harm", "lost", "told"),
    [
        (emptied, 23, "metrics.jsonl has 0 of the 24 lines that there were up to step 45"),
        (removed, 23, "metrics.jsonl has 0 of the 24 lines that there were up to step 45"),
        (cut, 0, "metrics.jsonl has 23 of the 24 lines"),
        (not_text, 0, "1 line cannot be read and left out"),
        (no_number, 1, "1 line cannot be read and left out"),
        (no_object, 1, "1 line cannot be read and left out"),
        (zeros, None, "metrics.jsonl.damaged keeps them"),
        (deep, 0, "1 line cannot be read and left out"),
    ],
)
def test_a_damaged_metrics_file_is_told_and_its_sound_lines_are_kept(
    start, whole, copied, harm, lost, told
):
    path = copied / "metrics.jsonl"
    before = path.read_bytes()
    assert len(tiny.computed(whole)) == 24
    after = harm(before)
    path.unlink() if after is None else path.write_bytes(after)
    ended = start("train", *flags(start.root, copied, "--train.steps", 46, "--optim.averages"))
    assert ended.code == 0 and "Traceback" not in ended.told, ended.told
    assert f"warning: {path}"[:40] in ended.told and told in ended.told, ended.told
    found = tiny.computed(copied)
    kept = [line for line in tiny.computed(whole) if line in found]
    if lost is not None:
        assert len(kept) == 24 - lost
    assert [line["step"] for line in found if line not in kept][-2:] == [46, 46]
    if "left out" in told or "keeps" in told:
        assert (copied / "metrics.jsonl.damaged").read_bytes() == after


def test_the_first_line_after_a_resume_has_the_mean_of_all_its_steps(start, whole, tmp_path):
    command = flags(start.root, tmp_path, "--optim.averages")
    for _ in range(5):  # two steps each, so a checkpoint within each stretch of five
        trap = ("experiments.trainer.monitor:Window.add", 1, "after")
        ended = start("train", *command, "--train.steps", 45, trap=trap, signals=[15])
        assert ended.code == 143, ended.told
    assert start("train", *command, "--train.steps", 45).code == 0
    assert tiny.computed(tmp_path) == tiny.computed(whole)


def test_what_a_new_run_writes_is_what_tensorboard_shows_once(start, whole, copied):
    first = len(list(copied.glob("events.*")))
    command = flags(start.root, copied, "--optim.averages")
    for steps in (46, 47):
        assert start("train", *command, "--train.steps", steps).code == 0
    assert len(list(copied.glob("events.*"))) == first + 2  # also within one second


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"skipped": 3}', b'{"skipped": [{"batch": "x"}]}', b"\xff"]
)
def test_a_damaged_list_of_skipped_batches_is_a_mistake(start, copied, content):
    (copied / "skipped.json").write_bytes(content)
    ended = start("train", *flags(start.root, copied, "--train.steps", 46, "--optim.averages"))
    assert ended.code == 2, ended.told
    assert "skipped.json is not the list" in ended.told.splitlines()[-1]
    assert tiny.saved(copied)[-1] == 45


def test_speed_and_memory_are_all_that_differs_between_two_runs(whole):
    for line in tiny.metrics(whole):
        known = {"step", "epoch", "loss", "grad_norm", "validation_loss", *tiny.MEASURED}
        assert set(line) <= known
    json.loads((whole / "config.json").read_text())
