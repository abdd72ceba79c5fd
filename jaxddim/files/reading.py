"""Regular files of a bounded size, and JSON in them.

A size is compared with its bound before anything is allocated. Pipes and devices, where reading
could wait or go on for ever, are refused.
"""

import contextlib
import io
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

MOST_JSON = 1 << 22
"""Bytes of a record; those of runs have below 100,000."""
MOST_ITEMS = 1 << 21
"""Items of a record, names of files among them."""
LONGEST = 200
"""Characters of a value that a message repeats."""


class BoundedFile(io.BufferedReader):
    """A file that is never read in large pieces, whatever size a table in it claims."""

    PIECE = 1 << 22

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > self.PIECE:
            raise ValueError(f"a part of {size:,} bytes, expected {self.PIECE:,} at most")
        return super().read(size)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BoundedFile]:
    """A regular file, open for reading.

    Raises:
      OSError: when it cannot be opened.
      ValueError: when it is a pipe or a device.
    """

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with BoundedFile(io.FileIO(os.fspath(path), opener=at_once)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is a pipe or a device, expected a file")
        yield file


def content(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a file.

    Args:
      path: the file.
      most: how many bytes there may be.
    Raises:
      OSError: when it cannot be read.
      ValueError: when it is larger, or a pipe or a device.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"{size:,} bytes, expected {most:,} at most")
        return io.BufferedReader.read(file)


def record(path: str | os.PathLike[str], most: int = MOST_JSON) -> Any:
    """What a JSON file holds.

    Args:
      path: the file, in UTF-8.
      most: how many bytes there may be.
    Raises:
      OSError: when it cannot be read.
      ValueError: when it is larger, or no JSON, or an object in it has two entries of one name.
    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = os.path.join(folder, "config.json")
      ...     with open(path, "w") as file:
      ...         _ = file.write('{"seed": 0}')
      ...     record(path)
      {'seed': 0}
    """
    text = content(path, most).decode()
    if sum(map(text.count, ",[{")) > MOST_ITEMS:
        raise ValueError(f"more than {MOST_ITEMS:,} items")
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("lists within lists without an end") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two entries of the name {shown(twice)}")
    return found


def shown(value: Any) -> str:
    """A value from a file as a message repeats it: on one line, and not too long.

    Example:
      >>> shown("a\\nb"), len(shown([1] * 1000))
      ("'a\\\\nb'", 200)
    """
    try:
        return short(repr(value))
    except ValueError:  # a number of more digits than Python prints
        return "a number of thousands of digits"


def short(text: str) -> str:
    """The text, or its beginning if it is long."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
