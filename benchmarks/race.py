"""A race: in every round each contender runs for a second or a few, in random order.

Before that each method is called once, which compiles it, and results that should agree are
compared. Contenders that fail or disagree are left out, with a note.
"""

import contextlib
import dataclasses
import random
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import Died, Process, process
from benchmarks.report.summary import NAMES

TOLERANCE = {"bfloat16": 0.1}
"""Allowed relative difference from the first contender; 1e-3 if not listed."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A process in the race: ``python -m module *args``, and the methods that are timed."""

    name: str
    ops: tuple[str, ...]
    args: tuple[Any, ...] = ()
    module: str = "benchmarks.contenders"


@dataclasses.dataclass
class Cell:
    """Measurements of one method of one contender, as written into the JSON."""

    contender: str
    op: str
    start: float
    first: float
    difference: float | None
    repeats: int = 1
    seconds: list[float] = dataclasses.field(default_factory=list)


def race(
    entries: Sequence[Entry],
    *,
    rounds: int,
    turn: float,
    folder: Path,
    show: Callable[[str], None],
    same: Collection[str] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs the race.

    Args:
      entries: the contenders; the others are compared with the first.
      rounds: how often each is timed.
      turn: seconds that a contender runs per round (at least one call).
      folder: for temporary files.
      show: receives progress messages.
      same: the methods whose results must agree.
    Returns:
      The cells as dicts, with seconds per call for every round, and a note for each failure.
    """
    cells: list[tuple[Process, Cell]] = []
    notes: list[str] = []
    reference: list[np.ndarray] = []

    def drop(name: str, why: Exception) -> None:
        cells[:] = [pair for pair in cells if pair[1].contender != name]
        notes.append(f"{NAMES.get(name, name)} was left out: {why}")

    def warm_up(runner: Process, entry: Entry, op: str) -> Cell:
        show(f"{entry.name} compiles {op}")
        path = folder / "output.npy" if op in same else None
        first, difference = runner.ask(op, save=path)["seconds"], None
        if path:
            output = np.load(path)
            reference.append(output)
            difference = _difference(output, reference[0])
            if not difference <= TOLERANCE.get(entry.name, 1e-3):
                raise Died(f"its result of {op} differs by {difference:.1e} from the reference")
        return Cell(entry.name, op, runner.start_seconds or 0.0, first, difference)

    with contextlib.ExitStack() as stack:
        for entry in entries:
            show(f"{entry.name} starts")
            runner = stack.enter_context(process(entry.module, *entry.args))
            try:
                warm = [warm_up(runner, entry, op) for op in entry.ops]
                for cell in warm:  # once more, after all have compiled
                    cell.repeats = max(1, round(turn / runner.ask(cell.op)["seconds"]))
                cells += [(runner, cell) for cell in warm]
            except Died as death:
                drop(entry.name, death)
                runner.close()
        for i in range(rounds):
            for runner, cell in random.sample(cells, len(cells)):
                if not any(cell is other for _, other in cells):
                    continue  # it died earlier in this round
                show(f"round {i + 1} of {rounds}: {cell.contender}, {cell.op}")
                try:
                    cell.seconds.append(runner.ask(cell.op, cell.repeats)["seconds"])
                except Died as death:
                    drop(cell.contender, death)
    return [dataclasses.asdict(cell) for _, cell in cells], notes


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(np.float64(a) - b) / np.linalg.norm(np.float64(b)))
