"""Pictures without their metadata, for readers that stumble over it.

A PNG is a signature and chunks (length, name, content, checksum); a JPEG is a sequence of segments
(0xFF, marker, length, content) before its first scan. Only what pixels depend on is kept.
"""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
JPEG = b"\xff\xd8"
SCAN, COMMENT = 0xDA, 0xFE
JFIF, EXIF, ADOBE = 0xE0, 0xE1, 0xEE  # of the segments 0xE0 .. 0xEF of applications
LONGEST = 2**28  # bytes of a file that is tried again


def without(file: Path | BinaryIO) -> Iterator[bytes]:
    """A PNG's or JPEG's bytes without metadata except EXIF, then without EXIF too.

    A JPEG's Adobe segment, which tells how colours are stored, goes at last.

    Other files, and what would be no other than before, are left out.
    """
    whole = _bytes(file)
    seen = {whole}
    tries: list[bytes] = []
    if whole.startswith(PNG):
        tries = [_png(whole, PIXELS | more) for more in ({b"eXIf"}, set())]
    elif whole.startswith(JPEG):
        tries = [_jpeg(whole, {JFIF} | more) for more in ({ADOBE, EXIF}, {ADOBE}, set())]
    for bare in tries:
        if bare not in seen:
            seen.add(bare)
            yield bare


def _bytes(file: Path | BinaryIO) -> bytes:
    """The content, as far as it is not too long."""
    with file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as opened:
        opened.seek(0)
        start = opened.read(len(PNG))
        return start + opened.read(LONGEST) if start.startswith((PNG, JPEG)) else start


def _png(whole: bytes, kept: set[bytes]) -> bytes:
    parts, at = [PNG], len(PNG)
    while at + 12 <= len(whole):
        length, name = struct.unpack_from(">I4s", whole, at)
        end = at + 12 + length
        if name in kept:
            parts.append(whole[at:end])
        at = end
    return b"".join(parts)


def _jpeg(whole: bytes, kept: set[int]) -> bytes:
    parts, at = [JPEG], len(JPEG)
    while at + 4 <= len(whole):
        start, marker, length = struct.unpack_from(">BBH", whole, at)
        if marker == 0xFF:  # padding
            at += 1
            continue
        if start != 0xFF or marker == SCAN:
            break
        end = at + 2 + length
        if marker in kept or not (0xE0 <= marker <= 0xEF or marker == COMMENT):
            parts.append(whole[at:end])
        at = end
    return b"".join([*parts, whole[at:]])
