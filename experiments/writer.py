"""What a run leaves to look at: metrics.jsonl, TensorBoard events, and pictures."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class Writer:
    """Numbers of a run, appended to metrics.jsonl and to TensorBoard events.

    A resumed run first drops what was written after its checkpoint.
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
        """Appends numbers of a step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a uint8 [h, w, 3] picture to the events."""
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Finishes both files."""
        self._lines.close()
        self._events.close()


def _step(line: str) -> float:
    """The step of a line; infinite for one that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def to_uint8(images: Any) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded and clipped."""
    return np.round(np.clip((np.asarray(images) + 1) * 127.5, 0, 255)).astype(np.uint8)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """uint8 [n, h, w, 3] as one picture, row by row, with white gaps.

    Args:
      images: uint8 [n, h, w, 3].
      columns: images in a row; about the square root of n when not given.
      gap: white pixels between images.
    Returns:
      uint8 [rows * (h + gap) - gap, columns * (w + gap) - gap, 3].
    Example:
      >>> grid(np.zeros((6, 8, 8, 3), np.uint8)).shape
      (18, 28, 3)
    """
    n, h, w, c = images.shape
    columns = columns or int(np.ceil(n**0.5))
    rows = -(-n // columns)
    cells = np.full((rows * columns, h + gap, w + gap, c), 255, np.uint8)
    cells[:n, :h, :w] = images
    picture = cells.reshape(rows, columns, h + gap, w + gap, c).swapaxes(1, 2)
    picture = picture.reshape(rows * (h + gap), columns * (w + gap), c)
    return picture[: rows * (h + gap) - gap, : columns * (w + gap) - gap]


def save_png(path: Path, pixels: np.ndarray, zoom: int = 1) -> None:
    """Writes uint8 [h, w, 3], each pixel zoom x zoom large; complete or not at all."""
    from PIL import Image

    if zoom > 1:
        pixels = pixels.repeat(zoom, 0).repeat(zoom, 1)
    replace(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def save_npz(path: Path, images: np.ndarray) -> None:
    """Writes uint8 [n, h, w, 3] under the name "images"; complete or not at all."""
    replace(path, lambda file: np.savez_compressed(file, images=images))


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays as they are, by name; complete or not at all."""
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def to_json(record: Any) -> str:
    """A record as JSON, with a line for each name and lists of numbers on one."""
    text = json.dumps(record, indent=2, allow_nan=False)
    return re.sub(r"\[([^][{}\"]*)\]", lambda list_: f"[{' '.join(list_[1].split())}]", text) + "\n"


def save_json(path: Path, record: Any) -> None:
    """Writes a record as JSON; complete or not at all."""
    replace(path, lambda file: file.write(to_json(record).encode()))


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file, complete or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
    part.replace(path)
