"""python -m experiments.prepare --source cars196 --path DIR [--data-dir DIR]
python -m experiments.prepare --empty-caches [--cache-dir DIR] [--data-dir DIR]

Converts manually downloaded files to a TFDS dataset in array_record format, which
training and `tfds.data_source` read without TensorFlow. Nothing is downloaded. The second
form deletes what commands have cached, all of which they can make again, and prints the sizes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.data import emptying
from experiments.data.sources import cifar10, prepared, stanford_cars
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.progress import stage


@dataclass(frozen=True)
class PrepareConfig:
    """Convert manually downloaded Stanford Cars (or CIFAR-10) to a TFDS dataset.

    CIFAR-10 takes less than a minute on two cores. The pictures of Stanford Cars are copied, not
    decoded.
    """

    source: Literal["cars196", "cifar10"] = "cars196"
    """Which dataset the files are."""
    path: str | None = None
    """Folder with the files; by default downloads/manual in the TFDS data folder."""
    data_dir: str | None = None
    """TFDS data folder to write to; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    empty_caches: bool = False
    """Delete resized images, features, compiled functions and rendered cars; prepare nothing."""
    cache_dir: str | None = None
    """Cache folder to empty; by default jaxddim in the user's cache folder."""


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
    with stage(f"looking for the files of {config.source}", wait=True, spinner=False):
        folder, notes = source.ensure(config.path, config.data_dir)
    with prepared.readable(folder):
        sizes = prepared.split_sizes(source.builder(config.data_dir))
    return Prepared(folder, sizes, notes)


def main(config: PrepareConfig) -> None:
    """Prepares a dataset, and prints where it is and how many images it has; or empties caches."""
    if config.empty_caches:
        for line in emptying.empty(config.cache_dir, config.data_dir):
            print(line)
        return
    if config.cache_dir:
        raise UserError("--cache-dir belongs to --empty-caches; --data-dir is where datasets go")
    done = prepare(config)
    for note in done.notes:
        print(f"note: {note}")
    counts = ", ".join(f"{number:,} {split}" for split, number in done.sizes.items())
    images = "image" if list(done.sizes.values()) == [1] else "images"
    print(f"{config.source}: {counts} {images} in {done.folder}")


if __name__ == "__main__":
    cli.run(main, PrepareConfig, computes=False)
