"""Pictures that are made to harm: refused, or read without what harms."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.test_decoding import SIGNATURE, chunk, encoded, jpeg, png
from tests.hostile.bounds import assert_cheap, assert_refused


def small(kind="PNG", mode="RGB", **options):
    return encoded(Image.new(mode, (64, 64), 9), kind, **options)


def png_of(width, height, depth=1, colour=0):
    """A PNG of zeros, which compresses to a thousandth."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + (width * depth * channels + 7) // 8)
    pack = zlib.compressobj(1)
    body = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """A JPEG whose header claims another size."""
    whole = bytearray(small("JPEG"))
    at = whole.index(b"\xff\xc0") + 5
    whole[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def directory(tags, count, at=0):
    """Entries of a TIFF that all claim `count` units at one place."""
    forms = [struct.pack("<HHII", tag, form, count, at) for tag, form in tags]
    return struct.pack("<H", len(forms)) + b"".join(forms) + bytes(4)


def tiff(entries):
    return b"II*\0" + struct.pack("<I", 8) + entries


ALL = [(tag, 7) for tag in range(1000, 40_000)]
EXIF = tiff(directory(ALL[:5000], 60_000))
GIF = small("GIF", "P")
GIF_HEAD = 13 + 3 * 256 if GIF[10] & 7 == 7 else 13 + (3 << 1 + (GIF[10] & 7))


def gif(inside):
    """A GIF with more bytes before its first frame."""
    return GIF[:GIF_HEAD] + inside + GIF[GIF_HEAD:]


def strips(form, count, side=64):
    """A TIFF of one pixel a strip."""
    numbers = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in numbers.items()]
    entries += [struct.pack("<HHII", tag, form, count, 200) for tag in (273, 279)]
    body = struct.pack("<H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    return tiff(body).ljust(200, b"\0") + bytes(count * {1: 1, 4: 4}[form])


def tiled(tile):
    """A TIFF of 64 x 64 pixels in one tile, which libtiff would allocate."""
    numbers = {256: 64, 257: 64, 258: 8, 259: 8, 262: 2, 277: 3, 322: tile, 323: tile, 324: 400}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items()]
    entries.append(struct.pack("<HHII", 325, 4, 1, 1000))
    body = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff(body).ljust(400, b"\0") + zlib.compress(bytes(10**6)).ljust(1000, b"\0")


def scans(count):
    """A progressive JPEG with its last scan many times."""
    whole = encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def bmp(compression):
    whole = bytearray(small("BMP", "P"))
    whole[30:34] = struct.pack("<I", compression)
    return bytes(whole)


