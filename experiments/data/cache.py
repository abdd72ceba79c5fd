"""Pictures of any kind -> one cached array of uint8 [n, h, w, c].

Every source is decoded and resized once. The cache is a folder

    CACHE_DIR/<source>-<h>x<w>-<key>/   images.npy  labels.npy  about.json

written under another name and renamed when complete, so that a killed run leaves
no partial cache. The pictures are stored in one fixed pseudo-random order, so any
slice of the memory-mapped file, such as the first n or the last n, is a fair sample.
An entry that is damaged, or that somebody else may have written, is made again. about.json holds a
checksum (CRC-32) of every CHUNK images, of the labels and of itself, which are compared whenever an
entry is opened: 2 GB a second and core.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.decoding import Decoded, Pictures, Shape, decode, without_warnings
from experiments.terminal.errors import UserError
from experiments.terminal.files import is_trusted, record
from experiments.terminal.progress import tracked
from experiments.terminal.texts import brief, listed

ORDER_SEED = 2010_02502
FORMAT = 1  # part of every key
DECODING = 3  # part of every entry's key: increment it when decode() or the file format changes
CHUNK = 256
FILES = ("images.npy", "labels.npy", "about.json")
SUMS = "crc32"  # of an entry's about.json: checksums of its files
PARTIAL = ".partial-"  # how the name of an unfinished entry begins
INCOMPLETE = "incomplete.*"  # TFDS's own
STALE_SECONDS = 24 * 3600  # since an unfinished entry was last written to


class Cached(NamedTuple):
    """A decoded source, read from the cache."""

    images: np.ndarray  # uint8 [n, h, w, c], memory-mapped, read-only
    labels: np.ndarray  # int32 [n]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str
    total: int  # pictures before the limit


def key(*parts: object) -> str:
    """A short hash of everything that the pixels of a cache depend on."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def cached(
    folder: Path, pictures: Callable[[], Pictures], shape: Shape, *, limit: int | None = None
) -> Cached:
    """The decoded pictures in `folder`, decoding them first if they are not there.

    Args:
      folder: the cache; its name is specific to everything that the pixels depend on.
      pictures: called only when there is no cache yet.
      shape: height, width and channels of an image.
      limit: stop after this many images.
    Returns:
      The memory-mapped images with labels, class names, notes and fingerprint.
    Raises:
      UserError: when no picture could be decoded, or the cache cannot be written.
    """
    told: tuple[str, ...] = ()
    if os.path.lexists(folder):
        try:
            return _read(folder, shape)
        except PermissionError as error:
            raise UserError(
                f"cannot read the image cache {folder}: {error.strerror}; change its permissions, "
                "or choose another folder with --data.cache-dir"
            ) from None
        except Exception as error:  # damaged files may raise anything
            told = (f"the image cache {folder} was damaged ({brief(error)}): made again",)
    waiting = pictures()
    try:
        _build(folder, waiting, shape, limit)
        found = _read(folder, shape, made=True)
    except OSError as error:
        raise UserError(
            f"cannot write the image cache {folder}: {error.strerror or error}; "
            "free some space there, or choose another folder with --data.cache-dir"
        ) from error
    return found._replace(notes=(*told, *found.notes))


def _read(folder: Path, shape: Shape, *, made: bool = False) -> Cached:
    """The entry in `folder`, which this process may have made just now.

    Raises:
      Exception: of any kind, when the entry is not complete.
    """
    for path in (folder, *(folder / name for name in FILES)):
        if not made and not is_trusted(path, folder.parent):
            raise ValueError(f"others may write to {path.name}")
        if path != folder and not path.is_file():  # a pipe would wait for ever
            raise ValueError(f"{path.name} is no file")
    about = record(folder / "about.json")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    images = np.load(folder / "images.npy", mmap_mode="r")
    if about.get("name", folder.name) != folder.name:
        raise ValueError("it is another entry")
    num = about["num_images"]
    if any(type(value) is not int for value in (num, about["total"])):
        raise ValueError("about.json: expected numbers of images")
    for name in ("class_names", "notes"):
        if not isinstance(about[name], list) or any(type(word) is not str for word in about[name]):
            raise ValueError(f"about.json: {name} is not a list of texts")
    if labels.dtype != np.int32 or labels.shape != (num,):
        raise ValueError(f"labels.npy: {labels.dtype} {labels.shape}, expected int32 ({num},)")
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) < num:
        raise ValueError(f"images.npy: {images.dtype} {images.shape}, expected {num} images")
    images, labels = images[:num], np.array(labels)
    _check(about, images, labels)
    classes, notes = tuple(about["class_names"]), tuple(about["notes"])
    return Cached(images, labels, classes, notes, about["fingerprint"], about["total"])


