"""Folders of pictures, including hostile files."""

import io
import os
import time

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.data import cache, decoding
from experiments.data.sources import folder
from experiments.terminal.errors import UserError
from jaxddim.files import reading
from jaxddim.runs.config import DataConfig

SIZE = 16
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


def load(path, **changes):
    return data.load(DataConfig(source="folder", path=str(path), image_size=SIZE, **changes))


def picture(colour=RED, size=(40, 30), mode="RGB"):
    return Image.new("RGB", size, colour).convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content, size=SIZE):
    return decoding.decode(io.BytesIO(content), (size, size))


def halves(left=RED, right=BLUE):
    """40x20, red on the left and blue on the right."""
    image = Image.new("RGB", (40, 20), right)
    image.paste(left, (0, 0, 20, 20))
    return image


def close(actual, colour, tolerance=6):
    return bool(np.all(np.abs(np.asarray(actual, int) - colour) <= tolerance))


# -- decoding ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (encoded(picture()), ""),
        (encoded(picture(), "JPEG", quality=95), ""),
        (encoded(picture(mode="CMYK"), "JPEG", quality=95), "CMYK"),
        (encoded(picture(mode="P"), "GIF"), "palette"),
        (encoded(picture(mode="RGBA")), "transparent"),
    ],
    ids=["png", "jpeg", "cmyk", "palette", "alpha"],
)
def test_a_red_picture_of_any_mode_decodes_to_red(content, remark):
    result = decoded(content)
    assert result.image.shape == (SIZE, SIZE, 3)
    assert result.image.dtype == np.uint8
    assert close(result.image, RED)
    assert result.remark == remark


@pytest.mark.parametrize("mode", ["L", "1", "LA", "I;16"])
def test_grey_levels_of_any_depth_become_three_equal_channels(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((30, 40), 0x8080, np.uint16))
    else:
        image = Image.new(mode, (40, 30), {"1": 1, "LA": (128, 255)}.get(mode, 128))
    result = decoded(encoded(image))
    assert close(result.image, 255 if mode == "1" else 128, tolerance=1)
    assert result.remark


def test_transparent_parts_are_white_and_half_transparent_ones_half_white():
    assert close(decoded(encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 0)))).image, 255, 0)
    half = decoded(encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 128)))).image
    assert close(half, 127, tolerance=1)


def test_a_palette_with_a_transparent_colour_is_laid_over_white():
    image = halves().quantize(2)
    content = encoded(image, "PNG", transparency=image.getpixel((0, 0)))
    left, right = np.split(decoded(content).image, 2, axis=1)
    assert close(left[:, :-2], 255)
    assert close(right[:, 2:], BLUE)


def test_exif_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise
    result = decoded(encoded(halves(), "JPEG", quality=95, exif=exif))
    upper, lower = np.split(result.image, 2)
    assert close(upper[:-3], RED)
    assert close(lower[3:], BLUE)
    assert result.remark == "rotated by EXIF"


def test_resizing_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    for kind in ("PNG", "JPEG"):
        assert close(decoded(encoded(Image.fromarray(stripes), kind)).image, 127.5, tolerance=4)


@pytest.mark.parametrize(("side", "left"), [(63, 63), (64, 32), (144, 36), (252, 63), (800, 100)])
def test_a_jpeg_is_shrunk_while_decoding_to_no_less_than_twice_the_size(side, left, monkeypatch):
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8))
    content = encoded(coarse.resize((2 * side, side)), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(content)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    resize, sides = Image.Image.resize, []

    def watched(image, *args):
        sides.append(min(image.size))
        return resize(image, *args)

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert close(decoded(content).image, whole, tolerance=3)
    assert sides == [left]


def test_the_whole_picture_is_kept_and_squeezed_to_a_square():
    image = decoded(encoded(halves())).image
    left, right = image[:, : SIZE // 2 - 2], image[:, SIZE // 2 + 2 :]
    assert close(left, RED)
    assert close(right, BLUE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encoded(picture(), "JPEG")[:400], "damaged"),
        (encoded(Image.effect_noise((64, 64), 90))[:900], "damaged"),
        (encoded(picture(size=(1, 1))), "1x1 pixels"),
        (encoded(picture(size=(900, 1))), "1x900 pixels"),
    ],
    ids=["empty", "text", "short-jpeg", "short-png", "pixel", "line"],
)
def test_useless_files_are_refused_with_a_reason(content, reason):
    result = decoded(content)
    assert result.image is None
    assert result.remark.startswith(reason)


# -- trees -------------------------------------------------------------------------


