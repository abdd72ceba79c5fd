"""Synthetic Stanford Cars in each common layout, prepared and read back by TFDS."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from experiments import data
from experiments.data.sources import cifar10, layouts, prepared, stanford_cars
from experiments.terminal.errors import UserError
from jaxddim.runs.config import DataConfig

WIDTH, HEIGHT = 40, 20
BOX = (4, 5, 30, 15)  # x1, y1, x2, y2 in pixels
SHARES = (5 / HEIGHT, 4 / WIDTH, 15 / HEIGHT, 30 / WIDTH)  # ymin, xmin, ymax, xmax
CLASS = {"train": (1, 7, 196), "test": (3, 3)}  # 1-based, one for each picture


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


# -- making the files --------------------------------------------------------------


def jpeg(split, index):
    """The picture with that number: its grey level identifies it."""
    file = io.BytesIO()
    level = 20 + 40 * index + (120 if split == "test" else 0)
    Image.new("RGB", (WIDTH, HEIGHT), (level, level, level)).save(file, "JPEG", quality=95)
    return file.getvalue()


def pictures(split):
    """{file name: content} of a split."""
    return {f"{i + 1:05d}.jpg": jpeg(split, i) for i in range(len(CLASS[split]))}


def matfile(records, fields):
    """A .mat file whose `annotations` is a struct array, as in the published ones."""
    array = np.zeros((1, len(records)), dtype=[(field, object) for field in fields])
    for i, record in enumerate(records):
        array[0, i] = tuple(record)
    file = io.BytesIO()
    scipy.io.savemat(file, {"annotations": array})
    return file.getvalue()


EDGES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def annotations(split, *, labels=True):
    names = sorted(pictures(split))
    if not labels:
        return matfile([(*BOX, name) for name in names], (*EDGES, "fname"))
    rows = [(*BOX, c, name) for c, name in zip(CLASS[split], names, strict=True)]
    return matfile(rows, (*EDGES, "class", "fname"))


def place(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tarred(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def devkit():
    return {
        "cars_train_annos.mat": annotations("train"),
        "cars_test_annos.mat": annotations("test", labels=False),
        "README.txt": b"hello",
    }


WITH_LABELS = "cars_test_annos_withlabels.mat"


def as_published(suffix=".tgz"):
    return {
        f"cars_train{suffix}": tarred(below("cars_train", pictures("train"))),
        f"cars_test{suffix}": tarred(below("cars_test", pictures("test"))),
        f"car_devkit{suffix}": tarred(below("devkit", devkit())),
        WITH_LABELS: annotations("test"),
    }


def unpacked(devkit_folder="devkit"):
    return {
        **below("stanford_cars/cars_train", pictures("train")),
        **below("stanford_cars/cars_test", pictures("test")),
        **below(f"stanford_cars/{devkit_folder}", devkit()),
        f"stanford_cars/{WITH_LABELS}": annotations("test"),
    }


def in_one_folder():
    """car_ims with cars_annos.mat, which holds the split as a flag."""
    files, rows = {}, []
    for split in ("train", "test"):
        for i, c in enumerate(CLASS[split]):
            name = f"car_ims/{len(rows) + 1:06d}.jpg"
            files[name] = jpeg(split, i)
            rows.append((name, *BOX, c, int(split == "test")))
    fields = ("relative_im_path", *EDGES, "class", "test")
    return files, matfile(rows, fields)


def nested_twice():
    return {
        **below("cars_train/cars_train", pictures("train")),
        **below("cars_test/cars_test", pictures("test")),
        "cars_annos.mat": in_one_folder()[1],  # included in this copy, but for other pictures
    }


def flattened():
    return {**below("cars_train", pictures("train")), **below("cars_test", pictures("test"))}


def shards(first=0, wrapped=True, labels=True):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = {}
    for split in ("train", "test"):
        images = [content for _, content in sorted(pictures(split).items())]
        rows = [{"bytes": i, "path": None} for i in images] if wrapped else images
        columns = {"image": rows}
        if labels:
            columns["label"] = [c - 1 + first for c in CLASS[split]]
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), buffer)
        files[f"data/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    return files


def car_ims():
    files, mat = in_one_folder()
    return {**files, "cars_annos.mat": mat}


def car_ims_archive():
    files, mat = in_one_folder()
    return {"car_ims.tgz": tarred(files), "cars_annos.mat": mat}


LAYOUTS = {
    "published": (as_published, True, True),
    "published-tar.gz": (lambda: as_published(".tar.gz"), True, True),
    "published-deeper": (lambda: below("a/b", as_published()), True, True),
    "unpacked": (unpacked, True, True),
    "unpacked-car_devkit": (lambda: unpacked("car_devkit/devkit"), True, True),
    "nested-twice": (nested_twice, False, False),
    "flattened": (flattened, False, False),
    "car_ims": (car_ims, True, True),
    "car_ims-archive": (car_ims_archive, True, True),
    "parquet": (shards, True, False),
    "parquet-bytes": (lambda: shards(wrapped=False), True, False),
    "parquet-from-one": (lambda: shards(first=1), True, False),
    "parquet-unlabelled": (lambda: shards(labels=False), False, False),
}


def read(tmp_path, split):
    """The examples of a split as the stock TFDS reads them, in the order of their ids."""
    import tensorflow_datasets as tfds

    place = str(tmp_path / "tfds")
    source = tfds.data_source("cars196", split=split, data_dir=place, download=False)
    examples = [{**example, "id": example["id"].decode()} for example in source]
    return sorted(examples, key=lambda example: example["id"])


def prepare(tmp_path, files):
    place(tmp_path / "files", files)
    return stanford_cars.ensure(str(tmp_path / "files"), None)


# -- tests -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_by_the_stock_tfds(tmp_path, layout):
    make, labelled, boxed = LAYOUTS[layout]
    folder, notes = prepare(tmp_path, make())
    assert prepared.file_format(folder) == "array_record"
    assert folder == tmp_path / "tfds" / "cars196" / "2.1.0"
    for split, classes in CLASS.items():
        examples = read(tmp_path, split)
        labels = [c - 1 for c in classes] if labelled else [-1] * len(classes)
        assert [example["label"] for example in examples] == labels
        for i, example in enumerate(examples):
            assert np.array_equal(
                example["image"], np.asarray(Image.open(io.BytesIO(jpeg(split, i))))
            )
            box = SHARES if boxed else (0, 0, 1, 1)
            np.testing.assert_allclose(example["bbox"], box, atol=1e-6)
    assert any("incomplete Stanford Cars: 3 of 8,144 train, 2 of 8,041 test" in n for n in notes)
    assert any("5 without annotation" in n for n in notes) == (not labelled)


def test_jpegs_are_stored_byte_for_byte(tmp_path):
    prepare(tmp_path, as_published())
    waiting = prepared.pictures(stanford_cars.builder(None))
    stored = {waiting.read(i)[0].getvalue() for i in range(len(waiting.names))}
    assert stored == {*pictures("train").values(), *pictures("test").values()}


def test_repacked_archives_are_used_with_a_note(tmp_path):
    _, notes = prepare(tmp_path, as_published())
    differing = [note for note in notes if "is not the published file" in note]
    assert len(differing) == 4
    assert all("\n" not in note for note in notes)


def test_training_gets_train_and_test_together(tmp_path):
    place(tmp_path / "files", unpacked())
    auto = DataConfig(path=str(tmp_path / "files"), image_size=8)
    found = data.load(auto)
    assert found.source == "cars196"
    assert sorted(found.labels) == [0, 2, 2, 6, 195]
    assert found.images.shape == (5, 8, 8, 3)
    # The files are no longer needed: auto, with or without a path, finds the prepared copy.
    for path in (None, str(tmp_path / "files"), str(tmp_path / "removed")):
        again = data.load(replace(auto, path=path))
        assert (again.source, again.fingerprint) == ("cars196", found.fingerprint)
    named = DataConfig(source="cars196", image_size=8, classes=(NAME,))
    assert list(data.load(named).labels) == [195]
    with pytest.raises(UserError, match="did you mean 'smart fortwo"):
        data.load(replace(named, classes=("smart",)))


NAME = "smart fortwo Convertible 2012"


def test_hand_placed_archives_are_found_where_tfds_looks(tmp_path):
    place(tmp_path / "tfds" / "downloads" / "manual", as_published())
    assert stanford_cars.available(None, None)
    folder, _ = stanford_cars.ensure(None, None)
    assert len(read(tmp_path, "train")) == 3
    assert folder.is_dir()


def test_files_come_before_their_archives_and_every_name_once(tmp_path):
    files = as_published() | below("cars_train", {"00001.jpg": pictures("train")["00001.jpg"]})
    prepare(tmp_path, files)
    assert [example["id"] for example in read(tmp_path, "train")] == ["00001", "00002", "00003"]


def test_a_single_split_is_accepted_and_noted(tmp_path):
    _, notes = prepare(tmp_path, below("cars_train", pictures("train")))
    assert len(read(tmp_path, "train")) == 3
    assert any("3 of 8,144 train, 0 of 8,041 test" in note for note in notes)


def test_listed_but_missing_and_unreadable_pictures_are_counted_and_named(tmp_path):
    files = unpacked()
    del files["stanford_cars/cars_train/00002.jpg"]
    files["stanford_cars/cars_test/00001.jpg"] = b"no picture"
    files["stanford_cars/cars_test/._00002.jpg"] = b"what an archive utility leaves behind"
    _, notes = prepare(tmp_path, files)
    (line,) = [note for note in notes if note.startswith("cars196: ")]
    assert "1 listed but missing (train/00002)" in line
    assert "1 unreadable (test/00001)" in line
    assert len(read(tmp_path, "train")) == 2
    assert len(read(tmp_path, "test")) == 1


def test_boxes_outside_the_picture_are_cut_to_it(tmp_path):
    rows = [(-3, 5, WIDTH + 9, 15, 1, "00001.jpg"), (30, 5, 4, 15, 1, "00002.jpg")]
    files = below("cars_train", dict(list(pictures("train").items())[:2]))
    files["cars_train_annos.mat"] = matfile(rows, (*EDGES, "class", "fname"))
    prepare(tmp_path, files)
    cut, senseless = (example["bbox"] for example in read(tmp_path, "train"))
    np.testing.assert_allclose(cut, (0.25, 0, 0.75, 1))
    np.testing.assert_allclose(senseless, (0, 0, 1, 1))


def test_names_in_an_archive_never_become_paths(tmp_path):
    content = pictures("train")["00001.jpg"]
    archive = tarred(
        {"../../evil.jpg": content, "/tmp/evil2.jpg": content, "cars_train/a.jpg": content}
    )
    prepare(tmp_path, {"cars_train.tgz": archive})
    assert [example["id"] for example in read(tmp_path, "train")] == ["a", "evil", "evil2"]
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_an_archive_that_is_cut_short_is_the_users_mistake(tmp_path, mode, share):
    noise = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    whole = tarred(below("cars_train", pictures("train") | {"big.jpg": noise}), mode)
    name = "cars_train.tgz" if mode == "w:gz" else "cars_train.tar"
    with pytest.raises(UserError, match=f"{name}: damaged") as caught:
        prepare(tmp_path, {name: whole[: int(share * len(whole))]})
    assert "\n" not in str(caught.value)
    assert prepared.file_format(stanford_cars.folder(None)) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train-0.parquet": b"PAR1 no"}, "train-0.parquet: damaged"),
        ({**unpacked(), "cars_annos.mat": b"no"}, "cars_annos.mat: damaged"),
        ({"cars_train.tgz": tarred({"readme.txt": b"x"})}, "no readable picture"),
    ],
    ids=["parquet", "mat", "empty"],
)
def test_damaged_files_are_named(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, files)


def test_a_folder_without_cars_is_refused_with_the_expected_layouts(tmp_path):
    with pytest.raises(UserError, match=r"cars_train.tgz .* cars_annos.mat.*parquet"):
        prepare(tmp_path, {"a.jpg": b"x"})
    assert not stanford_cars.available(str(tmp_path / "files"), None)
    assert layouts.find(tmp_path) is None


def test_a_tfrecord_copy_gets_a_message_of_its_own(tmp_path):
    place(tmp_path / "tfds/cars196/2.1.0", {"dataset_info.json": b'{"fileFormat": "tfrecord"}'})
    assert stanford_cars.available(None, None)
    with pytest.raises(UserError, match=r"tfrecord copy.*--data-dir NEW"):
        stanford_cars.ensure(None, None)


# -- CIFAR-10 ----------------------------------------------------------------------


def cifar_files():
    """Two records per file: a red picture of class 1 and a blue one of class 9."""
    red, blue = np.zeros((2, 3, 1024), np.uint8)
    red[0] = blue[2] = 255
    content = b"".join(bytes([c]) + p.tobytes() for c, p in ((1, red), (9, blue)))
    return below("cifar-10-batches-bin", dict.fromkeys(sum(cifar10.FILES.values(), ()), content))


@pytest.mark.parametrize("packed", [True, False])
def test_cifar10_is_read_by_the_stock_tfds_and_filtered_by_class(tmp_path, packed):
    import tensorflow_datasets as tfds

    files = {cifar10.ARCHIVE: tarred(cifar_files())} if packed else cifar_files()
    place(tmp_path / "files", files)
    folder, _ = cifar10.ensure(str(tmp_path / "files"), None)
    assert folder == Path(tmp_path / "tfds/cifar10/3.0.2")
    written = str(tmp_path / "tfds")
    source = tfds.data_source("cifar10", split="test", data_dir=written, download=False)
    assert {example["id"].decode(): int(example["label"]) for example in source} == {
        "test_00000": 1,
        "test_00001": 9,
    }
    only = data.load(DataConfig(source="cifar10", image_size=32, classes=("automobile",)))
    assert only.images.shape == (6, 32, 32, 3)
    assert np.all(only.images == (255, 0, 0))
    assert set(only.labels) == {1}


@pytest.mark.parametrize("cut", [100, -1])
def test_a_damaged_cifar_archive_is_the_users_mistake(tmp_path, cut):
    files = cifar_files()
    files["cifar-10-batches-bin/test_batch.bin"] = b"1" * 1000
    content = tarred(files)[:cut] if cut > 0 else tarred(files)
    place(tmp_path, {cifar10.ARCHIVE: content})
    with pytest.raises(UserError, match=r"damaged|cut short"):
        cifar10.ensure(str(tmp_path), None)
