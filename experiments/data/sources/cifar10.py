"""CIFAR-10 as a TFDS dataset, prepared from its archive if that is on this machine.

Writes the stock `cifar10` 3.0.2 in array_record format, which
`tfds.data_source("cifar10")` reads. The archive is `cifar-10-binary.tar.gz`:
records of one label byte and 3072 bytes, the red, green and blue planes.
"""

import functools
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from experiments.data.sources import folder as folders
from experiments.data.sources import prepared
from experiments.data.sources.containers import LARGEST_MEMBER, members
from experiments.terminal.errors import UserError
from experiments.terminal.files import content
from experiments.terminal.texts import brief

VERSION = "3.0.2"
ARCHIVE = "cifar-10-binary.tar.gz"
RECORD = 1 + 3 * 32 * 32
FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


def folder(data_dir: str | None) -> Path:
    """Where the prepared dataset is or will be."""
    return prepared.data_root(data_dir) / "cifar10" / VERSION


def ensure(path: str | None, data_dir: str | None) -> tuple[Path, tuple[str, ...]]:
    """The folder of the prepared dataset, preparing it first if needed.

    Args:
      path: folder that holds the archive or its unpacked files; by default TFDS's
        folder for manual downloads.
      data_dir: TFDS data folder, None for the default one.
    Returns:
      (folder of the dataset, messages for the user).
    Raises:
      UserError: when there are no files to prepare from, they are damaged, or there is
        already a copy in another format.
    """
    target = folder(data_dir)
    if (notes := prepared.there(target, path)) is not None:
        return target, notes
    manual = prepared.data_root(data_dir) / "downloads" / "manual"
    place = folders.existing(path) if path else manual
    files = _read(place)
    if not files:
        raise UserError(
            f"CIFAR-10 is not on this machine: download {ARCHIVE} from the CIFAR-10 page into a "
            "folder DIR, then run `python -m experiments.prepare --source cifar10 --path DIR` "
            f"(looked in {target} and {place})"
        )
    notes = prepared.make_room(target)
    prepared.write(_writer_class()(files, data_dir=str(prepared.data_root(data_dir))))
    return target, notes


def builder(data_dir: str | None) -> Any:
    """The stock builder, to read what `ensure` wrote."""
    import tensorflow_datasets as tfds

    return tfds.builder("cifar10", data_dir=str(prepared.data_root(data_dir)))


def _read(place: Path) -> dict[str, bytes]:
    """File name -> content of the six record files; empty if there are none."""
    wanted = {name for names in FILES.values() for name in names}
    paths = [place / name for name, *_ in folders.walk(place, [], depth=3)]
    files = {path.name: _content(path) for path in paths if path.name in wanted}
    archive = next((path for path in paths if path.name == ARCHIVE), None)
    if not files and archive is None:
        return {}
    if archive is not None and set(files) != wanted:
        found = ((PurePosixPath(name).name, data) for name, data in members(archive))
        files = {name: data for name, data in found if name in wanted}
    broken = sorted(n for n in wanted if not files.get(n) or len(files[n]) % RECORD)
    if broken:
        raise UserError(
            f"{archive or place}: {', '.join(broken)} missing or cut short; "
            f"download {ARCHIVE} again"
        )
    strange = sorted(name for name, data in files.items() if max(data[::RECORD]) >= len(CLASSES))
    if strange:
        raise UserError(
            f"{archive or place}: {', '.join(strange)} with labels above {len(CLASSES) - 1}; "
            f"download {ARCHIVE} again"
        )
    return files


def _content(path: Path) -> bytes:
    try:
        return content(path, LARGEST_MEMBER)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({brief(error)}); copy it again") from None


@functools.cache
def _writer_class() -> Any:
    """The stock builder, reading local files instead; created on first use."""
    from tensorflow_datasets.image_classification import cifar

    class Cifar10(cifar.Cifar10, skip_registration=True):
        """cifar10 from the record files."""

        def __init__(self, files: dict[str, bytes], **kwargs: Any):
            self._files = files
            super().__init__(**kwargs)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager  # nothing to download
            self.info.features["label"].names = CLASSES
            return {
                split: prepared.counted(_examples(self._files, split), f"cifar10 ({split})")
                for split in FILES
            }

        def _generate_examples(self) -> None:  # pyrefly: ignore[bad-override]
            """Required by TFDS; `_split_generators` does not use it."""

    return Cifar10


def _examples(files: dict[str, bytes], split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(key, example) as the stock builder yields them."""
    whole = b"".join(files[name] for name in FILES[split])
    records = np.frombuffer(whole, np.uint8).reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for index, (label, image) in enumerate(zip(records[:, 0], images, strict=True)):
        yield (
            index,
            {
                "id": f"{split}_{index:05d}",
                "image": _png(image),
                "label": int(label),
            },
        )


def _png(image: np.ndarray) -> io.BytesIO:
    """An image as a PNG file: TFDS would need TensorFlow to encode the array."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file
