"""Atomic writes of files, and the cache folder."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/jaxddim, by default ~/.cache/jaxddim."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxddim"


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays atomically, by name and uncompressed."""
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def to_json(record: Any) -> str:
    """A record as JSON, with one line for each name and each list of numbers on one line."""
    text = json.dumps(record, indent=2, allow_nan=False)
    return re.sub(r"\[([^][{}\"]*)\]", lambda list_: f"[{' '.join(list_[1].split())}]", text) + "\n"


def save_json(path: Path, record: Any) -> None:
    """Writes a record as JSON, atomically."""
    replace(path, lambda file: file.write(to_json(record).encode()))


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file atomically, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
    part.replace(path)


def save_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    replace(path, lambda file: file.write(text.encode()))
