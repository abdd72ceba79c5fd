"""Caches: what tells entries apart, damage to them, other processes, and emptying them."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import data, prepare
from experiments.data import cache, contents, decoding
from experiments.data.sources import folder, rendered
from experiments.terminal.errors import UserError
from jaxddim.runs.config import DataConfig
from tests import tiny
from tests.data.test_stanford_cars import cifar_files, place

SIZE = 8
THEN = 1_700_000_000 * 10**9


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def caches(tmp_path):
    return tmp_path / "caches"


@pytest.fixture
def load(caches):
    def load(path=None, **changes):
        source = "folder" if path else "rendered"
        settings = {"source": source, "path": path and str(path), "cache_dir": str(caches)}
        return data.load(DataConfig(image_size=SIZE, **settings | changes))

    return load


def fill(path: Path, shades) -> Path:
    """A folder of flat grey PNGs of one length, all of them as old."""
    path.mkdir(parents=True, exist_ok=True)
    for number, shade in enumerate(shades):
        file = path / f"{number}.png"
        Image.fromarray(np.full((9, 9, 3), shade, np.uint8)).save(file, compress_level=0)
        os.utime(file, ns=(THEN, THEN))
    return path


def shades(dataset):
    return sorted(dataset.images[:, 0, 0, 0].tolist())


def entries(caches):
    return [path for path in caches.iterdir() if "-" in path.name]


def old_stamps(monkeypatch):
    """As if all files had been changed long ago, so that what was read is remembered."""
    monkeypatch.setattr(contents, "SETTLED_NS", -(10**12))


@pytest.mark.parametrize("source", ["folder", "rendered", "cifar10"])
def test_meanwhile_is_called_before_new_images_are_made_and_not_for_those_that_are_there(
    tmp_path, caches, source
):
    path = {"folder": fill(tmp_path / "p", [1, 2]), "rendered": None}.get(source, tmp_path)
    if source == "cifar10":
        place(path, cifar_files())
    places = {"path": path and str(path), "cache_dir": str(caches)}
    found = []
    for _ in range(2):
        wanted = DataConfig(image_size=SIZE, source=source, num_images=2, **places)
        data.load(wanted, meanwhile=lambda: found.append(sorted(caches.glob(f"{source}-*"))))
    assert found == [[]]


# -- what tells entries apart ------------------------------------------------------------


@pytest.mark.parametrize("remembered", [True, False])
def test_folders_with_equal_names_sizes_and_times_are_not_taken_for_each_other(
    tmp_path, load, monkeypatch, remembered
):
    if remembered:
        old_stamps(monkeypatch)
    one, two = fill(tmp_path / "one", (1, 2, 3)), fill(tmp_path / "two", (4, 5, 6))
    for _ in range(2):
        assert shades(load(one)) == [1, 2, 3]
        assert shades(load(two)) == [4, 5, 6]


def overwritten(path):
    fill(path, (7, 8, 9))
    return path


def replaced(path):
    other = fill(path.parent / "other", (7, 8, 9))
    shutil.rmtree(path)
    return other.rename(path)


@pytest.mark.parametrize("change", [overwritten, replaced])
def test_other_content_of_equal_size_and_time_in_one_place_is_read(tmp_path, load, change):
    path = fill(tmp_path / "one", (1, 2, 3))
    assert shades(load(path)) == [1, 2, 3]
    assert shades(load(change(path))) == [7, 8, 9]


def moved(path):
    return path.rename(path.parent / "elsewhere")


def copied(path):
    return Path(shutil.copytree(path, path.parent / "copy", copy_function=shutil.copyfile))


def touched(path):
    for file in path.iterdir():
        os.utime(file)
    return path


@pytest.mark.parametrize("change", [moved, copied, touched])
def test_the_same_content_is_found_again(tmp_path, load, caches, monkeypatch, change):
    path = fill(tmp_path / "one", (1, 2, 3))
    first = load(path)
    monkeypatch.setattr(cache, "decode", None)
    assert load(change(path)).fingerprint == first.fingerprint
    assert len(entries(caches)) == 1


def test_files_are_read_once_and_again_only_when_one_changes(tmp_path, load, monkeypatch):
    old_stamps(monkeypatch)
    path, read = fill(tmp_path / "one", (1, 2, 3)), []
    original = contents._read
    monkeypatch.setattr(contents, "_read", lambda file: read.append(file) or original(file))
    load(path)
    load(path)
    assert len(read) == 3
    load(overwritten(path))
    assert len(read) == 6


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, load, caches):
    load(fill(tmp_path / "one", (1, 2)))
    assert not (caches / contents.FOLDER).exists()


@pytest.mark.parametrize("content", ["", "no hash", "f" * 63, "f" * 64 + "\n"])
def test_a_damaged_memory_of_what_was_read_is_not_believed(
    tmp_path, load, caches, monkeypatch, content
):
    old_stamps(monkeypatch)
    path = fill(tmp_path / "one", (1, 2))
    first = load(path)
    (kept,) = (caches / contents.FOLDER).iterdir()
    kept.write_text(content)
    assert load(path).fingerprint == first.fingerprint
    assert len(entries(caches)) == 1


def test_prepared_datasets_of_equal_size_and_time_are_not_taken_for_each_other(tmp_path, load):
    found = []
    for number in range(2):
        files = cifar_files()
        for name, content in files.items():
            files[name] = bytes([content[0] + number]) + content[1:]  # another label
        place(tmp_path / str(number), files)
        root = tmp_path / f"tfds{number}"
        where = {"path": str(tmp_path / str(number)), "data_dir": str(root)}
        prepare.prepare(prepare.PrepareConfig(source="cifar10", **where))
        for file in root.rglob("*"):
            os.utime(file, ns=(THEN, THEN))
        found.append(load(source="cifar10", data_dir=str(root)).labels.tolist())
    assert set(found[0]) == {1, 9}
    assert set(found[1]) == {2, 9}


# -- damage ------------------------------------------------------------------------------

DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "text": lambda path: path.write_text("no array"),
    "number": lambda path: path.write_text("7"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("source", ["folder", "rendered"])
@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "about.json", "all"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_made_again_once_with_a_line(
    tmp_path, load, caches, monkeypatch, source, file, kind
):
    path = fill(tmp_path / "one", (1, 2, 3)) if source == "folder" else None
    settings = {} if path else {"num_images": 5}
    first = load(path, **settings)
    expected = np.array(first.images)
    (entry,) = entries(caches)
    for name in os.listdir(entry) if file == "all" else [file]:
        DAMAGE[kind](entry / name)
    second = load(path, **settings)
    np.testing.assert_array_equal(second.images, expected)
    assert second.fingerprint == first.fingerprint
    (line,) = second.notes
    assert "\n" not in line
    assert f"the image cache {entry} was damaged" in line
    monkeypatch.setattr(cache, "decode", None)
    assert load(path, **settings).notes == ()
    assert [path.name for path in entries(caches)] == [entry.name]


def _edited(name, value):
    def edit(entry):
        about = json.loads((entry / "about.json").read_text())
        (entry / "about.json").write_text(json.dumps(about | {name: value}))

    return edit


def _zeroed(start, end):
    def zero(entry):
        content = bytearray((entry / "images.npy").read_bytes())
        content[start:end] = bytes(len(content[start:end]))
        (entry / "images.npy").write_bytes(content)

    return zero


def _flipped(file, at):
    def flip(entry):
        content = bytearray((entry / file).read_bytes())
        content[at] ^= 4
        (entry / file).write_bytes(content)

    return flip


def _of_before(entry):
    """As versions without checksums wrote it."""
    about = json.loads((entry / "about.json").read_text())
    del about[cache.SUMS]
    (entry / "about.json").write_text(json.dumps(about | {"stamp": [0, 0]}))


def _in_place(change):
    """The change, with the file's size and times as before."""

    def changed(entry):
        before = {path: path.stat() for path in entry.iterdir()}
        change(entry)
        for path, status in before.items():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return changed


