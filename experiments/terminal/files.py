"""Atomic writes of files, and the cache folder."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxddim.runs.config import finite


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/jaxddim, by default ~/.cache/jaxddim."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxddim"


def absolute(path: str | None) -> str | None:
    """A path of a flag as a record keeps it, independent of the folder it was given in."""
    return None if path is None else str(Path(path).expanduser().absolute())


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays atomically, by name and uncompressed."""
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def to_json(record: Any) -> str:
    """A record as JSON, with one line for each name and each list of numbers on one line.

    A number that is not finite becomes null.
    """
    text = json.dumps(finite(record), indent=2, allow_nan=False)
    return re.sub(r"\[([^][{}\"]*)\]", lambda list_: f"[{' '.join(list_[1].split())}]", text) + "\n"


def save_json(path: Path, record: Any) -> None:
    """Writes a record as JSON, atomically."""
    replace(path, lambda file: file.write(to_json(record).encode()))


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file atomically, and creates its folder; nothing is left of a write that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            write(file)
        part.replace(path)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def save_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    replace(path, lambda file: file.write(text.encode()))
