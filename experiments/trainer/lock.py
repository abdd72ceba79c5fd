"""One process trains in a folder at a time.

The lock is advisory and dies with its process, however that ends. On NFS it holds between machines
where the server keeps locks; where it cannot be had, this is said and training goes on.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from experiments.terminal.errors import UserError

NAME = "lock"
CANNOT = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
"""Of file systems without locks."""
PARTS = ("*.part", "samples/*.part")
"""What a process leaves that is killed while it writes a file."""


@contextlib.contextmanager
def held(workdir: str | Path, console: Console) -> Iterator[None]:
    """Holds the lock of a run's folder, which is made if it is not there.

    What a killed process left half-written there is removed.

    Raises:
      UserError: when another process holds it, or the folder cannot be written to.
    """
    folder = Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("a+")
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written to ({error.strerror}): name another"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{workdir} is being trained by {_holder(file.read())}: wait for it, end it, or "
                "name another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            console.print(
                f"note: {folder} cannot be locked ({error.strerror}): take care that no other "
                "process trains in it",
                style="yellow",
            )
        _write(file.fileno(), json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        for path in (path for pattern in PARTS for path in folder.glob(pattern)):
            path.unlink(missing_ok=True)
        try:
            yield
        finally:
            _write(file.fileno(), "")


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(text: str) -> str:
    try:
        found = json.loads(text)
        return f"process {int(found['pid'])} on {found['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
