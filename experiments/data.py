"""Training images: which source, decoded once, then shuffled, flipped and batched.

    load(config)      -> Dataset: uint8 images on disk, memory-mapped
    split(dataset, k) -> the same, less k images held out for validation; and those k
    batches(images)   -> float32 batches in [-1, 1], endless, the batch of step k being
                         a pure function of (images, batch size, seed, k)

Sources: Stanford Cars (cars196) and CIFAR-10 through TFDS, a folder of pictures, and
rendered cars, which need no download. `auto` takes Stanford Cars when they are on this
machine and the rendered ones when not, and says so.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import cifar, folder, ingest, prepared, stanford_cars
from experiments.cli import UserError
from experiments.containers import brief

if TYPE_CHECKING:
    from experiments.configs import DataConfig

DEFAULT_RENDERED = 4096
ENDLESS = 2**50  # images; Grain's own limit, sys.maxsize, overflows when divided into batches of 1
BANNER = (
    "Stanford Cars are not on this machine: training on rendered cars instead. To get the real "
    "ones: put their files into a folder DIR, run `python -m experiments.prepare --source cars196 "
    "--path DIR`, and start again"
)


class Dataset(NamedTuple):
    """Images of one source, ready to train on."""

    images: np.ndarray  # uint8 [n, size, size, 3], memory-mapped read-only, upright RGB
    labels: np.ndarray  # int32 [n], -1 where unknown
    source: str  # "cars196" | "cifar10" | "folder" | "rendered"
    notes: tuple[str, ...]  # lines for the user
    fingerprint: str  # sha256 over the cached images


def load(config: "DataConfig") -> Dataset:
    """The images that a configuration asks for, decoded and resized once and then cached.

    The images come in one fixed pseudo-random order, see `ingest`.

    Args:
      config: source, path, image_size, num_images, classes, data_dir, cache_dir.
    Returns:
      The dataset; `notes` holds what the user should be told.
    Raises:
      UserError: when the data is missing or unusable, at once and with what to do.
    """
    if config.image_size < 1:
        raise UserError(f"--data.image-size {config.image_size}: must be at least 1")
    if config.num_images is not None and config.num_images < 1:
        raise UserError(f"--data.num-images {config.num_images}: must be at least 1")
    source = config.source if config.source != "auto" else _choose(config)
    loaders = {
        "cars196": partial(_load_prepared, source="cars196", module=stanford_cars),
        "cifar10": partial(_load_prepared, source="cifar10", module=cifar),
        "folder": _load_folder,
        "rendered": _load_rendered,
    }
    cached, notes = loaders[source](config)
    if source == "rendered" and config.source == "auto":
        notes = (BANNER, *notes)
    notes = notes + cached.notes
    return Dataset(cached.images, cached.labels, source, notes, cached.fingerprint)


def _choose(config: "DataConfig") -> str:
    """What `auto` means here: cars196 or rendered."""
    if stanford_cars.available(config.path, config.data_dir):
        return "cars196"
    if config.path is not None:
        raise UserError(
            f"{config.path} holds no Stanford Cars that are known here; to train on the images "
            f"in it, add --data.source folder"
        )
    return "rendered"


def _load_prepared(
    config: "DataConfig", source: str, module: Any
) -> tuple[ingest.Cached, tuple[str, ...]]:
    dataset, notes = module.ensure(config.path, config.data_dir)

    def pictures() -> ingest.Pictures:
        return prepared.pictures(module.builder(config.data_dir))

    return _cached(config, source, (prepared.stamp(dataset),), pictures), notes


def _load_folder(config: "DataConfig") -> tuple[ingest.Cached, tuple[str, ...]]:
    if config.path is None:
        raise UserError("--data.source folder needs --data.path, the folder of images")
    listing = folder.scan(config.path)
    parts = (listing.names, listing.stamps)
    return _cached(config, "folder", parts, lambda: folder.pictures(listing)), ()


def _load_rendered(config: "DataConfig") -> tuple[ingest.Cached, tuple[str, ...]]:
    if config.path is not None:
        raise UserError("--data.source rendered draws its images: leave out --data.path")
    number = config.num_images or DEFAULT_RENDERED
    # This file holds the version of the drawing; importing it would take half a second.
    rooms = ("rendered", "car_designs", "car_shapes", "car_canvas", "car_drawing")
    drawing = b"".join(Path(__file__).with_name(f"{room}.py").read_bytes() for room in rooms)

    def pictures() -> ingest.Pictures:
        from experiments import rendered

        root = prepared.data_root(config.data_dir)
        try:
            drawn = rendered.prepare(config.image_size, number, seed=0, data_dir=str(root))
        except OSError as error:
            raise UserError(
                f"cannot draw cars into {root}: {brief(error)}; make room there, or name another "
                "place with --data.data-dir"
            ) from error
        return prepared.pictures(drawn)

    return _cached(config, "rendered", (drawing, number), pictures), ()


def _cached(config: "DataConfig", source: str, parts: tuple, pictures) -> ingest.Cached:
    """The cache of a source for this size, class filter and number of images."""
    size, classes, number = config.image_size, tuple(config.classes), config.num_images
    root = Path(config.cache_dir).expanduser() if config.cache_dir else ingest.default_cache_dir()
    name = f"{source}-{size}-{ingest.key(source, size, classes, number, *parts)}"
    return ingest.cached(
        root / name, lambda: ingest.choose(pictures(), classes), size, limit=number
    )


def split(dataset: Dataset, holdout: int) -> tuple[Dataset, Dataset]:
    """Training images, and the last `holdout` images for validation.

    The order of a dataset is pseudo-random and fixed, so its end is a fair sample.
    Both parts are views; no image is copied.

    Args:
      dataset: from `load`.
      holdout: number of images to hold out; at most a tenth of them are, and at least one.
    Returns:
      (training part, validation part).
    Raises:
      UserError: when `holdout` is below 1 or there are fewer than two images.
    """
    count = len(dataset.images)
    if holdout < 1:
        raise UserError(f"--data.holdout {holdout}: must be at least 1")
    if count < 2:
        raise UserError(f"{count} usable image: at least one to train on and one to hold out")
    cut = count - min(holdout, max(count // 10, 1))
    return _part(dataset, slice(None, cut)), _part(dataset, slice(cut, None))


def _part(dataset: Dataset, which: slice) -> Dataset:
    return dataset._replace(images=dataset.images[which], labels=dataset.labels[which])


def batches(
    images: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    flip: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[np.ndarray]:
    """Endless batches, float32 [batch_size, size, size, 3] in [-1, 1].

    There is one endless stream of images: every epoch is a new permutation of all of
    them, and each image of the stream has a coin of its own for the horizontal flip.
    A batch is a stretch of the stream, across the ends of epochs too, so batch k
    depends on nothing but the arguments and k, and starting at `first_step` costs
    nothing.

    Args:
      images: uint8 [n, size, size, 3].
      batch_size: images in a batch of this process.
      seed: decides permutations and flips.
      first_step: the step whose batch comes first.
      flip: whether images are flipped, each with probability one half.
      shard: (i, n): process i of n takes every n-th image of the stream, from the i-th on.
    Returns:
      An iterator that reads ahead.
    """
    import grain.python as grain

    index, count = shard
    # Grain handles one element after the other: as numbers and coins they are cheaper than images.
    stream = grain.MapDataset.range(len(images)).seed(seed % 2**32).shuffle().repeat()
    stream = stream.random_map(lambda number, rng: (number, flip and rng.random() < 0.5))
    steps = stream[index:ENDLESS:count].batch(batch_size)[first_step:]
    steps = steps.map(partial(_gather, np.asarray(images)))
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def _gather(images: np.ndarray, chosen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The images of these numbers, mirrored where the coin says so, as float32 -1..1."""
    numbers, coins = chosen
    batch = images[numbers]
    leftwards = np.arange(images.shape[2])[::-1]
    batch[coins] = batch[coins].take(leftwards, axis=2)  # a slice [::-1] is copied more slowly
    scaled = batch.astype(np.float32)
    scaled /= np.float32(127.5)
    scaled -= np.float32(1)
    return scaled