TOO_LARGE = {
    "png of 88 million pixels": lambda: png_of(9400, 9400),
    "png of 4 billion pixels": lambda: SIGNATURE + chunk(
        b"IHDR", struct.pack(">IIBBBBB", 65_535, 65_535, 8, 2, 0, 0, 0)
    ) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b""),
    "jpeg of 88 million pixels": lambda: jpeg_of(9400, 9400),
    "jpeg of 4 billion pixels": lambda: jpeg_of(65_535, 65_535),
    "gif of 4 billion pixels": lambda: GIF[:6] + b"\xff" * 4 + GIF[10:],
    "bmp of 900 million pixels": lambda: small("BMP").replace(
        struct.pack("<ii", 64, 64), struct.pack("<ii", 30_000, 30_000)
    ),
    "ppm of 900 million pixels": lambda: b"P6 30000 30000 255\n" + bytes(1000),
    "webp of 268 million pixels": lambda: (
        b"RIFF\x20\0\0\0WEBPVP8L\x14\0\0\0\x2f\xff\xff\xff\x0f" + bytes(20)
    ),
    "webp of a canvas of 2^48": lambda: (
        b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(20)
    ),
    "webp of 268 million pixels, lossy": lambda: (
        b"RIFF\x20\0\0\0WEBPVP8 \x14\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(20)
    ),
    "tiff of 900 million pixels": lambda: strips(4, 1, 30_000),
}  # fmt: skip
COSTLY = {
    "png of a million chunks": (lambda: png(chunk(b"abcd", b"") * 10**6), "chunks"),
    "jpeg of a million segments": (
        lambda: jpeg()[:2] + b"\xff\xfe\0\2" * 10**6 + jpeg()[2:],
        "segments",
    ),
    "jpeg with bytes beside": (lambda: jpeg()[:20] + b"x" * 2 * 10**7 + jpeg()[20:], "besides"),
    "jpeg of fill bytes": (lambda: jpeg()[:2] + b"\xff" * 2 * 10**7 + jpeg()[2:], "besides"),
    "jpeg that never begins": (lambda: b"\xff\xd8\xff" + b"x" * 2 * 10**7, "besides"),
    "jpeg of 10,000 scans": (lambda: scans(10_000), "scans"),
    "gif of comments": (lambda: gif(b"!\xfe" + (b"\xff" + b"x" * 255) * 50_000 + b"\0"), "GIF"),
    "gif of empty comments": (lambda: gif(b"!\xfe\0" * 5_000_000), "GIF"),
    "gif with bytes beside": (lambda: gif(b"x" * 2 * 10**7), "GIF"),
    "tiff of tags at one place": (lambda: tiff(directory(ALL, 2**20)) + bytes(2**20), "TIFF"),
    "tiff of a tag of 4 GB": (lambda: tiff(directory([(700, 7)], 2**32 - 1)), "TIFF"),
    "tiff of 16 million strips": (lambda: strips(1, 2**24), "TIFF"),
    "tiff of 4 million strips": (lambda: strips(4, 2**22), "TIFF"),
    "tiff of a tile of 16,384": (lambda: tiled(16_384), "TIFF with larger tiles"),
    "tiff of a tile of 4 billion": (lambda: tiled(2**32 - 1), "TIFF with larger tiles"),
    "bmp of runs": (lambda: bmp(1), "slow"),
    "ppm of text": (lambda: b"P3 64 64 255\n" + b"9 " * 3 * 64**2, "not an image"),
    "ppm of odd levels": (lambda: b"P6 64 64 100\n" + bytes(3 * 64**2), "slow"),
}
STRANGE = {
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\nshowpage\n",
    "postscript.eps": b"\xc5\xd0\xd3\xc6" + bytes(30) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "wmf.png": b"\xd7\xcd\xc6\x9a\0\0" + bytes(100),
    "icon.png": encoded(Image.new("RGB", (16, 16)), "ICO"),
    "pcx.png": encoded(Image.new("RGB", (16, 16)), "PCX"),
    "fits.png": b"SIMPLE  =                    T" + bytes(3000),
    "jpeg2000.png": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "page.png": b"<html><svg onload='x'/></html>",
    "zip.png": b"PK\x03\x04" + bytes(100),
    "empty.png": b"",
    "zeros.png": bytes(10**6),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_one_of_too_many_pixels_is_refused_before_they_are_allocated(kind, place, server):
    (place / "a.png").write_bytes(TOO_LARGE[kind]())
    assert_refused(server.run("decoded", place / "a.png"), "too many pixels")
    assert_refused(server.run("streamed", place / "a.png"), "too many pixels")


@pytest.mark.parametrize("kind", COSTLY)
def test_one_that_costs_more_than_pictures_do_is_refused(kind, place, server):
    make, words = COSTLY[kind]
    (place / "a.png").write_bytes(make())
    assert_refused(server.run("decoded", place / "a.png"), words)


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_photograph_reaches_no_decoder(name, place, server, tmp_path):
    """PostScript would reach Ghostscript, whatever its name is."""
    (place / name).write_bytes(STRANGE[name])
    assert_refused(server.run("decoded", place / name), "not an image")


def test_ghostscript_is_not_started(place, server):
    home = server.home
    for name in ("gs", "gswin64c"):
        (home / "bin" / name).write_text(f"#!/bin/sh\ntouch {home}/started\n")
        (home / "bin" / name).chmod(0o755)
    for name in ("postscript.png", "postscript.eps"):
        (place / name).write_bytes(STRANGE[name])
        assert_refused(server.run("decoded", place / name), "not an image")
    assert not (home / "started").exists()


METADATA = {
    "jpeg": lambda: jpeg((0xE1, b"Exif\0\0" + EXIF[:60_000])),
    "jpeg, of several pictures": lambda: jpeg((0xE2, b"MPF\0" + EXIF[:60_000])),
    "jpeg, many": lambda: jpeg(*[(0xE1, b"Exif\0\0" + EXIF[:60_000])] * 50),
    "png": lambda: png(chunk(b"eXIf", tiff(directory(ALL, 10**6)) + bytes(10**6))),
    "png, as text": lambda: png(
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
            b"\nexif\n 9\n" + (b"Exif\0\0" + tiff(directory(ALL[:30_000], 10**5))).hex().encode()
        ))
    ),
    "webp": lambda: small("WEBP", exif=tiff(directory(ALL, 10**6)) + bytes(10**6)),
    "png of texts": lambda: png(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))] * 9),
    "png of a profile": lambda: png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28)))),
}  # fmt: skip


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_claims_more_than_it_holds_costs_no_picture(kind, place, server):
    (place / "a.png").write_bytes(METADATA[kind]())
    outcome = server.run("decoded", place / "a.png")
    assert outcome.how == "done", outcome
    assert_cheap(outcome)