def _of_another_entry(entry):
    images = np.load(entry / "images.npy")
    np.save(entry / "images.npy", images[::-1])


WRONG = {
    "all pixels lost": _zeroed(128, None),
    "the last pixels lost": _zeroed(-100, None),
    "a page lost": _in_place(_zeroed(256, 512)),
    "a bit of a pixel": _in_place(_flipped("images.npy", 300)),
    "a bit of a label": _in_place(_flipped("labels.npy", -3)),
    "another entry's array": _in_place(_of_another_entry),
    "total is text": _edited("total", "x"),
    "total is null": _edited("total", None),
    "total is another": _edited("total", 4),
    "num_images is text": _edited("num_images", "3"),
    "num_images is huge": _edited("num_images", 10**30),
    "classes are a text": _edited("class_names", "abc"),
    "classes are others": _edited("class_names", ["car"]),
    "notes are a text": _edited("notes", "abc"),
    "notes are numbers": _edited("notes", [5]),
    "another fingerprint": _edited("fingerprint", "0" * 64),
    "no text": lambda entry: (entry / "about.json").write_bytes(b"\xff\xfe"),
    "brackets": lambda entry: (entry / "about.json").write_text("[" * 100_000),
    "a pipe": lambda entry: ((entry / "labels.npy").unlink(), os.mkfifo(entry / "labels.npy")),
    "pixels of before": lambda entry: (_of_before(entry), _flipped("images.npy", 300)(entry)),
    "writable by all": lambda entry: entry.chmod(0o777),
    "a file writable by all": lambda entry: (entry / "images.npy").chmod(0o666),
    "without checksums": _of_before,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content_of_the_right_form_is_found(tmp_path, load, caches, name):
    path = fill(tmp_path / "one", (1, 2, 3))
    first = load(path)
    expected = np.array(first.images)
    (entry,) = entries(caches)
    WRONG[name](entry)
    second = load(path)
    np.testing.assert_array_equal(second.images, expected)
    assert (second.total, second.fingerprint) == (first.total, first.fingerprint)
    damaged = "was damaged" in " ".join(second.notes)
    assert damaged == (name != "without checksums")  # then the pixels tell
    assert load(path).notes == ()


def test_an_entry_in_the_place_of_another_is_made_again(tmp_path, load, caches):
    one, two = fill(tmp_path / "one", (1, 2, 3)), fill(tmp_path / "two", (4, 5, 6))
    load(one)
    (first,) = entries(caches)
    load(two)
    (second,) = set(entries(caches)) - {first}
    shutil.rmtree(first)
    shutil.copytree(second, first)
    found = load(one)
    assert shades(found) == [1, 2, 3]
    assert "was damaged (it is another entry): made again" in found.notes[0]


def test_an_entry_of_another_user_is_made_again(tmp_path, load, caches, monkeypatch):
    path = fill(tmp_path / "one", (1, 2, 3))
    first = load(path)
    (entry,) = entries(caches)
    before = entry.stat().st_ino
    monkeypatch.setattr(cache, "is_trusted", lambda path, root: path.stat().st_ino != before)
    second = load(path)
    assert second.fingerprint == first.fingerprint
    assert f"{entry} was damaged (others may write to {entry.name}): made again" in second.notes[0]
    assert load(path).notes == ()


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("images.npy", np.zeros((2, SIZE, SIZE, 3), np.uint8)),
        ("images.npy", np.zeros((3, SIZE, SIZE + 1, 3), np.uint8)),
        ("images.npy", np.zeros((3, SIZE, SIZE, 3), np.float32)),
        ("labels.npy", np.zeros(2, np.int32)),
        ("labels.npy", np.zeros(3, np.int64)),
    ],
)
def test_an_array_of_another_shape_or_type_is_damage(tmp_path, load, caches, file, array):
    path = fill(tmp_path / "one", (1, 2, 3))
    first = load(path)
    expected = first.images.tobytes()
    np.save(entries(caches)[0] / file, array)
    second = load(path)
    assert second.fingerprint == first.fingerprint
    assert second.images.tobytes() == expected
    assert "was damaged" in second.notes[0]


