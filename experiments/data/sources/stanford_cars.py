"""Stanford Cars as a TFDS dataset, prepared from files on this machine.

Writes the stock `cars196` 2.1.0 in array_record format, which can be read with

    tfds.data_source("cars196", split="train", data_dir=...)

Only the writer is custom, since the stock builder needs TensorFlow and downloads from
pages that no longer exist. JPEGs are stored byte for byte.
"""

import functools
import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.data import decoding
from experiments.data.sources import layouts, prepared
from experiments.data.sources.layouts import Layout, Note, Picture
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.progress import stage
from experiments.terminal.texts import listed

VERSION = "2.1.0"
SIZES = {"train": 8144, "test": 8041}
FULL_BOX = (0.0, 0.0, 1.0, 1.0)
INSTRUCTIONS = (
    "Stanford Cars are not on this machine, and their old download pages are gone: put {expected} "
    "into a folder DIR, then run `python -m experiments.prepare --source cars196 --path DIR` "
    "(looked in {places})"
)


def folder(data_dir: str | None) -> Path:
    """Where the prepared dataset is or will be."""
    return prepared.data_root(data_dir) / "cars196" / VERSION


def manual_folder(data_dir: str | None) -> Path:
    """Where TFDS looks for manually downloaded archives."""
    return prepared.data_root(data_dir) / "downloads" / "manual"


def available(path: str | None, data_dir: str | None) -> bool:
    """Whether Stanford Cars are available without a download.

    A prepared copy counts, even if the files at `path` that it was made from have been
    removed. A `path` that holds something else does not count.

    Raises:
      UserError: when `path` does not exist and nothing has been prepared.
    """
    ready = prepared.file_format(folder(data_dir)) is not None
    if path is None:
        return ready or _in_manual_folder(data_dir) is not None
    if ready and not located(path).exists():
        return True
    return layouts.find(path) is not None


def _in_manual_folder(data_dir: str | None) -> Layout | None:
    place = manual_folder(data_dir)
    return layouts.find(place) if place.is_dir() else None


def ensure(path: str | None, data_dir: str | None) -> tuple[Path, tuple[str, ...]]:
    """The folder of the prepared dataset, preparing it first if needed.

    Args:
      path: folder with any known layout; by default TFDS's folder for manual downloads.
      data_dir: TFDS data folder, None for the default one.
    Returns:
      (folder of the dataset, messages for the user).
    Raises:
      UserError: when there are no files to prepare from (the message says what to get and
        where to put it), they are damaged, or there is already a copy in another format.
    """
    target = folder(data_dir)
    if (notes := prepared.there(target, path)) is not None:
        return target, notes
    layout = layouts.find(path) if path else _in_manual_folder(data_dir)
    if layout is None:
        places = f"{target} and {path or manual_folder(data_dir)}"
        raise UserError(INSTRUCTIONS.format(expected=layouts.EXPECTED, places=places))
    return target, prepare(layout, data_dir)


def prepare(layout: Layout, data_dir: str | None) -> tuple[str, ...]:
    """Write the files of a layout as TFDS cars196; returns messages for the user."""
    notes = prepared.make_room(folder(data_dir))
    troubles: layouts.Troubles = defaultdict(list)
    writer = _writer_class()(layout, troubles, data_dir=str(prepared.data_root(data_dir)))
    prepared.write(writer)
    with stage("checking the files of cars196", wait=True):
        notes += layouts.checksum_notes(layout)
    sizes = prepared.split_sizes(writer)
    if sizes != SIZES:
        found = ", ".join(f"{sizes.get(name, 0):,} of {n:,} {name}" for name, n in SIZES.items())
        notes += (f"incomplete Stanford Cars: {found} images",)
    trouble = "; ".join(f"{len(n)} {what} ({listed(n)})" for what, n in troubles.items() if n)
    return (*notes, f"cars196: {trouble}") if trouble else notes


def builder(data_dir: str | None) -> Any:
    """The stock builder, to read what `prepare` wrote."""
    import tensorflow_datasets as tfds

    return tfds.builder("cars196", data_dir=str(prepared.data_root(data_dir)))


@functools.cache
def _writer_class() -> Any:
    """The stock builder, reading local files instead.

    Created on first use: TFDS takes half a second to import.
    """
    from tensorflow_datasets.image_classification import cars196

    class Cars196(cars196.Cars196, skip_registration=True):
        """cars196 from a Layout."""

        def __init__(self, layout: Layout, troubles: layouts.Troubles, **kwargs: Any):
            self._layout = layout
            self._troubles = troubles
            super().__init__(**kwargs)

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager  # nothing to download
            notes = layouts.read_annotations(self._layout)
            names = layouts.splits(self._layout, notes)
            return {name: self._generate_examples(notes, name) for name in names}

        def _generate_examples(  # pyrefly: ignore[bad-override]
            self, notes: dict[tuple[str, str], Note], split: str
        ) -> Any:
            found = _examples(self._layout, notes, split, self._troubles)
            return prepared.counted(found, f"cars196 ({split})")

    return Cars196


def _examples(
    layout: Layout, notes: dict[tuple[str, str], Note], split: str, troubles: layouts.Troubles
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, example) of a split, as TFDS expects them."""
    import tensorflow_datasets as tfds

    count = 0
    for picture in layouts.pictures(layout, notes, split, troubles):
        size = _size(picture)
        if size is None:
            troubles["unreadable"].append(f"{split}/{picture.name}")
            continue
        count += 1
        yield (
            picture.name,
            {
                "id": picture.name,
                "image": io.BytesIO(picture.data),
                "label": picture.note.label if picture.note else -1,
                "bbox": tfds.features.BBox(*_box(picture.note, *size)),
            },
        )
    if not count:
        raise UserError(
            f"{layout.root}: no readable picture of the {split} split; expected {layouts.EXPECTED}"
        )


def _size(picture: Picture) -> tuple[int, int] | None:
    """Width and height from the header, None if it is not a picture."""
    try:
        return decoding.opened(io.BytesIO(picture.data), lambda image: image.size)
    except Exception:  # decoders may raise anything on damaged files
        return None


def _box(note: Note | None, width: int, height: int) -> tuple[float, ...]:
    """ymin, xmin, ymax, xmax as shares of the picture; the whole picture if not known."""
    if note is None or note.box is None:
        return FULL_BOX
    shares = (edge / side for edge, side in zip(note.box, (height, width) * 2, strict=True))
    ymin, xmin, ymax, xmax = (min(max(share, 0.0), 1.0) for share in shares)
    return (ymin, xmin, ymax, xmax) if ymin <= ymax and xmin <= xmax else FULL_BOX