def _check(about: dict[str, Any], images: Any, labels: np.ndarray) -> None:
    """Raises a ValueError when a checksum differs."""
    if SUMS not in about:  # an older version wrote it
        if pixel_hash(images) != about["fingerprint"]:
            raise ValueError("images.npy: its pixels have changed")
        return
    if about[SUMS]["about.json"] != _sum_of(about):
        raise ValueError("about.json: it has changed")
    if about[SUMS]["labels.npy"] != zlib.crc32(labels.tobytes()):
        raise ValueError("labels.npy: its labels have changed")
    starts = range(0, len(images), CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # which runs without Python's lock
        sums = pool.map(lambda first: zlib.crc32(images[first : first + CHUNK]), starts)
        found = [next(sums) for _ in tracked(starts, "checking cached images", wait=True)]
    if found != about[SUMS]["images.npy"]:
        raise ValueError("images.npy: its pixels have changed")


def _sum_of(about: dict[str, Any]) -> int:
    """The checksum of about.json without its own."""
    sums = {name: value for name, value in about[SUMS].items() if name != "about.json"}
    return zlib.crc32(json.dumps(about | {SUMS: sums}, sort_keys=True).encode())


def pixel_hash(images: np.ndarray, start: bytes = b"") -> str:
    """sha256 over `start` and the pixels of uint8 images, which may be memory-mapped."""
    digest = hashlib.sha256(start)
    for first in range(0, len(images), CHUNK):
        digest.update(images[first : first + CHUNK].tobytes())
    return digest.hexdigest()


def _build(folder: Path, pictures: Pictures, shape: Shape, limit: int | None) -> None:
    """Decode into a temporary folder next to `folder`, then rename it.

    If another process removes the temporary folder meanwhile, start again, once.
    """
    for again in (True, False):
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder.parent))
        try:
            _fill(partial, folder.name, pictures, shape, limit)
            _put(partial, folder, shape)
            return
        except FileNotFoundError:
            if partial.exists():
                raise
            if not again:
                raise UserError(
                    f"{partial} was removed while pictures were written to it: let no other "
                    "process clean that folder, or choose another one with --data.cache-dir"
                ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, folder: Path, shape: Shape) -> None:
    """Rename a finished entry; what is in its place stays if it is usable, and else goes."""
    try:
        partial.rename(folder)
        return
    except OSError:
        with contextlib.suppress(Exception):
            _read(folder, shape)  # another process was faster
            return
    aside = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder.parent))
    try:
        folder.rename(aside / "damaged")
        partial.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(parent: Path, pattern: str = f"{PARTIAL}*") -> None:
    """Remove what killed runs left behind more than a day ago."""
    for partial in parent.glob(pattern):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, name: str, pictures: Pictures, shape: Shape, limit: int | None) -> None:
    """Write images.npy, labels.npy and about.json of the entry that will have this name."""
    order = np.random.default_rng(ORDER_SEED).permutation(len(pictures.names))
    room = len(order) if limit is None else min(limit, len(order))
    labels: list[int] = []
    sums: list[int] = []
    converted: list[str] = []
    skipped = list(pictures.skipped)
    digest = hashlib.sha256()
    # Not written through a memory map: there, a full disk would kill the process.
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (room, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        end = file.tell() + room * math.prod(shape)
        for count, (position, (decoded, label)) in enumerate(_decode_all(pictures, order, shape)):
            if len(labels) == room:
                break
            if count % CHUNK == 0:
                os.utime(folder)  # so that no other process takes it for abandoned
            if decoded.remark:
                told = skipped if decoded.image is None else converted
                told.append(f"{pictures.names[position]} ({decoded.remark})")
            if decoded.image is not None:
                pixels = decoded.image.tobytes()
                file.write(pixels)
                digest.update(pixels)
                if len(labels) % CHUNK == 0:
                    sums.append(0)
                sums[-1] = zlib.crc32(pixels, sums[-1])
                labels.append(label)
        file.truncate(end)  # skipped pictures leave space at the end that is never read
    summary = summarise(converted, skipped, shape[2])
    if not labels:
        raise UserError(f"no usable image: {summary}; give a folder of JPEG or PNG pictures")
    found = np.array(labels, np.int32)
    np.save(folder / "labels.npy", found)
    about: dict[str, Any] = {
        "name": name,
        "num_images": len(labels),
        "class_names": pictures.class_names,
        "notes": [summary] if summary else [],
        "fingerprint": digest.hexdigest(),
        "total": len(order),
        SUMS: {"images.npy": sums, "labels.npy": zlib.crc32(found.tobytes())},
    }
    about[SUMS]["about.json"] = _sum_of(about)
    (folder / "about.json").write_text(json.dumps(about))
    for name in FILES:  # whatever the umask is
        (folder / name).chmod(0o644)


def _decode_all(pictures: Pictures, order: np.ndarray, shape: Shape):
    """Yield (position, (Decoded, label)) in the given order, decoding in threads."""

    def one(position: int) -> tuple[Decoded, int]:
        file, label = pictures.read(position)
        return decode(file, shape[:2], shape[2]), label

    # Pillow releases the GIL while it decodes, so threads are enough.
    with without_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tracked(range(0, len(order), CHUNK), "reading images", wait=True):
            chunk = order[start : start + CHUNK].tolist()
            yield from zip(chunk, pool.map(one, chunk), strict=True)


def summarise(converted: Sequence[str], skipped: Sequence[str], channels: int) -> str:
    """One line on what was skipped and what was converted; empty if there is neither."""
    wanted = "RGB" if channels == 3 else "grey"
    parts = [
        f"{what} {len(names)} ({listed(names)})"
        for what, names in (("skipped", skipped), (f"converted to upright {wanted}", converted))
        if names
    ]
    return "images: " + "; ".join(parts) if parts else ""
