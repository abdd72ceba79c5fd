"""Paths that flags name, the cache folder, and atomic writes of files."""

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from experiments.terminal.errors import UserError


def located(path: str | os.PathLike[str]) -> Path:
    """The path that a flag or a variable names, where ~ is the home folder.

    Raises:
      UserError: when the path needs a home folder that is not known.
    """
    if not os.fspath(path).startswith("~"):  # "./~" is a folder of that name
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: the home folder {Path(path).parts[0]} is not known here; set HOME, or write "
            "the whole path (./~ for a folder of that name)"
        ) from None


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/jaxddim, by default ~/.cache/jaxddim.

    Raises:
      UserError: when there is no home folder.
    """
    return located(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxddim"


def cache_dir(chosen: str | None) -> Path:
    """The folder of --data.cache-dir, or the default one.

    Raises:
      UserError: when none is chosen and there is no home folder.
    """
    if chosen:
        return located(chosen)
    try:
        return default_cache_dir()
    except UserError as error:
        raise UserError(f"no folder for the image cache: give --data.cache-dir ({error})") from None


def absolute(path: str | None) -> str | None:
    """A path of a flag as a record keeps it, independent of the folder it was given in."""
    return None if path is None else str(located(path).absolute())


def content(path: Path, most: int) -> bytes:
    """The bytes of a file.

    Raises:
      OSError: when it cannot be read.
      ValueError: when it holds more than `most`, or is a pipe or a device.
    """
    from jaxddim.files import reading  # here, as importing this must not import JAX

    return reading.content(path, most)


def record(path: Path, most: int = 2**26) -> Any:
    """What a JSON file of at most `most` bytes holds.

    Raises:
      OSError: when it cannot be read.
      ValueError: when it is larger or no JSON.
    """
    from jaxddim.files import reading  # here, as importing this must not import JAX

    return reading.record(path, most)


def is_trusted(path: Path, root: Path | None = None) -> bool:
    """Whether nobody else may have written a file or folder of a cache.

    It must belong to this user, to the system's administrator, or to the owner of the cache `root`,
    whom this user has chosen; and others must not be allowed to write to it.

    Raises:
      OSError: when it cannot be looked at.
    """
    if not hasattr(os, "getuid"):  # Windows
        return True
    found = path.stat()
    owners = {os.getuid(), 0} | ({root.stat().st_uid} if root else set())
    return found.st_uid in owners and not found.st_mode & stat.S_IWOTH


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays atomically, by name and uncompressed."""
    replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def to_json(record: Any) -> str:
    """A record as JSON, with one line for each name and each list of numbers on one line.

    A number that is not finite becomes null.
    """
    from jaxddim.runs.flat import finite  # here, as importing this must not import JAX

    text = json.dumps(finite(record), indent=2, allow_nan=False)
    return re.sub(r"\[([^][{}\"]*)\]", lambda list_: f"[{' '.join(list_[1].split())}]", text) + "\n"


def save_json(path: Path, record: Any) -> None:
    """Writes a record as JSON, atomically."""
    replace(path, lambda file: file.write(to_json(record).encode()))


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file atomically, and creates its folder; nothing is left of a write that fails."""
    from jaxddim.files import writing  # here, as importing this must not import JAX

    writing.replace(path, write)


def save_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    replace(path, lambda file: file.write(text.encode()))
