"""The common layouts of Stanford Cars, read as one stream of pictures.

    cars_train.tgz cars_test.tgz car_devkit.tgz cars_test_annos_withlabels.mat   as published
    cars_train/*.jpg cars_test/*.jpg devkit/*.mat                                unpacked
    cars_train/cars_train/*.jpg cars_test/cars_test/*.jpg                        nested twice
    car_ims/*.jpg cars_annos.mat     (or car_ims.tgz)                            one folder
    train-00000-of-00002.parquet test-...                                        with image, label

The name of a folder above a picture, or of its archive, determines its split, so other
nesting does not matter. Archives are streamed: nothing is unpacked, and names in them
are never used as paths. Labels and boxes may be missing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from experiments.data.sources import folder, matlab
from experiments.data.sources.containers import LARGEST_MEMBER, members, rows
from experiments.terminal.errors import UserError
from experiments.terminal.files import content
from experiments.terminal.texts import brief, printable

NUM_CLASSES = 196
DEPTH = 5  # folders below the given one that are searched
FOLDERS = {"cars_train": "train", "cars_test": "test", "car_ims": "any"}
DEVKITS = ("car_devkit", "devkit")
# Read in this order: the later ones complete the earlier ones.
ANNOTATIONS = {
    "cars_train_annos.mat": "train",
    "cars_test_annos.mat": "test",
    "cars_test_annos_withlabels.mat": "test",
    "cars_annos.mat": "any",
}
PUBLISHED = {  # sha256 of the published files
    "cars_train.tgz": "512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
    "cars_test.tgz": "bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
    "car_devkit.tgz": "b97deb463af7d58b6bfaa18b2a4de9829f0f79e8ce663dfa9261bf7810e9accd",
    "cars_test_annos_withlabels.mat": (
        "790f75be8ea34eeded134cc559332baf23e30e91367e9ddca97d26ed9b895f05"
    ),
}
EXPECTED = (
    "cars_train.tgz + cars_test.tgz + car_devkit.tgz + cars_test_annos_withlabels.mat, or the "
    "unpacked folders cars_train/ + cars_test/ (+ devkit/), or car_ims/ + cars_annos.mat, or "
    "train-*.parquet + test-*.parquet"
)
Troubles = dict[str, list[str]]  # kind of problem -> names of the pictures that have it


class Layout(NamedTuple):
    """The files of Stanford Cars below a folder."""

    root: Path
    images: tuple[tuple[str, Path], ...]  # (train | test | any, file)
    archives: tuple[tuple[str, Path], ...]
    shards: tuple[tuple[str, Path], ...]
    devkits: tuple[Path, ...]
    annotations: tuple[Path, ...]


class Note(NamedTuple):
    """The annotation of one picture."""

    label: int  # 0..195, -1 unknown
    box: tuple[float, float, float, float] | None  # ymin, xmin, ymax, xmax in pixels
    split: str


class Picture(NamedTuple):
    """One encoded picture."""

    name: str
    data: bytes
    note: Note | None


def find(path: str | Path) -> Layout | None:
    """The files of Stanford Cars in a folder or a few levels below it.

    Args:
      path: an existing folder.
    Returns:
      The layout, or None when there are no pictures of Stanford Cars.
    Raises:
      UserError: when the folder does not exist.
    """
    root = folder.existing(path).resolve()
    found: dict[str, list[Any]] = defaultdict(list)
    for name in sorted(name for name, *_ in folder.walk(root, [], depth=DEPTH)):
        file = root / name
        parts = (root.name, *PurePosixPath(name).parts)
        stem = _archive_stem(file.name)
        if stem in FOLDERS:
            found["archives"].append((FOLDERS[stem], file))
        elif stem in DEVKITS:
            found["devkits"].append(file)
        elif file.name in ANNOTATIONS:
            found["annotations"].append(file)
        elif (kind := _kind(parts)) and _is_picture(name):
            found["images"].append((kind, file))
        elif file.suffix == ".parquet" and (split := _shard_split(parts)):
            found["shards"].append((split, file))
    if not (found["images"] or found["archives"] or found["shards"]):
        return None
    return Layout(root, **{field: tuple(found[field]) for field in Layout._fields[1:]})


def _archive_stem(name: str) -> str:
    for suffix in (".tgz", ".tar.gz", ".tar"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return ""


def _kind(parts: tuple[str, ...]) -> str | None:
    """train, test or any, by the innermost folder with a known name."""
    return next((FOLDERS[part] for part in reversed(parts[:-1]) if part in FOLDERS), None)


def _is_picture(name: str) -> bool:
    file = PurePosixPath(name)
    return file.suffix.lower() in (".jpg", ".jpeg", ".png") and not file.name.startswith(".")


def _shard_split(parts: tuple[str, ...]) -> str | None:
    """The split of a parquet shard, from its own name or its folder's."""
    for part in (parts[-1], parts[-2]):
        for split in ("train", "test"):
            if part == split or part.startswith((f"{split}-", f"{split}.", f"{split}_")):
                return split
    return None


def checksum_notes(layout: Layout) -> tuple[str, ...]:
    """A message for every published file whose content differs from the published one."""
    files = [path for _, path in layout.archives] + [*layout.devkits, *layout.annotations]
    notes = []
    for path in files:
        expected = PUBLISHED.get(path.name)
        if expected is None:
            continue
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            notes.append(
                f"{path} is not the published file (sha256 {actual[:12]}..., published "
                f"{expected[:12]}...): used as it is"
            )
    return tuple(notes)


