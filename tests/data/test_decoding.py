"""One decoder for training and for the samples of an evaluation: modes, and odd metadata."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from experiments import data, evaluate
from experiments.data import decoding
from experiments.terminal.errors import UserError
from jaxddim.runs.config import Config, DataConfig
from jaxddim.runs.trained import Trained

SIZE = 12
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def noise(channels=(), dtype=np.uint8):
    levels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (SIZE, SIZE, *channels))
    return levels.astype(dtype)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name, content, checksum=None):
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", checksum)


def png(*more):
    """The picture `colour` with more chunks after its header."""
    whole = encoded(Image.fromarray(noise((3,))))
    header = len(SIGNATURE) + 25
    return whole[:header] + b"".join(more) + whole[header:]


def jpeg(*segments):
    """A smooth picture with more segments (marker, content) at its start."""
    coarse = Image.fromarray(noise((3,))[:3, :3])
    whole = encoded(coarse.resize((SIZE, SIZE)), "JPEG", quality=95)
    more = [struct.pack(">BBH", 0xFF, mark, len(text) + 2) + text for mark, text in segments]
    return whole[:2] + b"".join(more) + whole[2:]


def exif(orientation=6):
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def grey16(**options):
    return encoded(Image.fromarray(noise(dtype=np.uint16)), **options)


def indexed(**options):
    return encoded(Image.fromarray(noise((3,))).quantize(16), **options)


colour, alpha = Image.fromarray(noise((3,))), Image.fromarray(noise((4,)), "RGBA")
MODES = {
    "rgb.png": encoded(colour),
    "rgb.PNG": encoded(colour),
    "rgb.jpg": jpeg(),
    "rgb.JPEG": jpeg(),
    "rgb.webp": encoded(colour, "WEBP", lossless=True),
    "rgb.bmp": encoded(colour, "BMP"),
    "rgb.tiff": encoded(colour, "TIFF"),
    "no_suffix": encoded(colour),
    "grey.png": encoded(Image.fromarray(noise())),
    "grey-transparent.png": encoded(Image.fromarray(noise()), transparency=100),
    "bits.png": encoded(Image.fromarray(noise() > 99)),
    "grey16.png": grey16(),
    "grey16-transparent.png": grey16(transparency=int(noise(dtype=np.uint16)[0, 0])),
    "grey16.tiff": encoded(Image.fromarray(noise(dtype=np.uint16)), "TIFF"),
    "float.tiff": encoded(Image.fromarray(noise().astype(np.float32)), "TIFF"),
    "grey-alpha.png": encoded(alpha.convert("LA")),
    "alpha.png": encoded(alpha),
    "alpha.webp": encoded(alpha, "WEBP", lossless=True),
    "rgb-transparent.png": encoded(colour, transparency=tuple(noise((3,))[0, 0].tolist())),
    "palette.png": indexed(),
    "palette-transparent.png": indexed(transparency=3),
    "palette-alpha.png": indexed(transparency=bytes(range(0, 160, 10))),
    "palette.gif": encoded(colour.quantize(16), "GIF"),
    "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG", quality=95),
    **{f"turned-{n}.png": encoded(colour, exif=exif(n)) for n in range(9)},
    "turned.jpg": encoded(colour, "JPEG", quality=95, exif=exif()),
    "turned.webp": encoded(colour, "WEBP", lossless=True, exif=exif()),
    "turned.tiff": encoded(colour, "TIFF", exif=exif()),
}


def training(path):
    config = DataConfig(source="folder", path=str(path), image_size=SIZE)
    return data.load(config)


def samples(path, notes=None):
    run = Trained(Config(data=DataConfig(image_size=SIZE)), None, None, None, 0)
    config = evaluate.EvaluateConfig(samples=str(path))
    return evaluate.read(config, run, [] if notes is None else notes)


def folder(path, content, copies=4):
    """A folder with the same picture often enough for an evaluation."""
    path.mkdir()
    for number in range(copies):
        (path / f"{number}-{content[0]}").write_bytes(content[1])
    return path


@pytest.mark.parametrize("name", MODES)
def test_training_and_evaluation_read_a_picture_in_one_way(tmp_path, name):
    path = folder(tmp_path / "p", (name, MODES[name]))
    trained, measured = training(path).images, samples(path)
    assert len(trained) == len(measured) == 4
    np.testing.assert_array_equal(trained, measured)
    assert measured.dtype == np.uint8
    assert measured.std() > 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_turns_are_those_of_pillow(orientation):
    from PIL import ImageOps

    content = encoded(colour, exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decoding.decode(io.BytesIO(content), None).image, expected)


def test_one_transparent_level_of_sixteen_bits_is_white():
    levels = noise(dtype=np.uint16)
    found = decoding.decode(io.BytesIO(MODES["grey16-transparent.png"]), None).image
    expected = np.where(levels == levels[0, 0], 255, np.round(levels / 257))
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))


# -- metadata that is odd but that no pixel depends on --------------------------------------

LONG = zlib.compress(b" " * 3 * 2**20)
BIG = b" " * (3 * 2**20)
NONSENSE = b"Exif\0\0" + b"II*\0\xff\xff\xff\x7f" + b"\xff" * 40
TWISTED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0"
METADATA = {
    "png-ztxt": png(chunk(b"zTXt", b"a\0\0" + LONG)),
    "png-itxt": png(chunk(b"iTXt", b"a\0\1\0\0\0" + LONG)),
    "png-many-texts": png(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9)))] * 70),
    "png-text": png(chunk(b"tEXt", b"a\0" + BIG)),
    "png-iccp": png(chunk(b"iCCP", b"a\0\0" + LONG)),
    "png-iccp-nonsense": png(chunk(b"iCCP", b"a\0\0nonsense")),
    "png-iccp-method": png(chunk(b"iCCP", b"a\0\7" + LONG)),
    "png-iccp-empty": png(chunk(b"iCCP", b"")),
    "png-text-checksum": png(chunk(b"tEXt", b"a\0b", checksum=7)),
    "png-ztxt-method": png(chunk(b"zTXt", b"a\0\7" + LONG)),
    "png-exif": png(chunk(b"eXIf", NONSENSE[6:])),
    "png-exif-short": png(chunk(b"eXIf", b"MM")),
    "png-exif-twisted": png(chunk(b"eXIf", TWISTED[6:])),
    "png-raw-exif": png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nzz")),
    "png-phys": png(chunk(b"pHYs", b"\0")),
    "png-gamma": png(chunk(b"gAMA", b"")),
    "png-chroma": png(chunk(b"cHRM", b"\0" * 5)),
    "jpeg-exif": jpeg((0xE1, NONSENSE)),
    "jpeg-exif-short": jpeg((0xE1, b"Exif\0\0M")),
    "jpeg-exif-twisted": jpeg((0xE1, TWISTED)),
    "jpeg-xmp": jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe")),
    "jpeg-icc": jpeg((0xE2, b"ICC_PROFILE\0\x01\x05" + b"\xff" * 60000)),
    "jpeg-icc-short": jpeg((0xE2, b"ICC_PROFILE\0")),
    "jpeg-mpf": jpeg((0xE2, b"MPF\0" + b"\xff" * 50)),
    "jpeg-photoshop": jpeg((0xED, b"Photoshop 3.0\x008BIM\x03")),
    "jpeg-adobe-short": jpeg((0xEE, b"Ad")),
    "jpeg-comment": jpeg((0xFE, b"\xff" * 65000)),
    "webp-exif": encoded(colour, "WEBP", lossless=True, exif=NONSENSE),
    "webp-icc": encoded(colour, "WEBP", lossless=True, icc_profile=b"no profile"),
}


@pytest.mark.parametrize("name", METADATA)
def test_odd_metadata_costs_no_picture_and_no_pixel(tmp_path, name):
    plain = jpeg() if name.startswith("jpeg") else encoded(colour)
    expected = decoding.decode(io.BytesIO(plain), (SIZE, SIZE)).image
    path = folder(tmp_path / "p", (f"{name}.{name.partition('-')[0]}", METADATA[name]))
    for images in (training(path).images, samples(path)):
        assert len(images) == 4
        for image in images:
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", [name for name in METADATA if "exif" not in name])
def test_a_turn_is_still_undone_beside_odd_metadata(name):
    content = METADATA[name]
    if content.startswith(SIGNATURE):
        header = len(SIGNATURE) + 25
        turned = content[:header] + chunk(b"eXIf", exif()[6:]) + content[header:]
    elif content.startswith(b"\xff\xd8"):
        whole = struct.pack(">BBH", 0xFF, 0xE1, len(exif()) + 2) + exif()
        turned = content[:2] + whole + content[2:]
    else:
        pytest.skip("WebP is not taken apart")
    upright = decoding.decode(io.BytesIO(content), None).image
    found = decoding.decode(io.BytesIO(turned), None)
    np.testing.assert_array_equal(found.image, np.rot90(upright, -1))
    assert found.remark == "rotated by EXIF"


@pytest.mark.parametrize("cut", [40, 60, 200, -60])
@pytest.mark.parametrize("name", ["png-ztxt", "png-text-checksum", "jpeg-exif", "jpeg-icc-short"])
def test_what_is_damaged_besides_is_still_damaged(name, cut):
    start = METADATA[name].find(b"IDAT") if name.startswith("png") else 0
    content = METADATA[name]
    content = content[: start + cut] if cut > 0 else content[:cut]
    assert decoding.decode(io.BytesIO(content), (SIZE, SIZE)).image is None


# -- folders of samples --------------------------------------------------------------------


def test_every_kind_of_picture_counts_and_hidden_files_do_not(tmp_path):
    path, notes = folder(tmp_path / "p", ("a.png", MODES["rgb.png"])), []
    for name in ("b.PNG", "c.webp", "d.jpg"):
        (path / name).write_bytes(MODES[f"rgb.{name.partition('.')[2]}"])
    for name in ("._a.png", ".hidden.png", ".DS_Store"):
        (path / name).write_bytes(b"no picture")
    (path / "sub.png").mkdir()
    assert len(samples(path, notes)) == 7
    assert notes == []


def test_other_files_beside_samples_are_noted(tmp_path):
    path, notes = folder(tmp_path / "p", ("a.png", MODES["rgb.png"])), []
    for name in ("readme.txt", "a.json", "[x] \udcff"):
        (path / name).write_text("no picture")
    assert len(samples(path, notes)) == 4
    (note,) = notes
    assert "skipped 3 ([x] \\udcff, a.json, readme.txt), no images" in note


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("z.png", b"no picture", "z.png: not an image"),
        ("z.JPG", b"", "z.JPG: not an image"),
        ("z.png", MODES["rgb.png"][:90], "z.png: damaged"),
        ("z.png", encoded(Image.new("RGB", (9, 9))), "several sizes.*z.png: 9x9 pixels"),
    ],
)
def test_a_sample_that_cannot_be_measured_is_named(tmp_path, name, content, words):
    path = folder(tmp_path / "p", ("a.png", MODES["rgb.png"]))
    (path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        samples(path)


@pytest.mark.parametrize("name", ["a.npz", "a.NPZ"])
def test_an_array_is_read_whatever_the_case_of_its_suffix(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        np.savez(file, images=np.zeros((5, SIZE, SIZE, 3), np.uint8))
    assert samples(tmp_path / name).shape == (5, SIZE, SIZE, 3)


@pytest.mark.parametrize("name", ["steps_0.5", "a.npz", "b.png"])
def test_a_folder_is_one_whatever_its_name(tmp_path, name):
    assert len(samples(folder(tmp_path / name, ("a.png", MODES["rgb.png"])))) == 4


def test_text_chunks_that_pillow_writes_itself(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("prompt", "x" * 3 * 2**20, zip=True)
    path = folder(tmp_path / "p", ("a.png", encoded(colour, pnginfo=about)))
    np.testing.assert_array_equal(samples(path)[0], noise((3,)))


# -- runs inside a folder of pictures ------------------------------------------------------


def a_run(path):
    for name in ("checkpoints/20", "samples", "evaluations"):
        (path / name).mkdir(parents=True)
    (path / "samples" / "0000020.png").write_bytes(MODES["alpha.png"])
    (path / "evaluations" / "a-distances.png").write_bytes(MODES["alpha.png"])
    for name in ("config.json", "metrics.jsonl", "events.out.tfevents.1.host"):
        (path / name).write_text("{}")


@pytest.mark.parametrize("where", ["run", "runs/one", "a/b/c", "."])
def test_what_a_run_wrote_inside_the_folder_is_left_out_and_said(tmp_path, where):
    path = folder(tmp_path / "p", ("a.png", MODES["rgb.png"]))
    before = training(path)
    a_run(path / where)
    after = training(path)
    assert after.fingerprint == before.fingerprint
    (note,) = after.notes
    told = "checkpoints, evaluations, samples" if where == "." else where
    assert note == f"images: left out what runs have written ({told})"
    assert len(list((tmp_path / "XDG_CACHE_HOME" / "jaxddim").glob("folder-*"))) == 1


@pytest.mark.parametrize("name", ["config.json", "checkpoints"])
def test_half_of_what_makes_a_run_is_none(tmp_path, name):
    path = folder(tmp_path / "p", ("a.png", MODES["rgb.png"]))
    (path / "sub" / "x").mkdir(parents=True)
    (path / "sub" / name).write_text("{}") if "." in name else (path / "sub" / name).mkdir()
    (path / "sub" / "x" / "b.png").write_bytes(MODES["rgb.png"])
    assert len(training(path).images) == 5


def test_the_samples_of_a_run_may_be_asked_for_by_name(tmp_path):
    a_run(tmp_path / "run")
    assert len(training(tmp_path / "run" / "samples").images) == 1


def test_a_folder_of_runs_alone_is_the_users_mistake(tmp_path):
    a_run(tmp_path / "p" / "run")
    with pytest.raises(UserError, match=r"no files in it.*left out what runs have written \(run\)"):
        training(tmp_path / "p")


def short_adobe():
    return jpeg((0xEE, b"Adobe"))


def float_tiff(*more):
    levels = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    levels.flat[: len(more)] = more
    return encoded(Image.fromarray(levels), "TIFF")


def test_a_damaged_adobe_segment_costs_no_picture():
    found = decoding.decode(io.BytesIO(short_adobe()), None).image
    np.testing.assert_array_equal(found, decoding.decode(io.BytesIO(jpeg()), None).image)


@pytest.mark.parametrize("more", [(), (1.001,), (1.2, -0.1), (np.inf,), (-np.inf,), (np.nan,)])
def test_float_levels_in_0_to_1_are_seen_whatever_a_few_of_them_are(more):
    expected = decoding.decode(io.BytesIO(float_tiff()), None).image
    found = decoding.decode(io.BytesIO(float_tiff(*more)), None).image
    np.testing.assert_array_equal(found.reshape(-1, 3)[2:], expected.reshape(-1, 3)[2:])


def test_levels_of_32_bits_are_scaled_to_their_peak():
    levels = np.linspace(0, 2**31 - 1, SIZE * SIZE).astype(np.int32).reshape(SIZE, SIZE)
    found = decoding.decode(io.BytesIO(encoded(Image.fromarray(levels), "TIFF")), None).image
    expected = np.linspace(0, 255, SIZE * SIZE).round().reshape(SIZE, SIZE)
    np.testing.assert_allclose(found[..., 0], expected, atol=1)
