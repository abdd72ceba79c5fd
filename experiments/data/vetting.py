"""Which files are pictures, and what they may cost: told by their first bytes, before any decoder.

Pillow knows some forty formats, one of which runs Ghostscript. Here are the formats of photographs.
Decoders read some parts of a file into Python objects, or allocate what it claims, before anything
can be asked of the picture; these parts are walked here first.
"""

import contextlib
import math
import re
import struct
import threading
from collections.abc import Iterator

LARGEST_FILE = 2**28  # bytes
MOST_PIXELS = 2**26  # 8192 x 8192
AT_ONCE = 2**27  # pixels that are decoded at one time, by all threads
MOST_PARTS = 2**17  # segments, chunks and scans
MOST_SCANS = 100  # of a JPEG; those of encoders come to 15
MOST_BEFORE = 2**20  # bytes before the first frame of a GIF, or beside the segments of a JPEG
MOST_TAGS = 2**25  # bytes of a TIFF's directory
MOST_TILE = 2**24  # pixels of a TIFF's tile
MOST_STRIPS = 2**20  # bytes of each table of strips or tiles

FORMATS = {
    rb"\xff\xd8\xff": "JPEG",
    rb"\x89PNG\r\n\x1a\n": "PNG",
    rb"RIFF....WEBP": "WEBP",
    rb"GIF8[79]a": "GIF",
    rb"BM": "BMP",
    rb"II\*\0|MM\0\*": "TIFF",
    rb"P[456]\s": "PPM",
    rb"....ftypavi[fs]": "AVIF",
}
"""Pillow's names of the formats that are read, by their first bytes."""
TILE = 322, 323
STRIPS = {273, 279, 324, 325}
UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a TIFF's types."""


class Unfit(ValueError):
    """A picture that would cost more than pictures do, with or without its metadata."""


def kind(start: bytes) -> str | None:
    """Pillow's name of the format that begins so; None for what is no picture.

    Example:
      >>> kind(b"GIF89a"), kind(b"%!PS-Adobe-3.0 EPSF-3.0")
      ('GIF', None)
    """
    found = (name for begin, name in FORMATS.items() if re.match(begin, start, re.DOTALL))
    return next(found, None)


def check(whole: bytes, name: str) -> None:
    """Checks the parts of a picture that decoders read without a bound.

    Args:
      whole: the file.
      name: its format.
    Raises:
      Unfit: when it has more pixels than MOST_PIXELS, or its parts are more than pictures have.
      ValueError: when that is so of its metadata alone.
    """
    checks = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "TIFF": _tiff}
    with contextlib.suppress(struct.error):  # it ends early, as a decoder will find
        if name in checks:
            checks[name](whole)


def check_size(width: int, height: int) -> None:
    """Raises Unfit for a picture of more pixels than MOST_PIXELS."""
    if width * height > MOST_PIXELS:
        raise Unfit(
            f"too many pixels: {width * height / 1e6:.1f} million, "
            f"at most {MOST_PIXELS / 1e6:.1f} million are read"
        )


def _jpeg(whole: bytes) -> None:
    at, parts, scans, beside, exif, modest = 2, 0, 0, 0, b"", True
    marker = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
    while parts <= MOST_PARTS:
        found = marker.search(whole, at)
        beside += (found.start() if found else len(whole)) - at if not scans else 0
        if not found or found[0] == b"\xff\xd9" or found.end() + 2 > len(whole):
            break
        (length,) = struct.unpack_from(">H", whole, found.end())
        if found[0] == b"\xff\xe1" and whole.startswith(b"Exif\0\0", found.end() + 2):
            exif += whole[found.end() + 8 : found.end() + length]
        if found[0] == b"\xff\xe2" and whole.startswith(b"MPF\0", found.end() + 2):
            modest = modest and is_modest(whole[found.end() + 6 : found.end() + length])
        scans += found[0] == b"\xff\xda"
        at, parts = found.end() + max(length, 2), parts + 1
    if parts > MOST_PARTS or scans > MOST_SCANS or beside > MOST_BEFORE:
        raise Unfit(f"a JPEG of {parts:,} segments, {scans:,} scans and {beside:,} bytes besides")
    if not modest or not is_modest(exif):
        raise ValueError("metadata that claims more than it holds")


def _png(whole: bytes) -> None:
    at, parts = 8, 0
    while at + 12 <= len(whole) and parts <= MOST_PARTS:
        (length,) = struct.unpack_from(">I", whole, at)
        at, parts = at + 12 + length, parts + 1
    if parts > MOST_PARTS:
        raise Unfit(f"a PNG of more than {MOST_PARTS:,} chunks")


def _webp(whole: bytes) -> None:
    form = whole[12:16]
    if form == b"VP8X":
        sides = [1 + int.from_bytes(whole[i : i + 3], "little") for i in (24, 27)]
    elif form == b"VP8L":
        (bits,) = struct.unpack_from("<I", whole, 21)
        sides = [1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)]
    else:
        sides = [side & 0x3FFF for side in struct.unpack_from("<HH", whole, 26)]
    check_size(*sides)


def _gif(whole: bytes) -> None:
    at = 13 + (2 << (whole[10] & 7)) * 3 if len(whole) > 10 and whole[10] & 0x80 else 13
    begin = at
    while at < len(whole) and whole[at] not in b",;":
        extension, at = whole[at] == 0x21, at + 1
        while extension and (at := at + 1) < len(whole) and whole[at] and at - begin < MOST_BEFORE:
            at += whole[at]
        if at - begin > MOST_BEFORE:
            raise Unfit(f"a GIF with {MOST_BEFORE:,} bytes before its first frame")


def _tiff(whole: bytes) -> None:
    sizes, values = _tags(whole)
    if math.prod(values.get(tag, 1) for tag in TILE) > MOST_TILE:
        raise Unfit("a TIFF with larger tiles than pictures have")
    if sum(sizes.values()) > MOST_TAGS or any(sizes.get(tag, 0) > MOST_STRIPS for tag in STRIPS):
        raise Unfit("a TIFF with larger tables than pictures have")
    if not is_modest(whole):
        raise Unfit("a TIFF that claims more than it holds")


def is_modest(directory: bytes) -> bool:
    """Whether the tags of a TIFF or of EXIF are together no larger than what they lie in.

    A reader copies each tag's content, and all of them may lie at one place.
    """
    try:
        sizes, _ = _tags(directory.removeprefix(b"Exif\0\0"))
        return sum(sizes.values()) <= 2 * len(directory)
    except struct.error:
        return True  # a reader ends there too


def _tags(whole: bytes) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes of each tag of the first directory, and the last number of each."""
    order = "<" if whole.startswith(b"II") else ">"
    sizes: dict[int, int] = {}
    values: dict[int, int] = {}
    if not whole:
        return sizes, values
    (at,) = struct.unpack_from(f"{order}I", whole, 4)
    (count,) = struct.unpack_from(f"{order}H", whole, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(whole) - 11), 12):
        tag, form, number = struct.unpack_from(f"{order}HHI", whole, entry)
        sizes[tag] = sizes.get(tag, 0) + number * UNITS.get(form, 0)
        (values[tag],) = struct.unpack_from(f"{order}{'H' if form == 3 else 'I'}", whole, entry + 8)
    return sizes, values


class _Room:
    """Room for so many pixels; a picture that is larger waits until it is alone."""

    def __init__(self, most: int):
        self._most, self._taken, self._changed = most, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


ROOM = _Room(AT_ONCE)
"""The memory of pictures that are being decoded."""
