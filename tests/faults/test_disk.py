"""A full disk, a read-only folder, images that go, a clock that jumps: a line, nothing lost."""

import os
import shutil
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from experiments.trainer import log
from tests import tiny
from tests.faults.conftest import flags, one_line
from tests.faults.same import assert_same

root = tiny.root
AVERAGES = "--optim.averages"
ROOT = os.geteuid() == 0


# -- full -----------------------------------------------------------------------------


def test_a_file_size_limit_ends_a_run_with_a_line_and_it_goes_on_without(start, whole, tmp_path):
    command = flags(start.root, tmp_path / "run", "--train.steps", 45, AVERAGES)
    for size in (500, 3_000, 20_000):
        one_line(start("train", *command, size=size), "cannot be", "(File too large)")
        assert not list(tmp_path.rglob("*.part"))
    assert start("train", *command).code == 0
    assert_same(tmp_path / "run", whole)


@pytest.mark.skipif(not ROOT, reason="only root may mount a file system")
def test_a_full_disk_ends_a_run_with_a_line_and_it_goes_on_when_there_is_room(
    start, whole, tmp_path
):
    disk, workdir = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1400k", "none", str(disk)])
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        command = flags(start.root, workdir, "--train.steps", 45, AVERAGES)
        for kilobytes in (1300, 800, 400, 200):
            filled = disk / "filled"
            filled.write_bytes(bytes(1024 * kilobytes))
            before = tiny.saved(workdir)
            one_line(start("train", *command), "No space left on device")
            assert tiny.saved(workdir)[-1:] >= before[-1:]  # later ones replace it
            filled.unlink()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert start("train", *command).code == 0
        assert_same(workdir, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sample", ["--num", 1, "--steps", 2, "--out", "out.png"]),
        ("sample", ["--num", 2, "--steps", 2, "--out", "out.npz"]),
        ("sample", ["--num", 2, "--steps", 2, "--out", "out"]),
        ("evaluate", ["--metrics", "validation_loss", "--out", "out.json"]),
        ("export", ["--batch", 1, "--steps", 2, "--out", "out.jaxddim"]),
    ],
)
def test_other_commands_end_with_a_line_and_leave_no_file(start, whole, tmp_path, name, more):
    more = [tmp_path / one if str(one).startswith("out") else one for one in more]
    trap = ("jaxddim.files.writing:os.fsync", 1, "full")
    ended = start(name, "--workdir", whole, *more, trap=trap)
    one_line(ended, "cannot be written (No space left on device)")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


FULL = [
    ("jaxddim.files.writing:os.fsync", 1),
    ("experiments.trainer.log:_Events._add", 1),
    ("experiments.trainer.log:Log._append", 1),
    ("experiments.trainer.log:os.fsync", 4),
    ("jaxddim.runs.disk.saver:Handler.finalize", 1),
    ("jaxddim.runs.disk.saver:Handler.finalize", 2),
    ("jaxddim.runs.disk.saver:sums.write", 2),
    ("jaxddim.runs.disk.store:flush", 2),
    ("jaxddim.runs.disk.saver:ocp.AsyncCheckpointer.save", 2),
    ("experiments.terminal.pictures:replace", 1),
    ("experiments.trainer.log:_Events.picture", 1),
]


@pytest.mark.slow  # starts the command a dozen times
def test_wherever_the_disk_is_full_it_is_a_line_and_nothing_is_lost(start, whole, tmp_path):
    workdir = tmp_path / "run"
    command = flags(start.root, workdir, "--train.steps", 45, AVERAGES)
    for target, count in FULL:
        before = tiny.saved(workdir)
        ended = start("train", *command, trap=(target, count, "full"))
        one_line(ended, "No space left on device")
        assert set(before[-1:]) <= set(tiny.saved(workdir))
        assert not list(tmp_path.rglob("*.part"))
    assert start("train", *command).code == 0
    assert_same(workdir, whole)


# -- read-only --------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_to_is_a_line(start, whole, copied):
    for path in [copied, *copied.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    command = flags(start.root, copied, "--train.steps", 46, AVERAGES)
    ended = start("train", *command, bound=True)
    one_line(ended, f"--workdir {copied} cannot be written to (Permission denied)")
    out = start.root / "sampled.png"
    ended = start("sample", "--workdir", copied, "--num", 1, "--steps", 2, "--out", out, bound=True)
    assert ended.code == 0, ended.told
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before
    for path in [copied, *copied.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


# -- images, clock ----------------------------------------------------------------------


def pictures(folder):
    folder.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def test_images_that_go_away_in_an_epoch_change_nothing(
    root, tmp_path, monkeypatch, quick_compiler
):
    folder, caches = tmp_path / "photos", tmp_path / "caches"
    source = ["--data.source", "folder", "--data.path", folder, "--data.cache-dir", caches]
    real = log.Log._append

    def damaging(self, line):
        real(self, line)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(caches, ignore_errors=True)

    for name in ("whole", "damaged"):
        pictures(folder)
        with monkeypatch.context() as patch:
            if name == "damaged":
                patch.setattr(log.Log, "_append", damaging)
            finished = tiny.command(
                "train", *flags(root, tmp_path / name, *source, "--train.steps", 12)
            )
        assert (finished.code, tiny.complaints(finished.err)) == (0, []), finished
        assert folder.exists() is (name == "whole")
        shutil.rmtree(folder, ignore_errors=True)
    pictures(folder)
    assert_same_states(tmp_path / "damaged", tmp_path / "whole")


def assert_same_states(one, other):
    assert tiny.saved(one) == tiny.saved(other)
    for step in tiny.saved(one):
        tiny.assert_same_bits(tiny.state(one, str(step)), tiny.state(other, str(step)))


def test_a_clock_that_jumps_changes_nothing(root, tmp_path, monkeypatch, quick_compiler):
    assert tiny.command("train", *flags(root, tmp_path / "whole", "--train.steps", 12)).code == 0
    real, calls, year = time.time, [], 365 * 24 * 3600.0

    def jumping():
        calls.append(1)
        return real() + year * (len(calls) % 3 - 1)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", jumping)
        for steps in (5, 9, 12):
            finished = tiny.command("train", *flags(root, tmp_path / "run", "--train.steps", steps))
            assert (finished.code, tiny.complaints(finished.err)) == (0, []), finished
    assert len(calls) > 50
    assert_same_states(tmp_path / "run", tmp_path / "whole")
    found = sorted((tmp_path / "run").glob("events.*"), key=lambda path: path.stat().st_ctime_ns)
    assert found == sorted(found), "TensorBoard reads them in the order of their names"
    assert len(found) == 3
