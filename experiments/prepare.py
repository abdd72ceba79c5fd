"""python -m experiments.prepare --source cars196 --path DIR [--data-dir DIR]

Converts manually downloaded files to a TFDS dataset in array_record format, which
training and `tfds.data_source` read without TensorFlow. Nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.data.sources import cifar10, prepared, stanford_cars
from experiments.terminal import cli


@dataclass(frozen=True)
class PrepareConfig:
    """Convert manually downloaded Stanford Cars (or CIFAR-10) to a TFDS dataset."""

    source: Literal["cars196", "cifar10"] = "cars196"
    """Which dataset the files are."""
    path: str | None = None
    """Folder with the files; by default downloads/manual in the TFDS data folder."""
    data_dir: str | None = None
    """TFDS data folder to write to; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""


class Prepared(NamedTuple):
    """The contents of a dataset folder."""

    folder: Path
    sizes: dict[str, int]  # split -> number of images
    notes: tuple[str, ...]


def prepare(config: PrepareConfig) -> Prepared:
    """Prepares a dataset, unless it is already there.

    Raises:
      UserError: when there are no files to prepare from, or they are damaged.
    """
    source = stanford_cars if config.source == "cars196" else cifar10
    folder, notes = source.ensure(config.path, config.data_dir)
    sizes = prepared.split_sizes(source.builder(config.data_dir))
    return Prepared(folder, sizes, notes)


def main(config: PrepareConfig) -> None:
    """Prepares a dataset, and prints where it is and how many images it has."""
    done = prepare(config)
    for note in done.notes:
        print(f"note: {note}")
    counts = ", ".join(f"{number:,} {split}" for split, number in done.sizes.items())
    images = "image" if list(done.sizes.values()) == [1] else "images"
    print(f"{config.source}: {counts} {images} in {done.folder}")


if __name__ == "__main__":
    cli.run(main, PrepareConfig, computes=False)
