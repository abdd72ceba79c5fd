"""Archives, annotations, parquet and CIFAR-10 files that are cut, damaged or made to harm."""

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zlib

import numpy as np
import pytest
import scipy.io

from experiments.data.sources import cifar10, matlab
from tests.data.test_stanford_cars import annotations, as_published, cifar_files, tarred
from tests.hostile.bounds import assert_cheap, assert_refused
from tests.hostile.test_pictures import sparse

FILES = {f"cars_train/{i:05d}.jpg": os.urandom(3000) for i in range(20)}
PLAIN = tarred(FILES, "w")
PACKED = gzip.compress(PLAIN)
ZEROS = gzip.compress(bytes(2**26))


def header(name="a.jpg", size=0, kind=tarfile.REGTYPE, **more):
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for field, value in more.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def flipped(content, at, bit=4):
    changed = bytearray(content)
    changed[at] ^= bit
    return bytes(changed)


def pax(**records):
    """A header of records, in the format of Python's own writer."""
    lines = b""
    for name, value in records.items():
        line = f" {name}={value}\n".encode()
        length = len(line) + len(str(len(line) + 3))
        lines += str(length).encode() + line
    return header("pax", len(lines), tarfile.XHDTYPE) + lines.ljust(
        -(-len(lines) // 512) * 512, b"\0"
    )


END = bytes(1024)
ARCHIVES = {
    "nothing": lambda: b"",
    "text": lambda: b"no archive" * 1000,
    "cut between two members": lambda: PLAIN[: 10 * 3584],
    "cut between two members, packed": lambda: gzip.compress(PLAIN[: 10 * 3584]),
    "cut before its end": lambda: PLAIN[: 20 * 3584],
    "cut within a header": lambda: PLAIN[: 10 * 3584 + 100],
    "cut within a picture": lambda: PLAIN[: 10 * 3584 + 600],
    "cut in gzip": lambda: PACKED[: len(PACKED) // 2],
    "cut in gzip's checksum": lambda: PACKED[:-5],
    "without gzip's length": lambda: PACKED[:-4],
    "another checksum of gzip": lambda: flipped(PACKED, -6),
    "another length of gzip": lambda: flipped(PACKED, -2),
    "a bit of gzip's data": lambda: flipped(PACKED, len(PACKED) // 2),
    "bytes after gzip": lambda: PACKED + b"more",
    "a bit of a name": lambda: flipped(PLAIN, 10 * 3584 + 3),
    "a bit of a size": lambda: flipped(PLAIN, 10 * 3584 + 130),
    "a bit of a type": lambda: flipped(PLAIN, 10 * 3584 + 156),
    "a bit of a checksum": lambda: flipped(PLAIN, 10 * 3584 + 150),
    "a bit of the first header": lambda: flipped(PLAIN, 3),
    "a bit of a header, packed": lambda: gzip.compress(flipped(PLAIN, 10 * 3584 + 3)),
    "a header lost": lambda: PLAIN[: 10 * 3584] + bytes(512) + PLAIN[10 * 3584 + 512 :],
    "two archives": lambda: PLAIN + PLAIN,
    "64 GB of zeros": lambda: ZEROS * 1000,
    "a picture of 6 GB": lambda: gzip.compress(header(size=6 * 2**30)) + ZEROS * 100,
    "a picture of 2^60": lambda: header(size=2**60) + END,
    "a picture of a negative size": lambda: header().replace(b"0" * 11, b"\xff" * 11) + END,
    "a name of 6 GB": lambda: gzip.compress(
        header(size=6 * 2**30, kind=tarfile.GNUTYPE_LONGNAME)
    ) + ZEROS * 100,
    "records of 6 GB": lambda: gzip.compress(header(size=6 * 2**30, kind=tarfile.XHDTYPE))
    + ZEROS * 100,
    "a file with holes": lambda: header(size=10, kind=tarfile.GNUTYPE_SPARSE) + END,
    "a file with holes, by records": lambda: pax(**{"GNU.sparse.major": 1, "GNU.sparse.minor": 0})
    + header(size=512) + b"9" * 512 + END,
    "a size in records": lambda: pax(size=10**15) + header(size=512) + bytes(512) + END,
    "records that are none": lambda: header("pax", 512, tarfile.XHDTYPE) + b"0 a=b\n" * 85 + END,
    "records without an end": lambda: header("pax", 512, tarfile.XHDTYPE) + b"9" * 512 + END,
    "a million members": lambda: gzip.compress(header() * 1000) * 1000 + gzip.compress(END),
    "a million links": lambda: gzip.compress(header(kind=tarfile.SYMTYPE) * 1000) * 1000,
    "xz": lambda: lzma.compress(PLAIN),
    "a name in gzip's header of 20 MB": lambda: (
        PACKED[:3] + b"\x08" + PACKED[4:10] + b"x" * 2 * 10**7
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_is_damaged_or_too_large_is_refused(kind, place, server):
    (place / "cars_train.tgz").write_bytes(ARCHIVES[kind]())
    assert_refused(server.run("unpacked", place / "cars_train.tgz"), "damaged, incomplete or not")


def test_the_good_archives_among_them_are_read(place, server):
    for content in (PLAIN, PACKED, PACKED + b"\0" * 1000, PLAIN[: 20 * 3584] + END):
        (place / "a.tgz").write_bytes(content)
        assert server.run("unpacked", place / "a.tgz").text == str(list(FILES))


def test_an_archive_that_is_cut_between_pictures_is_not_a_smaller_data_set(place, server):
    for name, content in as_published().items():
        (place / name).write_bytes(content)
    cut = gzip.decompress((place / "cars_train.tgz").read_bytes())
    (place / "cars_train.tgz").write_bytes(gzip.compress(cut[: cut.index(b"00003.jpg") - 11]))
    outcome = server.run("cars", place, place / ".tfds")
    assert_refused(outcome, "cars_train.tgz: damaged, incomplete")
    assert not list(place.glob(".tfds/**/*.array_record*"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_devices_and_names_outside_are_harmless(mode, place, server):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("../../link")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name in ("../../out.jpg", "/tmp/out.jpg", "link/out.jpg", "x" * 300, "[/bold].jpg"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    (place / "a.tar").write_bytes(file.getvalue())
    outcome = server.run("unpacked", place / "a.tar")
    expected = ["../../out.jpg", "/tmp/out.jpg", "link/out.jpg", "x" * 300, "[/bold].jpg"]
    assert (outcome.how, outcome.text) == ("done", str(expected))


@pytest.mark.parametrize("start", [b"", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", header(size=2**31)])
def test_an_archive_of_2_gb_of_holes_is_refused(start, place, server):
    sparse(place / "cars_train.tgz", 2**31, start)
    assert_refused(server.run("unpacked", place / "cars_train.tgz"), "damaged")


def test_a_pipe_is_no_archive(place, server):
    os.mkfifo(place / "cars_train.tgz")
    assert_refused(server.run("unpacked", place / "cars_train.tgz"), "pipe or a device")


# -- annotations -----------------------------------------------------------------------


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind, sizes, *parts, name=b"annotations"):
    head = element(6, struct.pack("<II", kind, 0))
    head += element(5, struct.pack(f"<{len(sizes)}i", *sizes)) + element(1, name)
    return element(14, head + b"".join(parts))


def text(value):
    return matrix(4, (1, len(value)), element(16, value.encode()), name=b"")


def number(value):
    return matrix(6, (1, 1), element(9, struct.pack("<d", value)), name=b"")


def table(sizes, *values, fields=(b"fname", b"class")):
    names = b"".join(field.ljust(8, b"\0") for field in fields)
    return matrix(2, sizes, element(5, struct.pack("<i", 8)), element(1, names), *values)


def mat(*elements):
    return bytes(124) + b"\0\1IM" + b"".join(elements)


def packed(content):
    return struct.pack("<II", 15, len(content)) + content


GOOD = mat(table((1, 1), text("00001.jpg"), number(5.0)))
MATS = {
    "nothing": lambda: b"",
    "text": lambda: b"no annotations" * 100,
    "version 4": lambda: struct.pack("<5I", 0, 2, 2, 0, 2) + b"a\0" + bytes(100),
    "version 7.3": lambda: b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400),
    "cut": lambda: GOOD[:-30],
    "of another name": lambda: mat(matrix(2, (1, 1), name=b"other")),
    "a table of 2^31 records": lambda: mat(table((2**31 - 1, 1))),
    "a table of 2^62 records": lambda: mat(table((2**31 - 1, 2**31 - 1))),
    "a table of -1 records": lambda: mat(table((-1, 1))),
    "a table of many axes": lambda: mat(table((1,) * 1000)),
    "fewer records than it says": lambda: mat(table((1, 9), text("a"), number(1))),
    "more records than it says": lambda: mat(table((1, 1), text("a"), number(1), number(2))),
    "an element of 4 GB": lambda: mat(struct.pack("<II", 14, 2**32 - 1) + bytes(100)),
    "a short element that is long": lambda: mat(struct.pack("<HH", 14, 60_000) + bytes(100)),
    "a cell": lambda: mat(matrix(1, (2**31 - 1, 1))),
    "an object": lambda: mat(matrix(17, (1, 1), b"\0" * 80)),
    "a name that is a number": lambda: mat(table((1, 1), number(1), number(1))),
    "a name that is missing": lambda: mat(table((1, 1), number(1), fields=(b"class",))),
    "a class that is a text": lambda: mat(table((1, 1), text("a"), text("b"))),
    "a class that is no number": lambda: mat(table((1, 1), text("a"), number(float("nan")))),
    "a class without an end": lambda: mat(table((1, 1), text("a"), number(float("inf")))),
    "a class of a cell": lambda: mat(table((1, 1), text("a"), matrix(1, (1, 1)))),
    "a text that is none": lambda: mat(
        table((1, 1), matrix(4, (1, 1), element(16, b"\xff")), number(1))
    ),
    "fields without names": lambda: mat(
        matrix(2, (1, 1), element(5, struct.pack("<i", 0)), element(1, b"fname"))
    ),
    "a million fields": lambda: mat(table((1, 1), fields=(b"f",) * 10**6)),
    "32 MB of zeros": lambda: mat(packed(zlib.compress(bytes(2**25)))),
    "a packed element that is cut": lambda: mat(packed(zlib.compress(GOOD[128:])[:-4])),
    "a packed element of nothing": lambda: mat(packed(zlib.compress(b""))),
    "larger than annotations": lambda: GOOD + bytes(2**25),
    "a pickle": lambda: pickle.dumps([1]),
}


@pytest.mark.parametrize("kind", MATS)
def test_annotations_that_are_damaged_are_refused(kind, place, server):
    (place / "car_ims").mkdir()
    (place / "car_ims" / "a.jpg").write_bytes(b"x")
    (place / "cars_annos.mat").write_bytes(MATS[kind]())
    assert_refused(server.run("annotations", place), "cars_annos.mat")


def test_annotations_are_read_as_scipy_reads_them():
    def found(content):
        return matlab.records(content, "annotations")

    assert found(GOOD) == [{"fname": "00001.jpg", "class": 5.0}]
    for content in (annotations("train"), annotations("test", labels=False)):
        theirs = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["annotations"]
        for ours, record in zip(found(content), theirs, strict=True):
            assert tuple(ours) == record.dtype.names
            assert list(ours.values()) == [np.asarray(value).item() for value in record]


@pytest.mark.parametrize("compressed", [True, False])
def test_numbers_and_texts_of_every_type(compressed):
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
    values = [*(np.dtype(kind).type(100) for kind in kinds), "car", "Citroën", "", 2.5]
    table = np.zeros((1, len(values)), dtype=[("value", object), ("none", object)])
    for i, value in enumerate(values):
        table[0, i] = value, np.arange(3)
    file = io.BytesIO()
    scipy.io.savemat(file, {"x": 1, "annotations": table}, do_compression=compressed)
    found = matlab.records(file.getvalue(), "annotations")
    assert [one["value"] or "" for one in found] == values
    assert {one["none"] for one in found} == {None}


# -- parquet ---------------------------------------------------------------------------


def shard(images, labels=None, **options):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image": images} | ({"label": labels} if labels else {})
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


def repeated(size, count):
    """One picture of zeros, very often."""
    import pyarrow

    number = pyarrow.array(np.zeros(count, np.int32))
    return pyarrow.DictionaryArray.from_arrays(number, pyarrow.array([bytes(size)]))


PARQUETS = {
    "nothing": lambda: b"",
    "its first bytes": lambda: b"PAR1",
    "without a footer": lambda: shard([b"a"] * 9)[:-40],
    "a footer of 4 GB": lambda: b"PAR1" + bytes(100) + b"\xff\xff\xff\xffPAR1",
    "a footer of zeros": lambda: b"PAR1" + bytes(100) + struct.pack("<I", 90) + b"PAR1",
    "a page lost": lambda: b"PAR1" + bytes(60) + shard([os.urandom(99)] * 9)[64:],
    "a picture 100,000 times": lambda: shard(repeated(2**20, 50_000), compression="zstd"),
    "a billion pictures": lambda: shard(repeated(1, 10**6), compression="zstd"),
    "pictures of zeros": lambda: shard(
        [bytes(2**23)] * 12, compression="zstd", use_dictionary=False
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARQUETS)
def test_a_shard_that_is_damaged_or_too_large_is_refused(kind, place, server):
    (place / "train.parquet").write_bytes(PARQUETS[kind]())
    assert_refused(server.run("shards", place / "train.parquet"), "damaged or not a parquet file")


def test_every_bit_of_a_shards_footer_may_be_damaged(place, server):
    whole = shard([os.urandom(50) for _ in range(9)], [1] * 9)
    for at in range(len(whole) - 700, len(whole), 19):
        (place / "train.parquet").write_bytes(flipped(whole, at, 1 << at % 8))
        assert_cheap(server.run("shards", place / "train.parquet"))


# -- CIFAR-10 ----------------------------------------------------------------------------


class Trap:
    """Pickled, it makes a folder when it is read."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def changed(**files):
    return {
        name.rpartition("/")[2]: files.get(name.rpartition("/")[2].removesuffix(".bin"), content)
        for name, content in cifar_files().items()
    }


CIFARS = {
    "a label of 255": lambda: changed(test_batch=b"\xff" + bytes(3072)),
    "cut": lambda: changed(data_batch_3=bytes(3000)),
    "empty": lambda: changed(data_batch_3=b""),
    "pickles": lambda: changed(data_batch_1=pickle.dumps(Trap())),
    "an archive that is cut": lambda: {cifar10.ARCHIVE: tarred(changed())[:-20]},
    "an archive of pickles": lambda: {
        cifar10.ARCHIVE: tarred({"cifar-10-batches-py/data_batch_1": pickle.dumps(Trap())})
    },
    "an archive of large files": lambda: {
        cifar10.ARCHIVE: gzip.compress(header("a.bin", 2**22) + bytes(2**22)) * 200
    },
}


@pytest.mark.parametrize("kind", CIFARS)
def test_records_of_cifar_that_are_damaged_are_refused(kind, place, server):
    for name, content in CIFARS[kind]().items():
        (place / name).write_bytes(content)
    assert_refused(server.run("cifar", place, place / ".tfds"), "damaged|missing or cut|labels")
    assert not list(place.rglob("executed"))


def test_records_of_2_gb_of_holes_are_refused(place, server):
    for name, content in changed().items():
        (place / name).write_bytes(content)
    sparse(place / "data_batch_3.bin", 2**31)
    assert_refused(server.run("cifar", place, place / ".tfds"), "data_batch_3.bin cannot be read")
