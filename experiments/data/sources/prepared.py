"""TFDS datasets on disk: their folders, formats and encoded pictures.

Only array_record files are used: they have random access and need no TensorFlow.
TFDS is imported only where the files alone are not enough, since importing it is slow.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from experiments.data import cache
from experiments.data.decoding import Pictures
from experiments.terminal.errors import UserError
from experiments.terminal.files import cache_dir, located, record
from experiments.terminal.progress import STDERR, stage, ticks
from experiments.terminal.texts import brief

ARRAY_RECORD = "array_record"
MOST_EXAMPLES = 2**24


def data_root(data_dir: str | None) -> Path:
    """The TFDS data folder: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: when none is chosen and there is no home folder.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    if chosen:
        return located(chosen)
    try:
        return located("~/tensorflow_datasets")
    except UserError as error:
        raise UserError(
            f"no TFDS data folder: give --data-dir (in training: --data.data-dir) ({error})"
        ) from None


def place(data_dir: str | None, cache_folder: str | None) -> Path:
    """`data_root`; without a home folder, a folder in the cache folder.

    Raises:
      UserError: when neither is chosen and there is no home folder.
    """
    if data_dir or os.environ.get("TFDS_DATA_DIR"):
        return data_root(data_dir)
    try:
        return data_root(None)
    except UserError:
        return cache_dir(cache_folder) / "tensorflow_datasets"


def file_format(dataset: Path) -> str | None:
    """The format of the prepared dataset in the folder NAME/VERSION, None if there is none."""
    try:
        about = record(dataset / "dataset_info.json")
    except (OSError, ValueError):
        return None
    return about.get("fileFormat", "tfrecord") if isinstance(about, dict) else None


def there(dataset: Path, path: str | None) -> tuple[str, ...] | None:
    """Messages for the user if the folder NAME/VERSION holds a dataset; else None.

    Args:
      dataset: the folder.
      path: the files that the user gave; not read if the dataset exists.
    Raises:
      UserError: when the dataset is in a format without random access.
    """
    present, name = file_format(dataset), dataset.parent.name
    if present is None:
        return None
    if present != ARRAY_RECORD:
        raise UserError(
            f"{dataset} is a {present} copy, which cannot be read in random order; prepare an "
            f"array_record one elsewhere: python -m experiments.prepare --source {name} --path "
            "DIR --data-dir NEW, then give --data.data-dir NEW"
        )
    unread = f"{name} is already in {dataset}; remove that folder to prepare it again"
    return (unread,) if path else ()


@contextlib.contextmanager
def readable(dataset: Path) -> Iterator[None]:
    """Reports any error inside as damage to the prepared dataset.

    Raises:
      UserError: instead of the error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files may raise anything
        name = dataset.parent.name
        raise UserError(
            f"{dataset} is damaged ({brief(error)}): remove that folder, and prepare it again with "
            f"python -m experiments.prepare --source {name} --path DIR"
        ) from error


def split_sizes(builder: Any) -> dict[str, int]:
    """Number of examples of each split.

    Raises:
      ValueError: when there are more than any of these datasets has.
    """
    sizes = {name: int(split.num_examples) for name, split in builder.info.splits.items()}
    if not 0 <= sum(sizes.values()) <= MOST_EXAMPLES:
        raise ValueError(f"{sum(sizes.values()):,} examples, expected {MOST_EXAMPLES:,} at most")
    return sizes


def make_room(dataset: Path) -> tuple[str, ...]:
    """Remove the folder NAME/VERSION if it holds a damaged dataset; returns messages for the user.

    Raises:
      UserError: when it cannot be removed.
    """
    if not dataset.exists() or file_format(dataset) is not None:
        return ()
    try:
        shutil.rmtree(dataset)
    except OSError as error:
        raise UserError(f"{dataset} is damaged and cannot be removed ({brief(error)})") from None
    return (f"{dataset} was damaged (no readable dataset_info.json): made again",)


def write(builder: Any) -> None:
    """Prepare a dataset as array_record, without network access.

    Raises:
      UserError: when the files cannot be written.
    """
    import tensorflow_datasets as tfds

    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.display_progress_bar(STDERR.is_terminal)  # elsewhere it writes a state ten times a second
    told = stage(f"converting {builder.name}", wait=True, spinner=False)
    reports = io.StringIO()  # of downloads, of which there are none
    cache.sweep(Path(builder.data_dir).parent, cache.INCOMPLETE)
    try:
        with told, contextlib.redirect_stdout(reports):
            builder.download_and_prepare(file_format=ARRAY_RECORD, download_config=offline)
    except OSError as error:
        if file_format(Path(builder.data_dir)) == ARRAY_RECORD:
            return  # another process was faster
        raise UserError(
            f"cannot write {builder.data_dir}: {brief(error)}; free some space there, or choose "
            "another folder with --data-dir (in training: --data.data-dir)"
        ) from error


def counted(examples: Iterable[Any], what: str) -> Iterator[Any]:
    """The examples that are written; without a terminal, their number is told now and then."""
    tell = ticks(f"converting {what}", None, "picture")
    for number, example in enumerate(examples, 1):
        if not STDERR.is_terminal:
            tell(number)
        yield example


def pictures(builder: Any) -> Pictures:
    """The encoded pictures of all splits of a prepared builder, train before test."""
    import tensorflow_datasets as tfds

    sizes = split_sizes(builder)
    splits = sorted(sizes, key=lambda name: (name != "train", name))
    decoders = {"image": tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(split, decoders=decoders) for split in splits]
    names = [f"{split} {i}" for split in splits for i in range(sizes[split])]
    ends = np.cumsum([sizes[split] for split in splits])
    read = _reader(Path(builder.data_dir), sources, ends)
    return Pictures(names, read, tuple(builder.info.features["label"].names))


def _reader(
    dataset: Path, sources: list[Any], ends: np.ndarray
) -> Callable[[int], tuple[BinaryIO, int]]:
    """Position over all sources -> (encoded file, label)."""

    def read(index: int) -> tuple[BinaryIO, int]:
        which = int(np.searchsorted(ends, index, side="right"))
        source = sources[which]
        with readable(dataset):
            example = source[index - int(ends[which]) + len(source)]
            return io.BytesIO(example["image"]), int(example["label"])

    return read