def test_an_entry_that_may_not_be_read_is_the_users_mistake(tmp_path, load, monkeypatch):
    path = fill(tmp_path / "one", (1, 2, 3))
    load(path)

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "_read", refuse)
    with pytest.raises(UserError, match=r"cannot read the image cache .*--data.cache-dir"):
        load(path)


@pytest.mark.parametrize("kind", ["cut", "emptied", "missing", "text"])
@pytest.mark.parametrize("file", ["dataset_info.json", "record", "features.json"])
def test_damaged_rendered_cars_are_drawn_again_once_with_a_line(
    tmp_path, load, caches, monkeypatch, file, kind
):
    first = load(num_images=5)
    (home,) = (tmp_path / "TFDS_DATA_DIR" / "rendered_cars").glob("*/1.0.0")
    (damaged,) = home.glob(f"*{file}*")
    DAMAGE[kind](damaged)
    shutil.rmtree(entries(caches)[0])
    second = load(num_images=5)
    assert second.fingerprint == first.fingerprint
    if file != "features.json":  # these are known without it
        assert [line for line in second.notes if "rendered cars in" in line and "damaged" in line]
    shutil.rmtree(entries(caches)[0])
    monkeypatch.setattr(rendered, "render", None)  # drawing would now fail
    assert load(num_images=5).notes == ()


