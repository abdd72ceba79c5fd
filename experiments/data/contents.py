"""One hash over the contents of many files, computed once.

Names, sizes and times do not tell two folders apart: copies keep them, and a file may be changed
and its time set back. So files are read. What was read is remembered by each file's size, times
(the time of the last change of its entry cannot be set) and number on its disk, and files that
have none of these changed are not read again.
"""

import contextlib
import hashlib
import math
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.terminal.files import content, is_trusted, save_text
from experiments.terminal.progress import tracked

FOLDER = "contents"  # in the cache folder: a file for each list of files that was read
UNREADABLE = bytes(32)
SETTLED_NS = 2 * 10**9
"""A file changed within this time before it was read may change again and keep its times."""


def digest(
    root: Path,
    names: Sequence[str],
    stamps: Sequence[tuple[int, int, int, int]],
    cache: Path,
    largest: float = math.inf,
) -> str:
    """sha256 over the contents of files.

    Args:
      root: the folder of the files.
      names: the files, relative to it.
      stamps: `folder.stamp` of each file.
      cache: the cache folder, in which the result is remembered.
      largest: bytes of the largest file that is read; a larger one counts by its size.
    Returns:
      The hash, in hexadecimal digits; a file that cannot be read counts as empty.
    """
    kept = cache / FOLDER / hashlib.sha256(repr((names, stamps)).encode()).hexdigest()[:32]
    with contextlib.suppress(OSError, ValueError):
        text = content(kept, 64).decode()
        if re.fullmatch("[0-9a-f]{64}", text) and is_trusted(kept, cache):
            return text
    large = {name: size for name, (size, *_) in zip(names, stamps, strict=True) if size > largest}
    read = _read_all([root / name for name in names if name not in large])
    sizes = repr(sorted(large.items())).encode() if large else b""
    found = hashlib.sha256(b"".join(read) + sizes).hexdigest()
    newest = max((max(mtime, ctime) for _, mtime, ctime, _ in stamps), default=0)
    if newest < time.time_ns() - SETTLED_NS:
        with contextlib.suppress(OSError):  # then it is read again next time
            save_text(kept, found)
    return found


def _read_all(files: Sequence[Path]) -> list[bytes]:
    """The sha256 of each file."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_read, files)
        return [next(found) for _ in tracked(files, "comparing files", "file", wait=True)]


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return UNREADABLE
