"""Emptying the caches: everything that commands keep in order to be faster, and can make again.

Only files that a cache writes are deleted, so that the cache folder may hold others too.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.data import cache, contents
from experiments.data.sources import prepared
from experiments.terminal.errors import UserError
from experiments.terminal.files import cache_dir
from experiments.terminal.startup import COMPILED
from experiments.terminal.texts import brief, listed

IMAGES = re.compile(r"(cars196|cifar10|folder|rendered)-(\d+x)?\d+-[0-9a-f]{16}")
RENDERED = "rendered_cars"  # the TFDS dataset of `sources.rendered`


def empty(cache_folder: str | None, data_dir: str | None) -> Iterator[str]:
    """Deletes what is cached; yields a line on each kind, with its size.

    Entries that another process is filling stay.

    Args:
      cache_folder: the cache folder, None for the default one.
      data_dir: TFDS data folder, None for the default one; of it, only rendered cars go.
    Raises:
      UserError: when something cannot be deleted, or a folder is not known.
    """
    root, data_folder = cache_dir(cache_folder), prepared.place(data_dir, cache_folder)
    compiled = [] if cache_folder else [root / COMPILED]  # it is in the default folder only
    kinds = {
        "resized images": [path for path in _inside(root) if IMAGES.fullmatch(path.name)],
        "lists of files": [root / contents.FOLDER],
        "features": sorted((root / "features").glob("*.npz*")),
        "compiled functions": compiled,
        "rendered cars": [data_folder / RENDERED],
    }
    cache.sweep(root)
    freed = 0
    for name, paths in kinds.items():
        there = [path for path in paths if path.exists()]
        size = sum(map(_bytes, there))
        freed += size
        for path in there:
            _delete(path)
        if there:
            yield f"{name}: {_readable(size)} ({listed([str(path) for path in there], 3)})"
    yield f"deleted {_readable(freed)} of caches ({root})"


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; a link has none."""
    if path.is_symlink():
        return 0
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.lstat().st_size for file in files)


def _delete(path: Path) -> None:
    try:
        path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    except OSError as error:
        raise UserError(f"{path} cannot be deleted ({brief(error)})") from None


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