@pytest.mark.parametrize("kind", ["cut", "emptied", "missing", "text"])
@pytest.mark.parametrize("file", ["dataset_info.json", "test.array_record"])
def test_a_damaged_prepared_dataset_is_named_and_made_again_from_its_files(
    tmp_path, load, file, kind
):
    place(tmp_path / "files", cifar_files())
    config = prepare.PrepareConfig(source="cifar10", path=str(tmp_path / "files"))
    home = prepare.prepare(config).folder
    (damaged,) = home.glob(f"*{file}*")
    DAMAGE[kind](damaged)
    if file == "dataset_info.json":
        assert any(f"{home} was damaged" in note for note in prepare.prepare(config).notes)
    else:
        with pytest.raises(UserError, match=r"3.0.2 is damaged .* prepare it again") as caught:
            load(source="cifar10")
        assert "\n" not in str(caught.value)
        shutil.rmtree(home)
        assert prepare.prepare(config).notes == ()
    assert len(load(source="cifar10").images) == 12


# -- other processes ---------------------------------------------------------------------


def during(monkeypatch, act):
    """Calls ``act(number)`` when a picture is decoded."""
    original, calls = decoding.decode, []

    def decode(file, size, channels):
        calls.append(file)
        act(len(calls))
        return original(file, size, channels)

    monkeypatch.setattr(cache, "decode", decode)
    monkeypatch.setattr(cache, "CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_folder_that_another_process_removes_is_filled_again(
    tmp_path, load, caches, monkeypatch, when
):
    def remove(number):
        if number == when:
            for partial in caches.glob(f"{cache.PARTIAL}*"):
                shutil.rmtree(partial)

    during(monkeypatch, remove)
    assert shades(load(fill(tmp_path / "one", (1, 2, 3)))) == [1, 2, 3]
    assert not list(caches.glob(".*"))


def test_a_folder_that_is_always_removed_is_named_as_that(tmp_path, load, caches, monkeypatch):
    def remove(number):
        for partial in caches.glob(f"{cache.PARTIAL}*"):
            shutil.rmtree(partial)

    during(monkeypatch, remove)
    with pytest.raises(UserError, match="was removed while pictures were written to it"):
        load(fill(tmp_path / "one", (1, 2, 3)))


def test_a_slow_filling_is_not_swept_away(tmp_path, load, caches, monkeypatch):
    seen = []

    def age_and_sweep(number):
        if number % 2:  # a day passes; the next picture tells that it is still being filled
            for partial in caches.glob(f"{cache.PARTIAL}*"):
                os.utime(partial, (0, 0))
        else:
            cache.sweep(caches)
            seen.append(len(list(caches.glob(f"{cache.PARTIAL}*"))))

    during(monkeypatch, age_and_sweep)
    assert len(load(fill(tmp_path / "one", range(8))).images) == 8
    assert seen == [1] * 4


def test_what_killed_runs_left_is_swept_after_a_day_though_others_sweep_too(caches, monkeypatch):
    for name, age in (("old", 2), ("gone", 2), ("new", 0)):
        (caches / f"{cache.PARTIAL}{name}").mkdir(parents=True)
        then = time.time() - age * cache.STALE_SECONDS
        os.utime(caches / f"{cache.PARTIAL}{name}", (then, then))
    original = Path.stat

    def vanishing(path, **options):
        if path.name.endswith("gone") and path.exists():
            path.rmdir()
        return original(path, **options)

    monkeypatch.setattr(Path, "stat", vanishing)
    monkeypatch.setattr(Path, "exists", lambda path: os.path.exists(path))
    cache.sweep(caches)
    assert os.listdir(caches) == [f"{cache.PARTIAL}new"]


