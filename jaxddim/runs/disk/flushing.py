"""Flushing to the disk, without which a loss of power may undo a rename or keep a deletion."""

import errno
import os
from pathlib import Path

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
