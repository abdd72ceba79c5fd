"""Atomic writes of files, flushed to the disk.

Without the flush a loss of power may undo a rename, or keep a deletion.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""Of file systems that cannot flush a folder."""


def flush(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk.

    Raises:
      OSError: when they cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
    finally:
        os.close(descriptor)


def flush_all(folder: Path) -> None:
    """Flushes a folder with all that is in it."""
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file atomically, and creates its folder; nothing is left of a write that fails.

    What is written is on the disk before the file gets its name.

    Raises:
      OSError: when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush(path.parent)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            part.unlink()
        raise