def test_a_whole_entry_of_a_faster_process_stays(tmp_path, load, caches, monkeypatch):
    path = fill(tmp_path / "one", (1, 2, 3))
    inner = []

    def faster(number):
        if number == 2 and not inner:
            inner.append(True)
            inner.append(load(path))

    during(monkeypatch, faster)
    assert load(path).images.tobytes() == inner[1].images.tobytes()
    assert len(entries(caches)) == 1


# -- versions ----------------------------------------------------------------------------


def test_another_version_of_the_drawing_is_drawn_anew_beside_the_old(tmp_path, load, monkeypatch):
    load(num_images=3)
    import tensorflow_datasets as tfds

    monkeypatch.setattr(rendered.RenderedCars, "VERSION", tfds.core.Version("9.9.9"))
    monkeypatch.setattr("experiments.data.dataset.VERSION", "9.9.9")
    drawn = []
    original = rendered.render
    monkeypatch.setattr(rendered, "render", lambda *a, **k: drawn.append(a) or original(*a, **k))
    load(num_images=3)
    assert drawn
    versions = (tmp_path / "TFDS_DATA_DIR" / "rendered_cars").glob("*/*")
    assert sorted(path.name for path in versions if path.is_dir()) == ["1.0.0", "9.9.9"]


# -- emptying ----------------------------------------------------------------------------


def test_emptying_deletes_what_was_cached_and_nothing_else(tmp_path, monkeypatch):
    old_stamps(monkeypatch)
    path = fill(tmp_path / "one", (1, 2, 3))
    data.load(DataConfig(source="folder", path=str(path), image_size=SIZE))
    data.load(DataConfig(source="rendered", num_images=3, image_size=SIZE))
    root = tmp_path / "XDG_CACHE_HOME" / "jaxddim"
    for name in ("compiled/jit_f-cache", "features/folder-train-x-0.npz", "mine/folder-8-x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(bytes(10**6))
    kept = [root / "mine/folder-8-x", root / "own.txt", tmp_path / "TFDS_DATA_DIR/cars196/info"]
    for file in kept[1:]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    told = tiny.command("prepare", "--empty-caches")
    assert (told.code, told.err) == (0, "")
    for part in ("resized images: 0.", "lists of files: ", "features: 1.0 MB", "rendered cars: "):
        assert part in told.out
    assert "compiled functions: 1.0 MB" in told.out
    assert "deleted 2." in told.out
    left = [file for place in (root, tmp_path / "TFDS_DATA_DIR") for file in place.rglob("*")]
    assert sorted(file for file in left if file.is_file()) == sorted(kept)
    assert "deleted 0.0 MB" in tiny.command("prepare", "--empty-caches").out
    data.load(DataConfig(source="folder", path=str(path), image_size=SIZE))


def test_a_chosen_cache_folder_is_emptied_alone(tmp_path, load, caches):
    load(fill(tmp_path / "one", (1, 2, 3)))
    other = tmp_path / "XDG_CACHE_HOME" / "jaxddim" / "compiled" / "jit_f-cache"
    other.parent.mkdir(parents=True)
    other.write_text("")
    told = tiny.command("prepare", "--empty-caches", "--cache-dir", caches)
    assert told.code == 0
    assert not entries(caches)
    assert other.exists()


def test_a_cache_folder_to_prepare_in_is_a_mistake():
    told = tiny.command("prepare", "--cache-dir", "x")
    assert told.code == 2
    assert "--cache-dir belongs to --empty-caches" in told.err


def test_notes_of_an_entry_survive_json(tmp_path, load, caches):
    path = fill(tmp_path / "one", (1, 2))
    (path / "odd\nname \udcff.png").write_text("no picture")
    first = load(path)
    assert first.notes == load(path).notes
    assert r"odd\nname \udcff.png (not an image)" in first.notes[0]
    assert json.loads((entries(caches)[0] / "about.json").read_text())["num_images"] == 2
    assert folder.scan(path).names[-1] == "odd\nname \udcff.png"
