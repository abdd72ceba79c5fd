"""Pictures of any kind -> one cached array of uint8 [n, size, size, 3].

Every source is decoded and resized once. The cache is a folder

    CACHE_DIR/<source>-<size>-<key>/   images.npy  labels.npy  about.json

written under another name and renamed when complete, so that a killed run leaves
no partial cache. The pictures are stored in one fixed pseudo-random order, so any
slice of the memory-mapped file, such as the first n or the last n, is a fair sample.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.decoding import Decoded, Pictures, decode
from experiments.terminal.errors import UserError
from experiments.terminal.texts import listed

ORDER_SEED = 2010_02502
FORMAT = 1  # part of every key: increment it when decode() or the file format changes
CHUNK = 256
STALE_SECONDS = 24 * 3600


class Cached(NamedTuple):
    """A decoded source, read from the cache."""

    images: np.ndarray  # uint8 [n, size, size, 3], memory-mapped, read-only
    labels: np.ndarray  # int32 [n]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str
    total: int  # pictures before the limit; 0 where unknown


def key(*parts: object) -> str:
    """A short hash of everything that the pixels of a cache depend on."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def cached(
    folder: Path, pictures: Callable[[], Pictures], size: int, *, limit: int | None = None
) -> Cached:
    """The decoded pictures in `folder`, decoding them first if they are not there.

    Args:
      folder: the cache; its name is specific to everything that the pixels depend on.
      pictures: called only when there is no cache yet.
      size: side of the square images.
      limit: stop after this many images.
    Returns:
      The memory-mapped images with labels, class names, notes and fingerprint.
    Raises:
      UserError: when no picture could be decoded, or the cache cannot be written.
    """
    if not (folder / "about.json").is_file():
        waiting = pictures()
        try:
            _build(folder, waiting, size, limit)
        except OSError as error:
            raise UserError(
                f"cannot write the image cache {folder}: {error.strerror or error}; "
                "free some space there, or choose another folder with --data.cache-dir"
            ) from error
    about = json.loads((folder / "about.json").read_text())
    labels = np.load(folder / "labels.npy")
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(labels)]
    names, notes = tuple(about["class_names"]), tuple(about["notes"])
    total = about.get("total", 0)  # older caches lack it
    return Cached(images, labels, names, notes, about["fingerprint"], total)


def _build(folder: Path, pictures: Pictures, size: int, limit: int | None) -> None:
    """Decode into a temporary folder next to `folder`, then rename it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _fill(partial, pictures, size, limit)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "about.json").is_file():  # else another run was faster: use its cache
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what killed runs left behind more than a day ago."""
    for partial in parent.glob(".partial-*"):
        if time.time() - partial.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, pictures: Pictures, size: int, limit: int | None) -> None:
    """Write images.npy, labels.npy and about.json."""
    order = np.random.default_rng(ORDER_SEED).permutation(len(pictures.names))
    room = len(order) if limit is None else min(limit, len(order))
    shape = (room, size, size, 3)
    labels: list[int] = []
    converted: list[str] = []
    skipped = list(pictures.skipped)
    digest = hashlib.sha256()
    # Not written through a memory map: there, a full disk would kill the process.
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        end = file.tell() + math.prod(shape)
        for position, (decoded, label) in _decode_all(pictures, order, size):
            if len(labels) == room:
                break
            if decoded.remark:
                told = skipped if decoded.image is None else converted
                told.append(f"{pictures.names[position]} ({decoded.remark})")
            if decoded.image is not None:
                pixels = decoded.image.tobytes()
                file.write(pixels)
                digest.update(pixels)
                labels.append(label)
        file.truncate(end)  # skipped pictures leave space at the end that is never read
    summary = summarise(converted, skipped)
    if not labels:
        raise UserError(f"no usable image: {summary}; give a folder of JPEG or PNG pictures")
    np.save(folder / "labels.npy", np.array(labels, np.int32))
    about = {
        "class_names": pictures.class_names,
        "notes": [summary] if summary else [],
        "fingerprint": digest.hexdigest(),
        "total": len(order),
    }
    (folder / "about.json").write_text(json.dumps(about))


def _decode_all(pictures: Pictures, order: np.ndarray, size: int):
    """Yield (position, (Decoded, label)) in the given order, decoding in threads."""
    from tqdm import tqdm

    def one(position: int) -> tuple[Decoded, int]:
        file, label = pictures.read(position)
        return decode(file, size), label

    every = 0.5 if sys.stderr.isatty() else 15.0
    bar = tqdm(total=len(order), desc="reading images", unit="img", delay=1, mininterval=every)
    # Pillow releases the GIL while it decodes, so threads are enough. The warning filters are
    # set here because they are per process, not per thread.
    with bar, warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        from PIL import Image

        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK].tolist()
            yield from zip(chunk, pool.map(one, chunk), strict=True)
            bar.update(len(chunk))


def summarise(converted: Sequence[str], skipped: Sequence[str]) -> str:
    """One line on what was skipped and what was converted; empty if there is neither."""
    parts = [
        f"{what} {len(names)} ({listed(names)})"
        for what, names in (("skipped", skipped), ("converted to upright RGB", converted))
        if names
    ]
    return "images: " + "; ".join(parts) if parts else ""
