"""Tar archives and parquet files as streams: nothing is unpacked to disk.

A tar archive is blocks of 512 bytes: for each member a header with its own checksum and then its
content, at last a block of zeros. An archive that ends without that block was cut, and one that
goes on after it was damaged. The checksum of gzip is compared at its end.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from experiments.terminal.errors import UserError
from experiments.terminal.texts import brief

LARGEST_MEMBER = 64 * 2**20  # bytes; pictures of cars stay below 2 MiB
MOST_MEMBERS = 50_000
RATIO = 100  # how many times its own size an archive may inflate to; pictures hardly do
SPARE = 2**26  # bytes beyond that
LONGEST_NAME = 2**16  # bytes of a name that has a member of its own
MOST_PADDING = 2**22  # bytes of zeros after the end
CHUNK = 2**18
ROWS = 8  # read at a time, as a picture may be of LARGEST_MEMBER
MOST_DECLARED = 2**32  # bytes of a column in a group of rows
ZEROS = bytes(tarfile.BLOCKSIZE)
BARE = {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}
"""Types of members that have no content, whatever their size says."""


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a tar archive, plain or of gzip, from front to end.

    Links and devices are skipped. Names are as in the archive: they may point outside a folder and
    must not be used as paths.

    Raises:
      UserError: when the archive is damaged or incomplete, or not as archives of pictures are.
    """
    from jaxddim.files.reading import opened  # here, as importing this must not import JAX

    try:
        with opened(archive) as file:
            yield from _members(_stream(file, RATIO * archive.stat().st_size + SPARE))
    except Exception as error:  # on damaged files a parser may raise anything
        raise UserError(
            f"{archive}: damaged, incomplete or not an archive ({brief(error)}); "
            "copy or download it again"
        ) from error


def _members(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    name = ""  # of the next member, where it has a member of its own
    for _ in range(MOST_MEMBERS):
        block = _exactly(stream, tarfile.BLOCKSIZE)
        if block == ZEROS:
            rest = stream.read(MOST_PADDING + 1)  # with it gzip's checksum has been compared
            if len(rest) > MOST_PADDING or rest.strip(b"\0"):
                raise ValueError("it goes on after its end")
            return
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type in BARE:
            continue
        whole = member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)
        most = LONGEST_NAME if whole else LARGEST_MEMBER
        if not 0 <= member.size <= most:
            raise ValueError(f"a member of {member.size:,} bytes, expected {most:,} at most")
        content = _exactly(stream, member.size)
        _exactly(stream, -member.size % tarfile.BLOCKSIZE)
        if member.type == tarfile.GNUTYPE_LONGNAME:
            name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif member.type == tarfile.XHDTYPE:
            name = _path(content) or name
        elif member.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError("a file with holes")
        elif member.type in tarfile.REGULAR_TYPES:
            yield name or member.name, content
            name = ""
    raise ValueError(f"more than {MOST_MEMBERS:,} members")


def _path(records: bytes) -> str:
    """The path among the records "LENGTH NAME=VALUE" of the next member; empty if there is none.

    Raises:
      ValueError: for a size or holes, which no picture needs.
    """
    path = b""
    while records.strip(b"\0"):
        length = int(records[: records.index(b" ")])
        name, _, value = records[records.index(b" ") + 1 : length - 1].partition(b"=")
        if length < 5 or records[length - 1 : length] != b"\n" or not name:
            raise ValueError("a header of records that are none")
        if name == b"size" or name.startswith(b"GNU.sparse."):
            raise ValueError(f"a member with {name.decode()}")
        path, records = value if name == b"path" else path, records[length:]
    return path.decode("utf-8", "surrogateescape")


def _stream(file: BinaryIO, most: int) -> BinaryIO:
    """The content of a file, plain or of gzip, which may be `most` bytes long."""
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    pieces = _inflated(file) if packed else iter(lambda: file.read(CHUNK), b"")
    return io.BufferedReader(_Pieces(pieces, most), CHUNK)


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file, which may be `most` bytes long."""

    def __init__(self, pieces: Iterator[bytes], most: int):
        self._pieces, self._left, self._held = pieces, most, b""

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any, /) -> int:
        if not self._held:
            self._held = next(self._pieces, b"")
            self._left -= len(self._held)
            if self._left < 0:
                raise ValueError("it inflates to more than pictures do")
        count = min(len(room), len(self._held))
        room[:count], self._held = self._held[:count], self._held[count:]
        return count


def _exactly(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError("it ends early")
    return found


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """The content of gzip's streams, of which a file has one or more.

    Raises:
      zlib.error: when a checksum differs.
      EOFError: when one ends early.
    """
    rest = file.read(CHUNK)
    while rest:
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        while not inflate.eof:
            piece = inflate.decompress(rest, CHUNK)
            rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            rest = rest or file.read(CHUNK)
            if not (piece or rest or inflate.eof):
                raise EOFError("it ends early")
            if piece:
                yield piece
        while not (rest := rest.lstrip(b"\0")) and (more := file.read(CHUNK)):
            rest = more


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
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            left = RATIO * path.stat().st_size + SPARE
            _check(file.metadata, path.stat().st_size)
            present = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=ROWS, columns=present):
                left -= batch.nbytes
                if left < 0:
                    raise ValueError("it inflates to more than pictures do")
                yield from batch.to_pylist()
    except Exception as error:  # on damaged files it may raise anything
        raise UserError(
            f"{path}: damaged or not a parquet file ({brief(error)}); copy or download it again"
        ) from error


def _check(metadata: Any, size: int) -> None:
    """Raises a ValueError for rows and columns that cannot be those of a file of this size."""
    if not 0 <= metadata.num_rows <= MOST_MEMBERS:
        raise ValueError(f"{metadata.num_rows:,} rows, expected {MOST_MEMBERS:,} at most")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            packed, whole = column.total_compressed_size, column.total_uncompressed_size
            most = min(RATIO * packed + SPARE, MOST_DECLARED)
            if not 0 <= packed <= size or not 0 <= whole <= most:
                raise ValueError(f"a column of {whole:,} bytes in a file of {size:,}")
