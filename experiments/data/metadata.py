"""Pictures without their metadata, for readers that stumble over it.

A PNG is a signature and chunks (length, name, content, checksum); a JPEG is a sequence of segments
(0xFF, marker, length, content) before its first scan. Only what pixels depend on is kept.
"""

import struct
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
JPEG = b"\xff\xd8"
SCAN, COMMENT = 0xDA, 0xFE
JFIF, EXIF, ADOBE = 0xE0, 0xE1, 0xEE  # of the segments 0xE0 .. 0xEF of applications


def without(whole: bytes) -> Iterator[bytes]:
    """A PNG's or JPEG's bytes without metadata except EXIF, then without EXIF too.

    A JPEG's Adobe segment, which tells how colours are stored, goes at last.

    Other files, and what would be no other than before, are left out.
    """
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
