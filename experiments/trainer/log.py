"""The log of a run: metrics.jsonl, and TensorBoard events with its pictures.

A line is with the system before anything of a later step is written, and on the disk before the
checkpoint of its step is complete. So a run that resumes at a checkpoint has all lines up to it;
later ones it drops, and writes again.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.terminal.files import replace
from experiments.terminal.texts import count
from jaxddim.runs.flat import finite


class Kept(NamedTuple):
    """What a resumed run keeps of its lines.

    Attributes:
      lines: those up to its checkpoint.
      names: what was written of the checkpoint's own step.
      damaged: how many were no lines of a log; one that was cut short at the end is not counted.
      whole: whether these are the whole file.
    """

    lines: list[bytes]
    names: set[str]
    damaged: int
    whole: bool


class Log:
    """Appends the numbers of a run to metrics.jsonl and to TensorBoard events.

    A resumed run first drops entries written after its checkpoint.

    Args:
      workdir: folder of the run.
      resumed_at: step of the checkpoint; 0 for a new run.
      expected: lines that there were up to it.
    Attributes:
      count: lines so far.
      names: what was written of the step that it resumed at.
      notes: what was wrong with the lines, to be told.
    """

    def __init__(self, workdir: str | Path, resumed_at: int = 0, expected: int = 0):
        path = Path(workdir) / "metrics.jsonl"
        self.notes: list[str] = []
        kept = self._resume(path, resumed_at)
        self.names, self.count = kept.names, len(kept.lines)
        if self.count < expected:
            self.notes.append(
                f"{path} has {self.count} of the {count(expected, 'line')} that there were up to "
                f"step {resumed_at}: the others were deleted"
            )
        self._lines = path.open("ab")
        try:
            self._events = _Events(Path(workdir), resumed_at + 1)
        except BaseException:
            self._lines.close()
            raise

    def _resume(self, path: Path, resumed_at: int) -> Kept:
        content = path.read_bytes() if path.exists() else b""
        kept = _kept(content, resumed_at)
        if kept.damaged:
            copy = path.with_name(f"{path.name}.damaged")
            replace(copy, lambda file: file.write(content))
            self.notes.append(
                f"{path}: {count(kept.damaged, 'line')} cannot be read and left out; {copy} keeps "
                "them"
            )
        if not kept.whole:
            replace(path, lambda file: file.write(b"".join(kept.lines)))
        return kept

    def write(self, step: int, **values: float) -> None:
        """Appends the numbers of a step; in metrics.jsonl one that is not finite is null."""
        line = json.dumps(finite({"step": step, **values}), allow_nan=False) + "\n"
        self._append(line.encode())
        self.count += 1
        self._events.write(step, values)

    def _append(self, line: bytes) -> None:
        self._lines.write(line)
        self._lines.flush()

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a uint8 [h, w, c] picture to the events."""
        self._events.picture(step, name, pixels)

    def sync(self) -> None:
        """Waits until all lines are on the disk, as events are already."""
        os.fsync(self._lines.fileno())

    def close(self) -> None:
        """Closes both files."""
        try:
            self._lines.close()
        finally:
            self._events.close()


class Silent(Log):
    """Writes nothing: the log of a process that is not the first of several, which writes it."""

    def __init__(self, workdir: str | Path, resumed_at: int = 0):
        path = Path(workdir) / "metrics.jsonl"
        kept = _kept(path.read_bytes() if path.exists() else b"", resumed_at)
        self.names, self.count, self.notes = kept.names, len(kept.lines), []

    def write(self, step: int, **values: float) -> None:
        """Counts a line."""
        self.count += 1

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Drops the picture."""

    def sync(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class _Events:
    """A file of TensorBoard events, flushed as they come: a full disk is an error here and now.

    Events from `first` on that earlier files hold no longer count. TensorBoard reads files in the
    order of their names, so this one sorts behind them even where the clock was set back.
    """

    def __init__(self, folder: Path, first: int):
        with _without("torch"):  # tensorboardX imports it where it is installed, in seconds
            from tensorboardX.proto.event_pb2 import (
                SessionLog,  # pyrefly: ignore[missing-module-attribute]
            )
            from tensorboardX.record_writer import RecordWriter

        earlier = (path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*"))
        latest = max((int(stamp) for stamp in earlier if stamp.isdecimal()), default=0)
        stamp = max(int(time.time()), latest + 1)
        name = f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}"
        self._file = RecordWriter(str(folder / name))
        self._add(step=first, file_version="brain.Event:2")
        self._add(step=first, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def _add(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyrefly: ignore[missing-module-attribute]

        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))
        self._file.flush()

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        from tensorboardX.summary import image

        self._add(step=step, summary=image(name, pixels, dataformats="HWC"))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """An import of this package fails meanwhile, unless it has been imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # pyrefly: ignore[unsupported-operation]
    try:
        yield
    finally:
        del sys.modules[package]


def _kept(content: bytes, resumed_at: int) -> Kept:
    """What is kept of metrics.jsonl after a resume at this step."""
    *complete, rest = content.split(b"\n")
    lines, names, damaged = [], set(), 0
    for line in complete:
        found = _read(line)
        if found is None:
            damaged += bool(line.strip())
        elif found["step"] <= resumed_at:
            lines.append(line + b"\n")
            names |= set(found) if found["step"] == resumed_at else set()
    return Kept(lines, names, damaged, len(lines) == len(complete) and not rest)


def _read(line: bytes) -> dict[str, Any] | None:
    """A line's numbers; None if it is none."""
    try:
        found = json.loads(line)
        return found if type(found["step"]) is int else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