LARGE = {
    "24 million pixels, jpeg": lambda: encoded(Image.new("RGB", (6000, 4000), "teal"), "JPEG"),
    "50 million pixels, jpeg": lambda: encoded(Image.new("RGB", (8192, 6144), "teal"), "JPEG"),
    "24 million pixels, png": lambda: png_of(6000, 4000, 8, 2),
    "50 million pixels, png": lambda: png_of(8192, 6144, 8, 2),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_photograph_is_read(kind, place, server):
    (place / "a.png").write_bytes(LARGE[kind]())
    outcome = server.run("decoded", place / "a.png")
    assert (outcome.how, outcome.text) == ("done", "(16, 16, 3)"), outcome
    assert_cheap(outcome)


@pytest.mark.parametrize("kind", ["I;16", "RGBA", "P"])
def test_a_large_photograph_of_another_mode_is_not_copied_as_a_whole(kind, place, server):
    """2.5 GB were taken for grey of 16 bits."""
    content = encoded(Image.new(kind, (5000, 4000)), compress_level=1)
    if kind == "P":
        content = encoded(Image.new(kind, (5000, 4000)), compress_level=1, transparency=0)
    (place / "a.png").write_bytes(content)
    outcome = server.run("decoded", place / "a.png")
    assert (outcome.how, outcome.text) == ("done", "(16, 16, 3)"), outcome
    assert_cheap(outcome)


# -- files and folders ---------------------------------------------------------------------


def sparse(path, size, start=b""):
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


@pytest.mark.parametrize("start", [b"", SIGNATURE, b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0", b"BM"])
def test_a_file_of_2_gb_of_holes_is_not_read(start, place, server):
    sparse(place / "a.png", 2**31, start)
    words = "at most 268,435,456 are read" if start else "not an image"
    assert_refused(server.run("decoded", place / "a.png"), words)


def pipe(place):
    os.mkfifo(place / "a.png")


def device(place):
    (place / "a.png").symlink_to("/dev/zero")


def holes(place):
    sparse(place / "a.png", 2**31, SIGNATURE)


def processes(place):
    (place / "a").symlink_to("/proc")


def around(place):
    (place / "a").symlink_to("/")
    (place / "b").symlink_to("..")


def each_other(place):
    (place / "a").mkdir()
    (place / "a" / "b").symlink_to("../a")
    (place / "c").symlink_to("c")


FOLDERS = {
    pipe: "no files in it",
    device: "no files in it",
    holes: "no usable image: .*2,147,483,648 bytes, at most",
    processes: r"no files in it \(cannot read a \(a folder of the system\)\)",
    around: "no files in it",
    each_other: "no files in it",
}


@pytest.mark.parametrize("make", FOLDERS)
def test_a_folder_of_what_is_no_picture_is_refused(make, place, server, tmp_path):
    make(place)
    cache = place.parent / "inside" / ".cache"
    assert_refused(server.run("loaded", place, cache), FOLDERS[make])


@pytest.mark.parametrize("make", FOLDERS)
def test_beside_it_pictures_are_read(make, place, server):
    make(place)
    for name in ("[", "x\n\x1b[31m", "\udcff"):
        (place / name).mkdir()
        (place / name / "bold].png").write_bytes(small())
    outcome = server.run("loaded", place, place / ".cache")
    assert outcome.how == "done" and outcome.text.startswith("(3, "), outcome
    assert_cheap(outcome)


def test_noise_is_decoded_in_bands_as_in_one_piece():
    """Bands begin at rows that hold a million pixels; the picture has some of them."""
    from experiments.data import decoding

    levels = np.random.default_rng(0).integers(0, 2**16, (700, 4000)).astype(np.uint16)
    found = decoding.decode(io.BytesIO(encoded(Image.fromarray(levels))), None, 1).image
    np.testing.assert_array_equal(found[..., 0], np.round(levels / 257))
    rgba = np.random.default_rng(1).integers(0, 256, (700, 4000, 4), np.uint8)
    found = decoding.decode(io.BytesIO(encoded(Image.fromarray(rgba))), None).image
    share = rgba[..., 3:] / 255
    np.testing.assert_allclose(found, rgba[..., :3] * share + 255 * (1 - share), atol=1)
