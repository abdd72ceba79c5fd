"""Tar archives and parquet files as streams: nothing is unpacked to disk."""

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.terminal.errors import UserError
from experiments.terminal.texts import brief

LARGEST_MEMBER = 64 * 2**20  # bytes; pictures of cars stay below 2 MiB
ROWS = 64  # read at a time


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a tar archive, read from front to end.

    Links, devices and huge files are skipped. Names are as in the archive: they may
    point outside a folder and must not be used as paths.

    Raises:
      UserError: when the archive is damaged or incomplete.
    """
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if member.isreg() and member.size <= LARGEST_MEMBER:
                    file = tar.extractfile(member)
                    yield member.name, file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{archive}: damaged, incomplete or not an archive ({brief(error)}); "
            "copy or download it again"
        ) from error


def rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, with those of the named columns that exist.

    Raises:
      UserError: when the file is damaged, or pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=ROWS, columns=present):
                yield from batch.to_pylist()
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path}: damaged or not a parquet file ({brief(error)}); copy or download it again"
        ) from error
