"""Pictures of any kind -> one cached array of uint8 [n, size, size, 3].

Every source is decoded and resized once. The cache is a folder

    CACHE_DIR/<source>-<size>-<key>/   images.npy  labels.npy  about.json

written under another name and renamed when complete, so that a killed run leaves
no half cache. The pictures are stored in one fixed pseudo-random order: any run
of them is a fair sample, which makes "the first n" and "the last n" plain slices
of a memory-mapped file.
"""

import difflib
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
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from experiments.cli import UserError
from experiments.containers import brief

ORDER_SEED = 2010_02502
SMALLEST_SIDE = 4  # pixels; anything smaller has no picture in it
FORMAT = 1  # part of every key: raise it when decode() or the files change
CHUNK = 256
STALE_SECONDS = 24 * 3600


class Pictures(NamedTuple):
    """Pictures that wait to be decoded."""

    names: Sequence[str]  # how a message calls each of them
    read: Callable[[int], tuple[Path | BinaryIO, int]]  # position -> (encoded file, label)
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # "name (reason)" of what could not even be listed


class Cached(NamedTuple):
    """A decoded source, as load() finds it in the cache."""

    images: np.ndarray  # uint8 [n, size, size, 3], memory-mapped, read-only
    labels: np.ndarray  # int32 [n]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str


class Decoded(NamedTuple):
    """One picture, or why there is none."""

    image: np.ndarray | None  # uint8 [size, size, 3]
    remark: str = ""  # what had to be converted, or the reason for skipping


def decode(file: Path | BinaryIO, size: int) -> Decoded:
    """One encoded picture as upright RGB, squeezed to a square of `size` pixels.

    The whole picture is kept: like the seed, the aspect ratio is not. Resizing is
    Lanczos with antialiasing. JPEGs are first shrunk in the frequency domain to no
    less than twice the wanted size, which is three times faster.

    Args:
      file: a path, or an open binary file.
      size: side of the result in pixels.
    Returns:
      The image with a remark on what was converted, or no image and the reason.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if min(image.size) < SMALLEST_SIDE:
                return Decoded(None, f"{image.size[0]}x{image.size[1]} pixels")
            remark = _remark(image)
            image.draft(None, (2 * size, 2 * size))
            image.load()
            turned = ImageOps.exif_transpose(image)
            rgb = _to_rgb(turned).resize((size, size), Image.Resampling.LANCZOS)
        return Decoded(np.asarray(rgb), remark)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Decoded(None, "too many pixels")
    except UnidentifiedImageError:
        return Decoded(None, "not an image")
    except PermissionError:
        return Decoded(None, "no permission to read it")
    except Exception as error:  # a decoder that is fed garbage may raise anything
        return Decoded(None, f"damaged: {brief(error)}")


def _remark(image: Any) -> str:
    """What has to be converted in this picture, for the summary."""
    if image.getexif().get(0x0112, 1) not in (0, 1):
        return "rotated by EXIF"
    if image.has_transparency_data:
        return "transparent"
    return "" if image.mode == "RGB" else {"L": "grey", "P": "palette"}.get(image.mode, image.mode)


def _to_rgb(image: Any) -> Any:
    """Any Pillow mode to RGB: transparency over white, deep grey levels to 8 bits."""
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode[0] in "IF":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integer or float grey levels to uint8; the range is read off the type, then the peak."""
    levels = np.nan_to_num(values.astype(np.float64))
    peak = levels.max(initial=0.0)
    if values.dtype.itemsize == 2 or peak > 255:
        levels = levels / 257
    elif values.dtype.kind == "f" and peak <= 1:
        levels = levels * 255
    return np.round(np.clip(levels, 0, 255)).astype(np.uint8)


def key(*parts: object) -> str:
    """A short hash of whatever the pixels of a cache depend on."""
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def choose(pictures: Pictures, classes: Sequence[str]) -> Pictures:
    """Only the pictures of the named classes; all of them when none is named.

    Raises:
      UserError: when there is no class of that name.
    """
    if not classes:
        return pictures
    known = pictures.class_names
    for name in classes:
        if name not in known:
            near = [other for other in known if name.lower() in other.lower()]
            near = near or difflib.get_close_matches(name, known, n=1, cutoff=0) or known[:1]
            advice = f"did you mean {near[0]!r}?" if near else "this source has no classes"
            raise UserError(f"unknown class {name!r} in --data.classes: {advice}")
    wanted = {known.index(name) for name in classes}
    kept = [i for i in range(len(pictures.names)) if pictures.read(i)[1] in wanted]
    names = [pictures.names[i] for i in kept]
    return pictures._replace(names=names, read=lambda i: pictures.read(kept[i]))


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/jaxddim, by default ~/.cache/jaxddim."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxddim"


def cached(
    folder: Path, pictures: Callable[[], Pictures], size: int, *, limit: int | None = None
) -> Cached:
    """The decoded pictures of `folder`, decoding them first if they are not there.

    Args:
      folder: where the cache is or will be; its name holds everything that the pixels depend on.
      pictures: called only when there is no cache yet.
      size: side of the square images.
      limit: stop after so many images.
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
                "make room there, or name another place with --data.cache-dir"
            ) from error
    about = json.loads((folder / "about.json").read_text())
    labels = np.load(folder / "labels.npy")
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(labels)]
    return Cached(
        images, labels, tuple(about["class_names"]), tuple(about["notes"]), about["fingerprint"]
    )


def _build(folder: Path, pictures: Pictures, size: int, limit: int | None) -> None:
    """Decode into a temporary neighbour of `folder`, then give it its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _fill(partial, pictures, size, limit)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "about.json").is_file():  # else another run was faster: use its
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what killed runs left behind a day ago or earlier."""
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
    # Written as a file and not through a memory map, where a full disk would kill the process.
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
        file.truncate(end)  # the place of what was skipped stays empty, and is never read
    summary = summarise(converted, skipped)
    if not labels:
        raise UserError(f"no usable image: {summary}; give a folder of JPEG or PNG pictures")
    np.save(folder / "labels.npy", np.array(labels, np.int32))
    about = {
        "class_names": pictures.class_names,
        "notes": [summary] if summary else [],
        "fingerprint": digest.hexdigest(),
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
    # Pillow leaves the interpreter free while it decodes, so threads are enough. The filter is
    # set here because filters belong to the process, not to the thread.
    with bar, warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        from PIL import Image

        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK].tolist()
            yield from zip(chunk, pool.map(one, chunk), strict=True)
            bar.update(len(chunk))


def summarise(converted: Sequence[str], skipped: Sequence[str]) -> str:
    """One line on what was converted and what was skipped; empty when there was neither."""
    parts = [
        f"{what} {len(names)} ({listed(names)})"
        for what, names in (("skipped", skipped), ("converted to upright RGB", converted))
        if names
    ]
    return "images: " + "; ".join(parts) if parts else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names in sorted order, and how many more there are."""
    first = sorted(names)[:most]
    return ", ".join(first) + (f" and {len(names) - most} more" if len(names) > most else "")
