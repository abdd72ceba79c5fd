"""Struct arrays in MATLAB files of version 5: records of numbers and texts.

A file is a header of 128 bytes and elements: a type, a number of bytes, that many bytes, and zeros
up to a multiple of 8. What is short lies in the second half of its own head. A matrix is an element
of elements: its class, its sizes, its name, and its content. Nothing is allocated for a size that
the bytes do not bear out, which is why this is not left to SciPy.

Source: MAT-File Format, The MathWorks, R2019b, chapter 1.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MOST_BYTES = 2**24  # of a file, and of what is compressed in it; Stanford Cars' are below 2^23
MOST_RECORDS = 100_000
COMPRESSED, MATRIX = 15, 14
STRUCT, CHAR = 2, 4  # classes of a matrix; those from 6 to 15 are numbers
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}

Elements = Iterator[tuple[int, memoryview]]


def records(content: bytes, name: str) -> list[dict[str, Any]]:
    """The records of a struct array.

    Args:
      content: the file.
      name: the name of the array.
    Returns:
      For each record its fields: a text, a number, or None for anything else.
    Raises:
      ValueError: when the file is damaged, of another version, or holds no such array.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or len(content) > MOST_BYTES:
        raise ValueError("not a MATLAB file of version 5, or larger than annotations are")
    try:
        for kind, data in _elements(memoryview(content)[128:], order):
            if kind == COMPRESSED:
                kind, data = next(_elements(_inflated(data), order))
            if kind == MATRIX and (found := _struct(data, order, name)) is not None:
                return found
    except (StopIteration, struct.error, zlib.error, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"an element that ends early or is of an unknown type ({error})") from None
    raise ValueError(f"it holds no struct array {name!r}")


def _elements(data: memoryview, order: str) -> Elements:
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        begin = at + 8
        if kind >> 16:
            kind, size, begin = kind & 0xFFFF, kind >> 16, at + 4
        if size > len(data) - begin or begin - at < 8 < size + 4:
            raise ValueError("an element that is longer than the file")
        yield kind, data[begin : begin + size]
        at = at + 8 if begin - at < 8 else begin + size + (-size % 8 if kind != COMPRESSED else 0)


def _inflated(data: memoryview) -> memoryview:
    inflate = zlib.decompressobj()
    whole = inflate.decompress(data, MOST_BYTES)
    if not inflate.eof:  # where it has ended, its checksum has been compared
        raise ValueError("a compressed element that ends early, or is larger than annotations are")
    return memoryview(whole)


def _head(parts: Elements, order: str) -> tuple[int, int, bytes]:
    """Class, number of entries and name of a matrix, which come first in it."""
    flags, sizes, name = (bytes(data) for _, data in itertools.islice(parts, 3))
    (about,) = struct.unpack_from(f"{order}I", flags)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if min(shape, default=-1) < 0 or len(shape) > 8:
        raise ValueError("a matrix of no possible sizes")
    return about & 0xFF, math.prod(shape), name


def _struct(data: memoryview, order: str, wanted: str) -> list[dict[str, Any]] | None:
    """The records of a matrix; None if it has another name or is no struct array."""
    parts = _elements(data, order)
    kind, count, name = _head(parts, order)
    if kind != STRUCT or name != wanted.encode():
        return None
    (_, width), (_, names) = next(parts), next(parts)
    (long,) = struct.unpack(f"{order}i", width)
    if not 0 < long <= 64 or not 0 < len(names) // long <= 64 or not 0 <= count <= MOST_RECORDS:
        raise ValueError("a struct array of no possible sizes")
    fields = [bytes(names[i : i + long]).rstrip(b"\0").decode() for i in range(0, len(names), long)]
    found = [{field: _value(next(parts)[1], order) for field in fields} for _ in range(count)]
    if next(parts, None):
        raise ValueError("more fields than its sizes say")
    return found


def _value(data: memoryview, order: str) -> Any:
    """A text or a number; None for anything else."""
    if not data:
        return None
    parts = _elements(data, order)
    kind, count, _ = _head(parts, order)
    if kind != CHAR and not 6 <= kind <= 15:
        return None
    stored, body = next(parts, (1, memoryview(b"")))
    if kind == CHAR:
        wide = {"<": "-le", ">": "-be"}[order] if stored in (4, 17, 18) else ""
        return bytes(body).decode(TEXTS[stored] + wide)
    numbers = np.frombuffer(body, order + NUMBERS[stored])
    return numbers.item() if count == len(numbers) == 1 else None