def test_a_tree_of_hostile_files_is_read_and_summed_up_in_one_line(tmp_path):
    good = tmp_path / "a" / "b"
    good.mkdir(parents=True)
    (good / "good.png").write_bytes(encoded(picture()))
    (good / "alpha.png").write_bytes(encoded(picture(mode="RGBA")))
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "short.jpg").write_bytes(encoded(picture(), "JPEG")[:400])
    (tmp_path / "bomb.png").write_bytes(encoded(Image.new("1", (9500, 9500))))
    (tmp_path / ".hidden.png").write_bytes(encoded(picture(BLUE)))
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (good / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    dataset = load(tmp_path)
    assert dataset.images.shape == (2, SIZE, SIZE, 3)
    assert close(dataset.images, RED)
    (line,) = dataset.notes
    assert "\n" not in line
    assert "skipped 5" in line
    for name in ("readme.txt", "zero.jpg", "short.jpg", "bomb.png (too many", "gone.png"):
        assert name in line
    assert "converted to upright RGB 1 (a/b/alpha.png (transparent))" in line


def test_a_long_list_of_skipped_files_is_cut(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").touch()
    (tmp_path / "good.png").write_bytes(encoded(picture()))
    (line,) = load(tmp_path).notes
    assert "skipped 20 (00.txt (not an image), " in line
    assert "and 15 more" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_skipped(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(picture()))
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    (tmp_path / "secret.png").chmod(0)
    assert "secret.png (no permission" in load(tmp_path).notes[0]


def test_a_file_that_may_not_be_opened_is_skipped(tmp_path, monkeypatch):
    for name in ("good", "secret"):
        (tmp_path / f"{name}.png").write_bytes(encoded(picture()))
    listing = folder.scan(tmp_path)
    opened = reading.opened

    def refuse(path):
        if "secret" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(reading, "opened", refuse)
    cached = cache.cached(tmp_path / "cache", lambda: folder.pictures(listing), (SIZE, SIZE, 3))
    assert len(cached.images) == 1
    assert "secret.png (no permission to read it)" in cached.notes[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), "no files in it"),
        (lambda p: (p.mkdir(), (p / "a.txt").write_text("x")), "no usable image"),
    ],
    ids=["missing", "file", "empty", "useless"],
)
def test_a_useless_path_is_the_users_mistake(tmp_path, make, message):
    path = tmp_path / "pictures"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_no_path_is_the_users_mistake():
    with pytest.raises(UserError, match=r"needs --data.path"):
        data.load(DataConfig(source="folder"))


# -- classes, limits, cache --------------------------------------------------------


@pytest.fixture
def classes(tmp_path):
    for name, colour in (("bikes", BLUE), ("cars", RED)):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(encoded(picture(colour)))
    (tmp_path / "stray.png").write_bytes(encoded(picture((0, 255, 0))))
    return tmp_path


def test_labels_are_the_folders_below_the_root(classes):
    dataset = load(classes)
    expected = {-1: (0, 255, 0), 0: BLUE, 1: RED}
    assert sorted(dataset.labels) == [-1, 0, 0, 0, 0, 1, 1, 1, 1]
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        assert close(image, expected[int(label)])


def test_a_class_filter_keeps_the_named_folders(classes):
    dataset = load(classes, classes=("cars",))
    assert len(dataset.images) == 4
    assert close(dataset.images, RED)
    with pytest.raises(UserError, match="did you mean 'cars'"):
        load(classes, classes=("car",))


def test_num_images_is_a_limit_and_takes_a_fair_sample(classes):
    dataset = load(classes, num_images=5)
    assert len(dataset.images) == 5
    assert np.array_equal(dataset.images, load(classes).images[:5])
    assert len(load(classes, num_images=50).images) == 9
    with pytest.raises(UserError, match="at least 1"):
        load(classes, num_images=0)


def test_a_second_load_decodes_nothing_and_gives_the_same(classes, monkeypatch):
    first = load(classes)
    assert isinstance(first.images, np.memmap)
    assert not first.images.flags.writeable
    monkeypatch.setattr(cache, "decode", None)
    second = load(classes)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.labels, second.labels)
    assert first[2:] == second[2:]


def test_the_cache_depends_neither_on_the_threads_nor_on_which_is_first(classes, monkeypatch):
    for i in range(12):
        (classes / f"{i}.png").write_bytes(encoded(picture((20 * i, 0, 0))))
    (classes / "bad.png").touch()
    decode, late = decoding.decode, np.random.default_rng(0)

    def dawdle(file, size, channels):
        time.sleep(late.uniform(0, 0.005))
        return decode(file, size, channels)

    monkeypatch.setattr(cache, "decode", dawdle)
    found = []
    for threads, chunk in ((1, 256), (2, 4), (16, 256)):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        monkeypatch.setattr(cache, "CHUNK", chunk)
        dataset = load(classes, num_images=18, cache_dir=str(classes / f".{threads}"))
        found.append((dataset.fingerprint, dataset.labels.tolist(), dataset.notes))
    assert found[0] == found[1] == found[2]


def test_a_changed_folder_is_read_again(classes):
    first = load(classes)
    (classes / "cars" / "0.png").write_bytes(encoded(picture((9, 9, 9))))
    os.utime(classes / "cars" / "0.png", (time.time() + 5, time.time() + 5))
    second = load(classes)
    assert first.fingerprint != second.fingerprint
    assert len(second.images) == 9


def test_a_run_that_dies_while_reading_leaves_no_cache(classes, monkeypatch, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    original = decoding.decode
    calls = []

    def dies(file, size, channels):
        calls.append(file)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return original(file, size)

    monkeypatch.setattr(cache, "decode", dies)
    with pytest.raises(KeyboardInterrupt):
        load(classes, cache_dir=str(own))
    assert list(own.iterdir()) == []
    monkeypatch.setattr(cache, "decode", original)
    assert len(load(classes, cache_dir=str(own)).images) == 9


def test_a_cache_that_cannot_be_written_is_the_users_mistake(classes, tmp_path_factory):
    place = tmp_path_factory.mktemp("own") / "file"
    place.touch()
    with pytest.raises(UserError, match=r"--data.cache-dir"):
        load(classes, cache_dir=str(place))
