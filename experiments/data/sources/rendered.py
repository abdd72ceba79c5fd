"""Rendered cars: a dataset that is drawn instead of downloaded.

`render` draws picture i from (seed, i, size) alone. `prepare` saves the first pictures as a TFDS
dataset in which record i is picture i, so they are drawn once and read like any other data. Files
are array_record: they have random access and need no TensorFlow.
"""

import contextlib
import dataclasses
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from experiments.cars import VERSION
from experiments.cars.drawing import BODY_TYPES, labels, render
from experiments.data import cache
from experiments.data.decoding import Pictures
from experiments.data.sources import prepared
from experiments.data.sources.prepared import ARRAY_RECORD
from experiments.terminal.progress import tracked
from experiments.terminal.texts import brief

__all__ = [
    "BODY_TYPES",
    "RenderedCars",
    "RenderedConfig",
    "labels",
    "pictures",
    "prepare",
    "render",
]

_BLOCK = 64  # pictures drawn before they are written


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return file.getvalue()


@dataclasses.dataclass(eq=False)
class RenderedConfig(tfds.core.BuilderConfig):
    """The pictures of a prepared dataset; each configuration has its own folder."""

    name: str = ""
    size: tuple[int, int] = (64, 64)
    num_images: int = 4096
    seed: int = 0

    def __post_init__(self):
        height, width = self.size
        self.name = f"{height}x{width}_{self.num_images}_seed{self.seed}"


class RenderedCars(tfds.core.GeneratorBasedBuilder):
    """Rendered pictures of cars with their body types."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [RenderedConfig()]

    def _info(self) -> tfds.core.DatasetInfo:
        shape = (*self.builder_config.size, 3)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Drawn pictures of cars: seven body types seen from the side.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=BODY_TYPES),
                }
            ),
            disable_shuffling=True,  # record i is picture i
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # nothing to download
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        # In one thread: with arrays this small, two were slower, contending for the GIL.
        config = self.builder_config
        starts = range(0, config.num_images, _BLOCK)
        for start in tracked(starts, "drawing cars", wait=True):
            block = range(start, min(start + _BLOCK, config.num_images))
            pictures = render(block, size=config.size, seed=config.seed)
            kinds = labels(block, seed=config.seed)
            for index, picture, kind in zip(block, pictures, kinds, strict=True):
                yield index, {"image": _png(picture), "label": int(kind)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's progress bars and its reports of downloads, of which there are none."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def prepare(
    size: int | tuple[int, int] = 64,
    num_images: int = 4096,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
) -> RenderedCars:
    """A builder whose pictures are on disk, drawn now if they are missing.

    Args:
      size: the side of a square in pixels, or (height, width).
      num_images: how many pictures.
      seed: as in `render`.
      data_dir: TFDS data folder, None for the default one.
    Returns:
      The builder; `builder.as_data_source("train")[i]` is a dict with image i and its label.
    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     source = prepare(16, 2, data_dir=folder).as_data_source("train")
      ...     source[1]["image"].shape
      (16, 16, 3)
    """
    size = (size, size) if isinstance(size, int) else size
    config = RenderedConfig(size=size, num_images=num_images, seed=seed)
    config = RenderedCars.builder_configs.get(config.name, config)  # TFDS needs its own instance
    with _quiet():
        builder = RenderedCars(data_dir=data_dir, config=config, file_format=ARRAY_RECORD)
        if not builder.is_prepared():
            offline = tfds.download.DownloadConfig(try_download_gcs=False)
            cache.sweep(Path(builder.data_dir).parent, cache.INCOMPLETE)
            try:
                builder.download_and_prepare(download_config=offline)
            except FileExistsError:  # another process prepared the same folder meanwhile
                builder = RenderedCars(data_dir=data_dir, config=config, file_format=ARRAY_RECORD)
                if not builder.is_prepared():
                    raise
    return builder


def pictures(
    size: tuple[int, int], num_images: int, *, data_dir: str | os.PathLike
) -> tuple[Pictures, tuple[str, ...]]:
    """The first pictures of seed 0 from disk, and messages for the user.

    What is on disk is read as a whole first; if it is damaged, it is drawn again.

    Args:
      size: height and width in pixels.
      num_images: how many pictures.
      data_dir: TFDS data folder.
    Raises:
      OSError: when they cannot be written.
    """
    try:
        return _whole(size, num_images, data_dir), ()
    except OSError:
        raise
    except Exception as error:  # damaged files may raise anything
        name = RenderedConfig(size=size, num_images=num_images).name
        folder = Path(data_dir, RenderedCars.name, name, VERSION)
        if not folder.exists():
            raise
        shutil.rmtree(folder)
        note = f"rendered cars in {folder} were damaged ({brief(error)}): drawn again"
        return _whole(size, num_images, data_dir), (note,)


def _whole(size: tuple[int, int], num_images: int, data_dir: str | os.PathLike) -> Pictures:
    found = prepared.pictures(prepare(size, num_images, data_dir=data_dir))
    if len(found.names) != num_images:
        raise ValueError(f"{len(found.names)} pictures, expected {num_images}")
    for index in range(num_images):
        found.read(index)
    return found
