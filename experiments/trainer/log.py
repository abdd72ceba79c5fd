"""The log of a run: metrics.jsonl, and TensorBoard events with its pictures."""

import json
from pathlib import Path

import numpy as np

from jaxddim.runs.flat import finite


class Log:
    """Appends the numbers of a run to metrics.jsonl and to TensorBoard events.

    A resumed run first drops entries written after its checkpoint.
    """

    def __init__(self, workdir: str | Path, resumed_at: int = 0):
        from tensorboardX import SummaryWriter

        path = Path(workdir) / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= resumed_at]
            path.write_text("".join(line + "\n" for line in lines))
        self._lines = path.open("a")
        self._events = SummaryWriter(str(workdir), purge_step=resumed_at + 1)

    def write(self, step: int, **values: float) -> None:
        """Appends the numbers of a step; in metrics.jsonl one that is not finite is null."""
        self._lines.write(json.dumps(finite({"step": step, **values}), allow_nan=False) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a uint8 [h, w, c] picture to the events."""
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Closes both files."""
        self._lines.close()
        self._events.close()


class Silent(Log):
    """Writes nothing: the log of a process that is not the first of several."""

    def __init__(self):
        pass

    def write(self, step: int, **values: float) -> None:
        """Drops the numbers."""

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Drops the picture."""

    def close(self) -> None:
        """Does nothing."""


def _step(line: str) -> float:
    """The step of a line; infinite if the line was cut short by a kill."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
