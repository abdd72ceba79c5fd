"""The files around tensors: PyTorch's two layouts, and safetensors. All from bytes in memory.

    zip (PyTorch 1.6 and later)   ROOT/data.pkl, and ROOT/data/KEY for each storage, not compressed
    legacy                        pickles of a magic number, a version, the machine, the object and
                                  the keys of its storages; then for each key its length and bytes

Sizes that a file gives are compared with what it holds, and never allocated.
"""

import io
import itertools
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from jaxddim.weights import pickles
from jaxddim.weights.pickles import Storage, Window

MAGIC = 0x1950A86A20F9469CFC6C
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
BEGINNING = len(LEGACY)
MOST_HEADER = 1 << 23
"""Bytes of a safetensors header; those of published models have below 200,000."""
SPARE = 1 << 20
"""Bytes that expanded tensors may have beyond twice the size of the file."""


def read(content: bytes) -> Any:
    """The object in a file of weights, with NumPy arrays for its tensors.

    Args:
      content: the whole file. Its first bytes decide what it is.
    Returns:
      A nest of dictionaries, lists, tuples, strings, numbers and arrays in the types of the file.
    Raises:
      ValueError: among other errors, when it is damaged or cannot be read without executing it.
    """
    check_beginning(content[:BEGINNING])
    if content.startswith(ZIP):
        return _zip(content)
    return _legacy(content) if content.startswith(LEGACY) else _safetensors(content)


def check_beginning(start: bytes) -> None:
    """Raises a ValueError for the first BEGINNING bytes of a file of another format."""
    if not start.startswith((ZIP, LEGACY)) and start[8:9] != b"{":
        raise ValueError("its first bytes are those of no format of PyTorch's or of safetensors")


def _zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise ValueError("an archive with two entries of one name")
        roots = {name.split("/", 1)[0] for name in entries}
        if len(roots) != 1 or any("/" not in name for name in entries):
            raise ValueError("an archive of more than one folder")
        root = f"{roots.pop()}/"
        if f"{root}data.pkl" not in entries or any(n.startswith(f"{root}code/") for n in entries):
            raise ValueError("a program (TorchScript) or another archive")
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(
                    "an archive with compressed entries, which torch.save never writes"
                )
        places = {entry.header_offset for entry in entries.values()}
        total = sum(entry.file_size for entry in entries.values())
        if len(places) < len(entries) or total > len(content):
            raise ValueError("an archive whose entries overlap")
        if min(places):
            raise ValueError("an archive behind something else")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
        if order not in (b"little", b"big"):
            raise ValueError("an archive of an unknown order of bytes")
        found: dict[str, bytes] = {}

        def stored(storage: Storage) -> bytes:
            if storage.key not in found:
                found[storage.key] = archive.read(f"{root}data/{storage.key}")
            return found[storage.key]

        tensor = _tensors(stored, order == b"little", len(content))
        return pickles.read(io.BytesIO(archive.read(f"{root}data.pkl")), tensor)


def _legacy(content: bytes) -> Any:
    file = io.BytesIO(content)
    storages: dict[str, Storage] = {}

    def note(window: Window) -> None:
        storages[window.storage.key] = window.storage

    magic, version, machine = (pickles.read(file, note) for _ in range(3))
    if (magic, version) != (MAGIC, 1001) or type(machine) is not dict:
        raise ValueError("not a PyTorch file")
    begin = file.tell()
    pickles.read(file, note)
    keys = pickles.read(file, note)
    if type(keys) is not list or sorted(keys) != sorted(storages):
        raise ValueError("a list of storages that is not that of its tensors")
    found: dict[str, bytes] = {}
    for key in keys:
        (length,) = struct.unpack("<q", file.read(8))
        if length != storages[key].length:
            raise ValueError("a storage of another length than its tensors say")
        found[key] = file.read(length * storages[key].dtype.itemsize)
    if file.read(1):
        raise ValueError("more bytes than its storages have")
    file.seek(begin)
    tensor = _tensors(lambda s: found[s.key], machine["little_endian"] is True, len(content))
    return pickles.read(file, tensor)


def _tensors(
    stored: Callable[[Storage], bytes], little: bool, size: int
) -> Callable[[Window], np.ndarray]:
    """A function that copies windows out of storages, as far as a file of this size has tensors."""
    kinds: dict[str, Storage] = {}
    left = 2 * size + SPARE

    def tensor(window: Window) -> np.ndarray:
        nonlocal left
        storage, dtype = window.storage, window.storage.dtype
        if kinds.setdefault(storage.key, storage) != storage:
            raise ValueError("a storage of two types or lengths")
        content = stored(storage)
        if len(content) != storage.length * dtype.itemsize:
            raise ValueError("a storage that is longer or shorter than it says")
        left -= int(np.prod(window.size, dtype=object)) * dtype.itemsize
        if left < 0:
            raise ValueError("tensors that are together larger than the file")
        if dtype == np.bool_ and content.strip(b"\0\1"):
            raise ValueError("truth values other than 0 and 1")
        values = np.frombuffer(content, dtype)[window.offset :]
        steps = [step * dtype.itemsize for step in window.stride]
        view = np.lib.stride_tricks.as_strided(values, window.size, steps, writeable=False)
        return view.copy() if little else view.byteswap()

    return tensor


def _safetensors(content: bytes) -> Mapping[str, np.ndarray]:
    from safetensors.numpy import load

    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MOST_HEADER, len(content) - 8):
        raise ValueError("a header that is longer than the file, or than any model's")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("two entries of one name")
        return found

    json.loads(content[8 : 8 + length], object_pairs_hook=once)
    return load(content)


def write(file: BinaryIO, whole: Any) -> None:
    """Writes an object of numbers, strings, containers and arrays as `torch.save` would.

    Args:
      file: where the zip is written.
      whole: the object.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def entry(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)

        keys = itertools.count()

        def stored(array: np.ndarray) -> str:
            key = str(next(keys))
            entry(f"data/{key}", np.ascontiguousarray(array).tobytes())
            return key

        entry("data.pkl", pickles.written(whole, stored))
        entry("byteorder", sys.byteorder.encode())
        entry("version", b"3\n")
