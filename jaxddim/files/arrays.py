"""Arrays of an .npz file: types and shapes are compared with those expected before any is read.

An .npz is a zip of .npy files: a header with type and shape, then the numbers. Nothing in it is
unpickled. A file that would inflate to more than RATIO times its size is refused.
"""

import math
import os
import zipfile
from collections.abc import Mapping
from typing import IO, NamedTuple

import numpy as np

from jaxddim.files.reading import opened, shown

RATIO = 100
"""How many times its own size a file may inflate to; pictures come to ten."""
SPARE = 1 << 24
"""Bytes beyond that."""
MOST_DIMENSIONS = 8


class Form(NamedTuple):
    """What an array must be.

    Attributes:
      kind: NumPy's letter of its type, "f" for floats of any size, with their bytes if given.
      shape: its shape; None for a size that is not known before.
    """

    kind: str
    shape: tuple[int | None, ...]


def read(path: str | os.PathLike[str], forms: Mapping[str, Form | None]) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file.

    Args:
      path: the file.
      forms: what each must be; None for any numbers.
    Raises:
      OSError: when the file cannot be opened.
      ValueError: when it is damaged, lacks an array, or holds one of another form.
    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryFile() as file:
      ...     np.savez(file, mean=np.zeros((2, 3)))
      ...     read(f"/dev/fd/{file.fileno()}", {"mean": Form("f", (2, None))})["mean"].shape
      (2, 3)
    """
    with opened(path) as file:
        left = RATIO * os.fstat(file.fileno()).st_size + SPARE
        found = {}
        try:
            with zipfile.ZipFile(file) as archive:
                for name, form in forms.items():
                    entry = _entry(archive, name)
                    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError(f"{name} is compressed in another way than by NumPy")
                    with archive.open(entry) as member:
                        found[name] = _array(member, name, form, left)
                    left -= found[name].nbytes
        except (ValueError, MemoryError):
            raise
        except Exception as error:  # a zip that is damaged may raise anything
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    return found


def names(path: str | os.PathLike[str]) -> list[str]:
    """The names of the arrays of an .npz file.

    Raises:
      OSError: when the file cannot be opened.
      ValueError: when it is damaged.
    """
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist()]
        except Exception as error:  # a zip that is damaged may raise anything
            raise ValueError(" ".join(str(error).split())) from None


def _entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it holds no array {shown(name)}") from None


def _array(member: IO[bytes], name: str, form: Form | None, most: int) -> np.ndarray:
    dtype, fortran, shape = _header(member)
    if not _has(dtype, shape, form):
        raise ValueError(f"{name} is {dtype} {list(shape)}, expected {_told(form)}")
    size = math.prod(shape) * dtype.itemsize
    if size > most:
        raise ValueError(f"{name} would take {size:,} bytes, and a file of this size holds fewer")
    array = np.empty(math.prod(shape), dtype)
    room, done = array.view(np.uint8), 0
    while done < size:
        piece = member.read(min(size - done, 1 << 20))
        if not piece:
            raise ValueError(f"{name} ends early")
        room[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    if member.read(1):  # which also compares the checksum
        raise ValueError(f"{name} is longer than its header says")
    return array.reshape(shape, order="F" if fortran else "C")


def _header(member: IO[bytes]) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """Type, order and shape."""
    if np.lib.format.read_magic(member) != (1, 0):  # others may have headers of any length
        raise ValueError("an array of another version than NumPy writes")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError("an array of objects")
    if len(shape) > MOST_DIMENSIONS or not all(0 <= size < 2**48 for size in shape):
        raise ValueError("an array of no possible shape")
    return dtype, fortran, shape


def _has(dtype: np.dtype, shape: tuple[int, ...], form: Form | None) -> bool:
    if form is None:
        return dtype.kind in "biuf"
    sizes = zip(shape, form.shape, strict=False)
    alike = len(shape) == len(form.shape) and all(size in (given, None) for given, size in sizes)
    return alike and dtype.str[1:].startswith(form.kind)


def _told(form: Form | None) -> str:
    if form is None:
        return "numbers"
    name = {"u1": "uint8", "i": "whole numbers", "f": "floats", "U": "text"}[form.kind]
    return f"{name} [{', '.join('n' if size is None else str(size) for size in form.shape)}]"
