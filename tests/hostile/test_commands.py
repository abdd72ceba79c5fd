"""Commands on hostile files: one line, exit code 2, nothing written, and little more than idle."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from tests import tiny
from tests.data.test_stanford_cars import as_published
from tests.hostile.bounds import MOST_MEBIBYTES, MOST_SECONDS
from tests.hostile.test_archives import CIFARS, MATS, PARQUETS
from tests.hostile.test_pictures import COSTLY, STRANGE, TOO_LARGE, tiled
from tests.hostile.test_records import CONFIGS, FIELDS, config


def pictures(place):
    for number, make in enumerate([*TOO_LARGE.values(), *(make for make, _ in COSTLY.values())]):
        (place / f"[/bold]{number}.png".replace("/", "\u2215")).write_bytes(make())
    for name, content in STRANGE.items():
        (place / name).write_bytes(content)
    (place / "tile.tiff").write_bytes(tiled(1024))  # libtiff would write a line of its own


def archive(place):
    files = as_published()
    whole = gzip.decompress(files["cars_train.tgz"])
    files["cars_train.tgz"] = gzip.compress(whole[: whole.index(b"00003.jpg") - 11])
    for name, content in files.items():
        (place / name).write_bytes(content)


def table(place):
    archive(place)
    (place / "cars_test_annos_withlabels.mat").write_bytes(MATS["a table of 2^31 records"]())


def shard(place):
    for split in ("train", "test"):
        (place / f"{split}.parquet").write_bytes(PARQUETS["a picture 100,000 times"]())


def records(place):
    for name, content in CIFARS["a label of 255"]().items():
        (place / name).write_bytes(content)


def cut(place):
    (place / "config.json").write_text(CONFIGS["cut"])


def deep(place):
    (place / "config.json").write_text(CONFIGS["lists in lists"])


def schedule(place):
    name, value = FIELDS["a schedule of another part of the package"]
    (place / "config.json").write_text(config(**{name: value}))


def steps(place):
    name, value = FIELDS["10^12 steps"]
    (place / "config.json").write_text(config(**{name: value}))


SOURCE = ["--data.source", "folder", "--data.path"]
CALLS = {
    "train on pictures": (pictures, ["train", "--config", "tiny", "--workdir", "new", *SOURCE]),
    "prepare an archive": (archive, ["prepare", "--path"]),
    "prepare a table": (table, ["prepare", "--path"]),
    "prepare a shard": (shard, ["prepare", "--path"]),
    "prepare records": (records, ["prepare", "--source", "cifar10", "--path"]),
    "resume a cut record": (cut, ["train", "--config", "tiny", "--workdir"]),
    "resume a deep record": (deep, ["train", "--workdir"]),
    "sample another schedule": (schedule, ["sample", "--out", "new.png", "--workdir"]),
    "sample 10^12 steps": (steps, ["sample", "--out", "new.png", "--workdir"]),
    "evaluate a cut record": (cut, ["evaluate", "--workdir"]),
    "export a deep record": (deep, ["export", "--out", "new.bin", "--workdir"]),
}


MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds, mebibytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
print(json.dumps([done.returncode, done.stdout, done.stderr, seconds, mebibytes]))
"""
"""Measures a command from a small process: a copy of a large one never counts as smaller."""


def finished(*words, cwd, home):
    """[exit code, stdout, stderr, seconds of a processor, mebibytes] of a command."""
    where = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "TFDS_DATA_DIR": home / "tfds"}
    where |= {"PYTHONPATH": tiny.REPOSITORY, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"experiments.{words[0]}", *map(str, words[1:])]
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        cwd=cwd,
        env=os.environ | {name: str(value) for name, value in where.items()},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout)


@pytest.mark.parametrize("kind", CALLS)
def test_a_command_ends_in_one_line(kind, place, tmp_path_factory, monkeypatch):
    make, (name, *flags) = CALLS[kind]
    make(place)
    before = sorted(place.iterdir())
    home = tmp_path_factory.mktemp("home")
    for variable in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.setenv(variable, str(home / variable))
    monkeypatch.chdir(place)
    told = tiny.command(name, *flags, place)
    assert told.code == 2, told
    (line,) = tiny.complaints(told.err)
    assert line.startswith("error: ") and len(line) < 3000, line
    assert sorted(path for path in place.iterdir()) == before
    assert not [path for path in home.rglob("*.array_record*") if path.is_file()]


@pytest.mark.slow  # starts whole commands
@pytest.mark.parametrize("kind", ["train on pictures", "prepare an archive", "prepare a shard"])
def test_it_takes_little_more_than_the_idle_command(kind, place, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    make, (name, *flags) = CALLS[kind]
    make(place)
    idle = finished(name, "--help", cwd=place, home=home)
    assert idle[0] == 0, idle
    code, out, err, seconds, mebibytes = finished(name, *flags, place, cwd=place, home=home)
    assert (code, out) == (2, ""), err
    assert len(tiny.complaints(err)) == 1
    assert mebibytes < idle[4] + MOST_MEBIBYTES
    assert seconds < idle[3] + 2 * MOST_SECONDS  # it also imports what it needs
