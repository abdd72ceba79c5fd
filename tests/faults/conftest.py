"""A process that starts commands fast, and a run that nothing happened to."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jaxddim.runs import build
from tests import tiny
from tests.faults import small

LOOP = ["--train.checkpoint-every", "3", "--train.sample-every", "7", "--train.log-every", "5"]
LOOP += ["--train.num-samples", "1", "--train.sample-steps", "2"]


class Ended(NamedTuple):
    """The exit status of a command, and what it printed on both streams."""

    code: int
    told: str


class Starter:
    """Starts commands in processes of their own, one at a time."""

    def __init__(self, root: Path):
        self.root = root
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.starter"],
            cwd=tiny.REPOSITORY,
            env=tiny.environment(root) | {"XLA_FLAGS": tiny.QUICK},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, name: str, *flags: Any, **how: Any) -> Ended:
        out = self.root / "told"
        out.write_text("")
        out.chmod(0o666)
        request = {"name": name, "flags": list(map(str, flags)), "out": str(out), **how}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(int(self._process.stdout.readline()), out.read_text())

    def close(self) -> None:
        self._process.communicate()


def flags(root: Path, workdir: Path, *more: Any) -> list[str]:
    """Flags of a run that is small in everything."""
    return [*tiny.flags(root, workdir), *tiny.SMALL, *LOOP, *map(str, more)]


def one_line(ended: Ended, *parts: str) -> None:
    """Whether a command ended with a mistake that is told in one line, and no more."""
    assert ended.code == 2, ended
    assert "Traceback" not in ended.told and "Exception" not in ended.told, ended.told
    (line,) = [line for line in ended.told.splitlines() if line.startswith("error: ")]
    assert line == ended.told.splitlines()[-1]
    for part in parts:
        assert part in line, line


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    """That of the starter, for what is run or restored in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "SimpleUNet", small.Small)
        yield


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("faults"))
    starter.root.chmod(0o755)
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def whole(start: Starter) -> Path:
    """A run of 45 steps that nothing happened to."""
    workdir = start.root / "whole"
    ended = start("train", *flags(start.root, workdir, "--train.steps", 45, "--optim.averages"))
    assert ended.code == 0, ended.told
    return workdir


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(whole, tmp_path / "run")
