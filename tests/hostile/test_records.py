"""The files of a run that are damaged or made to harm: config.json, images.json, moments.npz, and
the arrays and folders of samples."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxddim.runs.flat import flatten
from jaxddim.runs.presets import PRESETS
from tests.data.test_decoding import encoded
from tests.hostile.bounds import assert_refused
from tests.hostile.test_pictures import png_of, sparse

TINY = flatten(PRESETS["tiny"]())


def config(text=None, **changes):
    """A config.json in which single fields have another value, as JSON."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    assert changes.keys() <= TINY.keys()
    fields = {name: json.dumps(value) for name, value in TINY.items()} | changes
    inside = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
    return (text or '{"config": %s}') % inside


def without(field):
    fields = {name: value for name, value in TINY.items() if name != field}
    return json.dumps({"config": fields})


DEEP = 10**6
CONFIGS = {
    "nothing": "",
    "no JSON": "config",
    "cut": config()[:-10],
    "not UTF-8": b"\xff\xfe{}",
    "UTF-16": config().encode("utf-16"),
    "zeros": bytes(4096),
    "a number": "5",
    "null": "null",
    "a list": "[]",
    "a text": '"config"',
    "config is null": '{"config": null}',
    "config is a list": '{"config": []}',
    "config is empty": '{"config": {}}',
    "lists in lists": "[" * DEEP + "]" * DEEP,
    "objects in objects": '{"config":' * DEEP + "1" + "}" * DEEP,
    "a value that is nested": config(seed="[" * DEEP + "]" * DEEP),
    "a field twice": config('{"config": %s}').replace('"seed"', '"seed": 1, "seed"'),
    "config twice": config('{"config": {}, "config": %s}'),
    "a field of 1 MB": config().replace('"seed"', f'"{"x" * 10**6}": 1, "seed"'),
    "many fields": json.dumps({"config": {str(i): 1 for i in range(10**5)}}),
    "100 MB of blanks": config() + " " * 10**8,
    "lost the schedule": without("diffusion.schedule"),
    "lost a beta": without("diffusion.beta_start"),
    "lost the levels": without("diffusion.levels"),
    "data is a list": config('{"data": [1], "config": %s}'),
    "data's notes are a text": config('{"data": {"notes": "a"}, "config": %s}'),
    "data's images are a text": config('{"data": {"num_images": "a"}, "config": %s}'),
    "data's images are fewer than none": config('{"data": {"num_images": -5}, "config": %s}'),
    "data's images are true": config('{"data": {"num_images": true}, "config": %s}'),
    "data's fingerprint is a number": config('{"data": {"fingerprint": 5}, "config": %s}'),
    "the start is a list": config('{"init": [], "config": %s}'),
    "the start is no number": config('{"init": {"step": 1e99}, "config": %s}'),
    "the versions are a text": config('{"versions": "1", "config": %s}'),
    "the command is a list": config('{"command": ["train"], "config": %s}'),
    "another command": config('{"command": "%s", "config": %%s}' % ("x" * 10**6)),
}  # fmt: skip
HUGE = str(10**400)
FIELDS = {
    "a schedule of another part of the package": ("diffusion__schedule", '"Schedule"'),
    "a schedule of another module": ("diffusion__schedule", '"np"'),
    "a schedule that takes anything": ("diffusion__schedule", '"from_betas"'),
    "10^12 steps": ("diffusion__num_steps", "1000000000000"),
    "10^400 steps": ("diffusion__num_steps", HUGE),
    "steps of 5,000 digits": ("diffusion__num_steps", "9" * 5000),
    "half a step": ("diffusion__num_steps", "0.5"),
    "no steps": ("diffusion__num_steps", "0"),
    "steps that are true": ("diffusion__num_steps", "true"),
    "images of 10^9 pixels": ("data__image_size", "1000000000"),
    "images of -1 pixels": ("data__image_size", "[-1, 8]"),
    "images of many sides": ("data__image_size", str([8] * 10**5)),
    "10^9 channels": ("model__channels", "1000000000"),
    "no channels": ("model__channels", "0"),
    "no groups": ("model__groups", "0"),
    "no patch": ("model__patch", "0"),
    "10^9 blocks": ("model__num_blocks", "1000000000"),
    "a million levels": ("model__multipliers", str([1] * 10**5)),
    "a level of 10^9": ("model__multipliers", "[1000000000]"),
    "no level": ("model__multipliers", "[]"),
    "a level of lists": ("model__multipliers", "[[1]]"),
    "heads of nothing": ("model__head_dim", "0"),
    "dropout that is no number": ("model__dropout", "NaN"),
    "dropout of all": ("model__dropout", "1e308"),
    "an infinite epsilon": ("model__epsilon", "Infinity"),
    "a beta that is no number": ("diffusion__beta_start", "NaN"),
    "an infinite beta": ("diffusion__beta_end", "-Infinity"),
    "a beta beyond floats": ("diffusion__beta_end", "1e999"),
    "a rate beyond floats": ("optim__learning_rate", HUGE),
    "clipping beyond floats": ("optim__clip", HUGE),
    "a seed of 2^32": ("seed", "4294967296"),
    "a path with a zero byte": ("data__path", '"a\\u0000b"'),
    "a path that is no text": ("data__path", '"\\ud800"'),
    "a path of 10 MB": ("data__path", '"%s"' % ("x" * 10**6)),
    "a path of lists": ("data__path", "[]"),
    "a start with a zero byte": ("train__init_from", '"\\u0000"'),
    "classes that are a text": ("data__classes", '"car"'),
    "a million classes": ("data__classes", str(["a"] * 10**5).replace("'", '"')),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_damaged_record_is_refused(kind, place, server):
    text = CONFIGS[kind]
    (place / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(server.run("opened", place), "config.json|holds a run of experiments.xxx")


@pytest.mark.parametrize("kind", FIELDS)
def test_a_field_of_another_type_or_range_is_refused(kind, place, server):
    name, value = FIELDS[kind]
    (place / "config.json").write_text(config(**{name: value}))
    assert_refused(server.run("opened", place))


def test_the_good_record_among_them_is_opened(place, server):
    (place / "config.json").write_text(config(seed="7", model__dropout="0.5"))
    outcome = server.run("opened", place)
    assert (outcome.how, outcome.text) == ("done", "7"), outcome


@pytest.mark.parametrize("name", ["config.json", "images.json", "moments.npz"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "holes"])
def test_what_is_no_file_of_a_run_is_refused(name, kind, place, server):
    gaussian = {"diffusion__precondition": '"gaussian"', "diffusion__kind": '"x0"'}
    if name != "config.json":
        (place / "config.json").write_text(config(**gaussian, diffusion__schedule='"cosine"'))
    path = place / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        sparse(path, 2**31)
    call = {"config.json": "opened", "images.json": "names", "moments.npz": "around"}[name]
    assert_refused(server.run(call, place), name)


NAMES = {
    "nothing": b"",
    "not UTF-8": b'{"files": ["\xff"]}',
    "a list": b'["a.png"]',
    "numbers": b'{"files": [5]}',
    "a text": b'{"files": "a.png"}',
    "lists in lists": b"[" * DEEP,
    "files twice": b'{"files": [], "files": []}',
    "10 million names": b'{"files": [' + b'"",' * 10**7 + b'""]}',
    "200 MB": b'{"files": ["' + b"a" * 2 * 10**8 + b'"]}',
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_damaged_list_of_files_is_refused(kind, place, server):
    (place / "images.json").write_bytes(NAMES[kind])
    assert_refused(server.run("names", place), "images.json is not a list of a run's files")


# -- arrays ------------------------------------------------------------------------------


def npz(compressed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def claimed(shape, descr="|u1", name="images", data=b"", version=(1, 0)):
    """An .npz whose array claims a shape."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(file, "w") as archive, archive.open(f"{name}.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        member.write(data)
    return file.getvalue().replace(b"NUMPY\x01\x00", b"NUMPY" + bytes(version))


IMAGES = np.zeros((5, 8, 8, 3), np.uint8)
GOOD = npz(images=IMAGES)


def flipped(*places, bit=4):
    changed = bytearray(GOOD)
    for at in places:
        changed[at] ^= bit
    return bytes(changed)


SAMPLES = {
    "nothing": lambda: b"",
    "text": lambda: b"no archive",
    "an array without a zip": lambda: GOOD[GOOD.index(b"\x93NUMPY") :],
    "cut": lambda: GOOD[:-30],
    "cut in the array": lambda: GOOD[:500],
    "a bit of a pixel": lambda: flipped(500),
    "a bit of the header": lambda: flipped(GOOD.index(b"NUMPY")),
    "of another name": lambda: npz(pictures=IMAGES),
    "of another type": lambda: npz(images=IMAGES.astype(float)),
    "of another size": lambda: npz(images=IMAGES[:, 1:]),
    "objects": lambda: npz(images=np.array([[{}] * 8] * 8, object)),
    "8 TB": lambda: claimed((2**35, 8, 8, 3)),
    "2^100 bytes": lambda: claimed((2**93, 8, 8, 3)),
    "-1 images": lambda: claimed((-1, 8, 8, 3)),
    "fewer bytes than it says": lambda: claimed((5, 8, 8, 3), data=bytes(900)),
    "more bytes than it says": lambda: claimed((5, 8, 8, 3), data=bytes(999)),
    "a thousand axes": lambda: claimed((1,) * 1000),
    "a shape that is a text": lambda: claimed("abcd"),
    "a type that is a program": lambda: claimed((5, 8, 8, 3), descr="__import__('os')"),
    "a version with longer headers": lambda: claimed((5, 8, 8, 3), version=(2, 0)),
    "zeros of 1 GB": lambda: npz(True, images=np.zeros((10**6, 8, 8, 3), np.uint8)),
    "a member of 10 GB": lambda: bomb(),
    "bzip2": lambda: recompressed(zipfile.ZIP_BZIP2),
    "lzma": lambda: recompressed(zipfile.ZIP_LZMA),
    "encrypted": lambda: flipped(6, GOOD.index(b"PK\x01\x02") + 8, bit=1),
    "300,000 members": lambda: crowded(300_000),
}  # fmt: skip


def recompressed(kind):
    file = io.BytesIO()
    member = GOOD[GOOD.index(b"\x93NUMPY") :][: 128 + IMAGES.size]
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr("images.npy", member)
    return file.getvalue()


def bomb():
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 8, 8, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(50):
            member.write(bytes(2**21))
    return file.getvalue()


def crowded(count):
    """A zip with a table of many members, none of which is there."""
    entry = b"PK\x01\x02" + bytes(24) + b"\1\0" + bytes(16) + b"a"
    table = entry * count
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff" * 2
    return table + end + len(table).to_bytes(4, "little") + bytes(6)


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_in_a_damaged_array_are_refused(kind, place, server):
    (place / "a.npz").write_bytes(SAMPLES[kind]())
    assert_refused(server.run("samples", place / "a.npz"), "--samples .*a.npz cannot be read")


@pytest.mark.parametrize("content", [GOOD, npz(True, images=IMAGES)])
def test_the_good_arrays_among_them_are_read(content, place, server):
    (place / "a.npz").write_bytes(content)
    outcome = server.run("samples", place / "a.npz")
    assert (outcome.how, outcome.text) == ("done", "(5, 8, 8, 3)")


FOLDERS = {
    "of 88 million pixels": lambda: png_of(9400, 9400),
    "of another size": lambda: encoded(Image.new("RGB", (9, 8))),
    "cut": lambda: encoded(Image.effect_noise((8, 8), 90))[:60],
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_samples_in_a_folder_that_are_none_are_refused(kind, place, server):
    for number in range(3):
        (place / f"{number}.png").write_bytes(encoded(Image.new("RGB", (8, 8))))
    (place / "[bold].png").write_bytes(FOLDERS[kind]())
    assert_refused(server.run("samples", place), r"\[bold\].png")


def test_large_samples_of_another_size_are_not_all_kept(place, server):
    for number in range(6):
        (place / f"{number}.png").write_bytes(png_of(4000, 4000, 8, 2))
    assert_refused(server.run("samples", place), "4000x4000 pixels, the run's images have 8x8")


# -- moments -----------------------------------------------------------------------------

MOMENTS = {
    "mean": np.zeros((16, 16, 3), np.float32),
    "colours": np.eye(3, dtype=np.float32),
    "variance": np.ones((16, 16, 3), np.float32),
}
DAMAGED = {
    "missing": lambda: {name: MOMENTS[name] for name in ("mean", "colours")},
    "of another size": lambda: MOMENTS | {"mean": np.zeros((8, 8, 3), np.float32)},
    "of whole numbers": lambda: MOMENTS | {"mean": np.zeros((16, 16, 3), int)},
    "not finite": lambda: MOMENTS | {"mean": np.full((16, 16, 3), np.nan, np.float32)},
    "without variance": lambda: MOMENTS | {"variance": np.zeros((16, 16, 3), np.float32)},
    "of a negative variance": lambda: MOMENTS | {"variance": -MOMENTS["variance"]},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_moments_are_refused(kind, place, server):
    around = {"diffusion__precondition": '"gaussian"', "diffusion__kind": '"x0"'}
    (place / "config.json").write_text(config(**around))
    (place / "moments.npz").write_bytes(npz(**DAMAGED[kind]()))
    assert_refused(server.run("around", place), "moments.npz cannot be read .* restore the file")
    (place / "moments.npz").write_bytes(npz(**MOMENTS))
    assert server.run("around", place).text == "(16, 16, 3)"