def read_annotations(layout: Layout) -> dict[tuple[str, str], Note]:
    """(train | test | any, picture name) -> its annotation."""
    files: dict[str, bytes] = {}
    for archive in layout.devkits:
        for member, data in members(archive):
            name = PurePosixPath(member).name
            if name in ANNOTATIONS:
                files[name] = data
    for path in layout.annotations:
        try:
            files[path.name] = content(path, matlab.MOST_BYTES)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({brief(error)}); copy it again") from None
    notes: dict[tuple[str, str], Note] = {}
    for name, kind in ANNOTATIONS.items():
        if name in files:
            try:
                found = [_note(fields) for fields in matlab.records(files[name], "annotations")]
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise UserError(
                    f"{name}: damaged or not an annotation file ({brief(error)}); "
                    "copy or download it again"
                ) from None
            notes |= {(kind, picture): note for picture, note in found}
    return notes


def _note(fields: dict[str, Any]) -> tuple[str, Note]:
    """(picture name, note) of a record of an annotation file."""
    file = fields["relative_im_path" if "relative_im_path" in fields else "fname"]
    if not isinstance(file, str):
        raise ValueError("a record without the name of a file")
    label = int(fields["class"]) - 1 if "class" in fields else -1
    edges = [f"bbox_{edge}" for edge in ("y1", "x1", "y2", "x2")]
    box = None
    if set(edges) <= set(fields):
        ymin, xmin, ymax, xmax = (float(fields[edge]) for edge in edges)
        box = ymin, xmin, ymax, xmax
    split = "test" if fields.get("test") else "train"
    known = label if 0 <= label < NUM_CLASSES else -1
    return PurePosixPath(file).stem, Note(known, box, split)


def splits(layout: Layout, notes: dict[tuple[str, str], Note]) -> tuple[str, ...]:
    """The splits that have pictures."""
    named = {split for split, _ in layout.images + layout.archives or layout.shards}
    if "any" in named:
        flags = {note.split for (kind, _), note in notes.items() if kind == "any"}
        named = (named - {"any"}) | (flags or {"train"})
    return tuple(sorted(named, reverse=True))


def pictures(
    layout: Layout, notes: dict[tuple[str, str], Note], split: str, troubles: Troubles
) -> Iterator[Picture]:
    """The pictures of one split, each name once.

    Args:
      layout: from `find`.
      notes: from `read_annotations`.
      split: train or test.
      troubles: collects the names of pictures without annotation, without file, or unreadable.
    Yields:
      Pictures, in the order in which they are stored.
    Raises:
      UserError: when an archive or a shard is damaged.
    """
    if not (layout.images or layout.archives):
        yield from _sharded(layout, split, troubles)
        return
    listed = {key: note for key, note in notes.items() if key[0] in (split, "any")}
    seen: set[tuple[str, str]] = set()
    given: set[str] = set()
    for kind, name, data in _stored(layout, {split, "any"}, troubles):
        note = listed.get((kind, name))
        home = kind if kind != "any" else note.split if note else "train"
        if home != split or (kind, name) in seen:
            continue
        seen.add((kind, name))
        if note is None:
            troubles["without annotation"].append(f"{split}/{name}")
        yield Picture(printable(name if name not in given else f"{kind}-{name}"), data, note)
        given.add(name)
    kinds = {kind for kind, _ in seen}
    troubles["listed but missing"] += [
        f"{split}/{name}"
        for (kind, name), note in listed.items()
        if (kind, name) not in seen and kind in kinds and split in (kind, note.split)
    ]


def _stored(
    layout: Layout, kinds: set[str], troubles: Troubles
) -> Iterator[tuple[str, str, bytes]]:
    """(kind, name, encoded picture) of files, then of archives."""
    for kind, path in layout.images:
        if kind in kinds:
            try:
                yield kind, path.stem, content(path, LARGEST_MEMBER)
            except (OSError, ValueError):
                troubles["unreadable"].append(path.name)
    for kind, archive in layout.archives:
        if kind in kinds:
            for name, data in members(archive):
                if _is_picture(name):
                    yield kind, PurePosixPath(name).stem, data


def _sharded(layout: Layout, split: str, troubles: Troubles) -> Iterator[Picture]:
    """The pictures of a split's parquet shards, named by number."""
    first = _first_label(layout)
    count = 0
    for path in (path for shard, path in layout.shards if shard == split):
        for row in rows(path, ["image", "label"]):
            image, label = row["image"], row.get("label")
            data = image.get("bytes") if isinstance(image, dict) else image
            count += 1
            name = f"{split}_{count:05d}"
            if not isinstance(data, bytes):
                troubles["unreadable"].append(f"{split}/{name}")
                continue
            known = isinstance(label, int) and 0 <= label - first < NUM_CLASSES
            if not known:
                troubles["without annotation"].append(f"{split}/{name}")
            yield Picture(name, data, Note(label - first, None, split) if known else None)


def _first_label(layout: Layout) -> int:
    """The first label of the shards: 0, or 1 as in the annotation files."""
    labels = (row.get("label") for _, path in layout.shards for row in rows(path, ["label"]))
    return int(any(label == NUM_CLASSES for label in labels))
