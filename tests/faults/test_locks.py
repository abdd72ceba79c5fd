"""One process trains in a folder at a time, and whoever else wants to is told who does."""

import errno
import fcntl
import os
import shutil
import socket

import pytest

from experiments.terminal import progress
from experiments.trainer import lock
from tests import tiny
from tests.faults.conftest import flags, one_line

root = tiny.root
CONSOLE = progress.console(stderr=True)
MINE = f"process {os.getpid()} on {socket.gethostname()}"


def test_a_second_trainer_is_refused_and_told_the_first(start, copied):
    command = flags(start.root, copied, "--train.steps", 46, "--optim.averages")
    with lock.held(copied, CONSOLE):
        before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
        one_line(start("train", *command), f"{copied} is being trained by {MINE}: wait for it")
        assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before
        out = start.root / "out.png"
        ended = start("sample", "--workdir", copied, "--num", 1, "--steps", 2, "--out", out)
        assert ended.code == 0, ended.told
    ended = start("train", *command)
    assert ended.code == 0, ended.told


def test_who_begins_a_run_first_has_the_folder(start, tmp_path):
    workdir = tmp_path / "run"
    with lock.held(workdir, CONSOLE):
        one_line(start("train", *flags(start.root, workdir)), f"is being trained by {MINE}")
        one_line(start("swiss_roll", "--workdir", workdir), f"is being trained by {MINE}")
        assert [path.name for path in workdir.iterdir()] == [lock.NAME]


def test_a_run_that_another_has_begun_meanwhile_is_not_begun_again(start, whole, tmp_path):
    """Both found the folder empty; the first has ended when the second has its lock."""
    workdir = tmp_path / "run"
    command = flags(start.root, workdir, "--train.steps", 3)
    assert start("train", *command).code == 0
    record = (workdir / "config.json").read_bytes()
    (workdir / "config.json").rename(tmp_path / "config.json")

    # it comes back just before the lock is taken
    shutil.copy(tmp_path / "config.json", workdir / "config.json.later")
    trap = ("experiments.data:load", 1, "before")
    hook = f"import shutil; shutil.move('{workdir}/config.json.later', '{workdir}/config.json')"
    one_line(start("train", *command, trap=trap, run=hook), "another process has just begun a run")
    assert (workdir / "config.json").read_bytes() == record


def test_a_lock_dies_with_its_process(start, whole, tmp_path):
    workdir = tmp_path / "run"
    command = flags(start.root, workdir, "--train.steps", 3)
    trap = ("experiments.trainer.monitor:Window.begin", 1, "before")
    assert start("train", *command, trap=trap).code == -9
    assert '"pid"' in (workdir / lock.NAME).read_text()
    assert start("train", *command).code == 0
    assert (workdir / lock.NAME).read_text() == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_where_nothing_can_be_locked_it_is_said_and_training_goes_on(
    tmp_path, monkeypatch, number, capsys
):
    def cannot(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", cannot)
    with lock.held(tmp_path / "run", progress.console(stderr=True)):
        told = capsys.readouterr().err
    assert f"cannot be locked ({os.strerror(number)})" in told and told.count("\n") == 1


def test_what_a_killed_process_left_is_removed_under_the_lock(tmp_path):
    (tmp_path / "samples").mkdir()
    left = [tmp_path / "config.part", tmp_path / "samples" / "0000003.png.part"]
    for path in left:
        path.write_bytes(b"half")
    with lock.held(tmp_path, CONSOLE):
        assert not any(path.exists() for path in left)
