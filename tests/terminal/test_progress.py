"""What a command says it is doing: on stderr, at once or after a while, never on stdout."""

import io
import sys
import threading

import pytest
from rich.console import Console

from experiments.terminal import progress


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "_lines", progress._Lines())
    return clock


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in place of stderr."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(progress, "STDERR", console)
    return console


def told(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_stage_is_told_when_it_begins(capsys):
    with progress.stage("compiling"):
        assert told(capsys) == ["compiling ..."]
    assert told(capsys) == []


@pytest.mark.parametrize("error", [None, KeyError])
def test_what_may_end_in_a_mistake_is_not_told_if_it_is_short(error, capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 600)
    try:
        with progress.stage("reading", wait=True):
            if error:
                raise error
    except KeyError:
        pass
    assert told(capsys) == []
    assert progress._lines._waiting is None


def test_what_may_end_in_a_mistake_is_told_if_it_lasts(monkeypatch):
    heard = threading.Event()

    class Ear(io.StringIO):
        def flush(self):
            heard.set()

    monkeypatch.setattr(sys, "stderr", Ear())
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    with progress.stage("reading", wait=True):
        assert heard.wait(60)
        assert sys.stderr.getvalue() == "reading ...\n"


def test_a_stage_that_waits_gives_way_to_one_inside_it(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 600)
    with progress.stage("outer", wait=True):
        waiting = progress._lines._waiting
        with progress.stage("inner"):
            assert told(capsys) == ["inner ..."]
        assert waiting.finished.is_set()
        assert progress._lines._waiting is None


@pytest.mark.parametrize(
    ("seconds", "options", "numbers"),
    [
        (0.0, {}, [1]),
        (1.0, {}, [1, 11]),
        (9.0, {}, [1, 3, 5, 7, 9, 11]),
        (10.0, {}, range(1, 13)),
        (500.0, {}, range(1, 13)),
        (0.0, {"every": 0}, range(1, 13)),
        (3.0, {"every": 6}, [1, 3, 5, 7, 9, 11]),
    ],
)
def test_a_repetition_is_told_at_first_and_then_every_ten_seconds(
    clock, capsys, seconds, options, numbers
):
    for item in progress.tracked(range(12), "sampling", **options):
        assert item == int((clock.now - 100.0) / seconds) if seconds else True
        clock.now += seconds
    assert told(capsys) == [f"sampling: batch {number} of 12 ..." for number in numbers]


@pytest.mark.parametrize(
    ("items", "options", "first"),
    [
        ("abc", {"unit": "cell"}, ["sampling: cell 1 of 3 ..."]),
        ("abc", {"compiles": True}, ["sampling: compiling, then batch 1 of 3 ..."]),
        ("abc", {"wait": True}, []),
        ("", {}, []),
    ],
)
def test_the_first_line_of_a_repetition(clock, capsys, items, options, first):
    assert list(progress.tracked(items, "sampling", **options)) == list(items)
    assert told(capsys) == first


def test_no_line_about_a_repetition_while_others_are_printed(clock, capsys):
    tell = progress.ticks("training", 100, "step")
    for step in range(1, 101):
        clock.now += 1
        tell(step, " | loss 0.5")
        if step % 9 == 0 and step < 80:  # a line of the log
            progress.heard()
    expected = [f"training: step {step} of 100 | loss 0.5 ..." for step in (82, 92)]
    assert told(capsys) == expected


@pytest.mark.parametrize("stderr", [None, "closed", "full"])
def test_nobody_listens_and_nothing_breaks(monkeypatch, capsys, stderr):
    class Full(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    file = {None: None, "closed": io.StringIO(), "full": Full()}[stderr]
    if stderr == "closed":
        file.close()
    monkeypatch.setattr(sys, "stderr", file)
    with progress.stage("compiling"):
        assert list(progress.tracked([1, 2], "sampling")) == [1, 2]
    assert capsys.readouterr().out == ""


def test_on_a_terminal_there_are_spinners_and_bars_and_no_lines(terminal, capsys):
    with progress.stage("cell 3 of 15"):
        assert list(progress.tracked(range(3), "sampling")) == [0, 1, 2]
    shown = terminal.file.getvalue()
    assert "cell 3 of 15" in shown and "sampling" in shown and "100%" in shown
    assert " ...\n" not in shown
    assert told(capsys) == []


@pytest.mark.parametrize("options", [{"wait": True}, {"spinner": False}, {}])
def test_a_console_of_its_own_decides_whether_there_is_a_terminal(capsys, options):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    with progress.stage("compiling", console, **options):
        pass
    assert ("compiling" in file.getvalue()) is options.get("spinner", True)
    assert told(capsys) == []
