"""Calls in processes of their own, with a bound on memory and time: how they ended, what they took.

A server imports what the calls need and forks for each of them, so a call takes milliseconds.
"""

import contextlib
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).parent.parent.parent
MOST_MEBIBYTES = 300
MOST_SECONDS = 2.0
PATIENCE = 60  # seconds after which a call is ended


class Outcome(NamedTuple):
    """How a call ended.

    Attributes:
      how: "done", "refused" (a mistake of the user's), or "failed" (anything else).
      text: what it returned, the message, or the traceback.
      seconds: of a processor that it took; those of waiting depend on what else runs.
      mebibytes: its largest memory, without what it began with.
    """

    how: str
    text: str
    seconds: float
    mebibytes: float


class Server:
    """Runs functions of `tests.hostile.calls`."""

    def __init__(self, process: subprocess.Popen, home: Path):
        self._process, self.home = process, home

    def run(self, function: str, *arguments: Any) -> Outcome:
        """Calls a function with strings and numbers."""
        self._process.stdin.write(json.dumps([function, *map(_plain, arguments)]) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))


def _plain(argument: Any) -> Any:
    return str(argument) if isinstance(argument, Path) else argument


@contextlib.contextmanager
def server(home: Path) -> Iterator[Server]:
    """A server whose home folder this is; programs of its `bin` come first."""
    (home / "bin").mkdir(parents=True)
    where = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    where |= {"TFDS_DATA_DIR": str(home / "tfds"), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.bounds"],
        cwd=REPOSITORY,
        env=os.environ | where,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process, home)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def assert_refused(outcome: Outcome, words: str = "") -> None:
    """Fails unless a call was refused at once, in one line, and cheaply."""
    assert outcome.how == "refused", outcome
    assert re.search(words, outcome.text), outcome
    assert "\n" not in outcome.text and len(outcome.text) < 1000, outcome
    assert_cheap(outcome)


def assert_cheap(outcome: Outcome) -> None:
    assert outcome.how != "failed", outcome
    assert outcome.mebibytes < MOST_MEBIBYTES, outcome
    assert outcome.seconds < MOST_SECONDS, outcome


def _serve() -> None:
    calls = importlib.import_module("tests.hostile.calls")
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        reading, writing = os.pipe()
        if not (child := os.fork()):
            os.close(reading)
            _call(getattr(calls, name), arguments, writing)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        print(text or json.dumps(["failed", f"ended with status {status}", 0, 0]), flush=True)


def _call(function: Any, arguments: list[Any], writing: int) -> None:
    """Runs the function in this process, which ends with it."""
    import traceback

    from experiments.terminal.errors import UserError
    from jaxddim.runs.errors import RunError

    most = int((_mebibytes("VmSize") + getattr(function, "room", 2 * MOST_MEBIBYTES)) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.alarm(PATIENCE)
    before, began = _mebibytes("VmRSS"), time.process_time()
    try:
        how, text = "done", str(function(*arguments))
    except (UserError, RunError) as error:
        how, text = "refused", str(error)
    except BaseException:
        how, text = "failed", traceback.format_exc()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = how, text, time.process_time() - began, peak - before
    os.write(writing, json.dumps(found).encode())
    os._exit(0)


def _mebibytes(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1024


if __name__ == "__main__":
    _serve()
