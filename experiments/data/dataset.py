"""Training images: choosing the source, loading it, and holding out images.

Sources: Stanford Cars (cars196) and CIFAR-10 through TFDS, a folder of pictures, and
rendered cars, which need no download. `auto` uses Stanford Cars if they are on this
machine, else rendered cars, and says so.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.cars import VERSION
from experiments.data import cache, contents, decoding, vetting
from experiments.data.sources import cifar10, folder, prepared, stanford_cars
from experiments.terminal import texts
from experiments.terminal.errors import UserError
from experiments.terminal.files import cache_dir
from experiments.terminal.texts import brief

if TYPE_CHECKING:
    from jaxddim.runs.config import DataConfig

DEFAULT_RENDERED = 4096
BANNER = (
    "Stanford Cars are not on this machine: training on rendered cars instead. To get the real "
    "ones: put their files into a folder DIR, run `python -m experiments.prepare --source cars196 "
    "--path DIR`, and start again"
)


class Dataset(NamedTuple):
    """Images of one source, ready to train on."""

    images: np.ndarray  # uint8 [n, h, w, c], memory-mapped read-only, upright
    labels: np.ndarray  # int32 [n], -1 where unknown
    source: str  # "cars196" | "cifar10" | "folder" | "rendered"
    notes: tuple[str, ...]  # messages for the user
    fingerprint: str  # sha256 over the cached images
    names: tuple[str, ...] = ()  # files that they were read from, for source "folder"
    total: int = 0  # images that the source offers, before num_images
    class_names: tuple[str, ...] = ()  # of the labels


def load(
    config: "DataConfig",
    names: tuple[str, ...] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> Dataset:
    """The images that a configuration selects, decoded and resized once and then cached.

    The images come in one fixed pseudo-random order, see `cache`.

    Args:
      config: source, path, image_size, channels, num_images, classes, data_dir, cache_dir.
      names: of a folder use only these files, those of an earlier call; all if empty.
      meanwhile: called before images are drawn or decoded, which takes a while; it must not wait.
    Returns:
      The dataset; `notes` holds messages for the user.
    Raises:
      UserError: at once, when the data is missing or unusable; the message says what to do.
    """
    if min(config.shape) < 1:
        raise UserError(f"--data.image-size must be at least 1, got {min(config.shape)}")
    if config.num_images is not None and config.num_images < 1:
        raise UserError(f"--data.num-images {config.num_images}: must be at least 1")
    config = dataclasses.replace(
        config, data_dir=str(prepared.place(config.data_dir, config.cache_dir))
    )
    source = config.source if config.source != "auto" else _choose(config)
    loaders = {
        "cars196": partial(_load_prepared, source="cars196", module=stanford_cars),
        "cifar10": partial(_load_prepared, source="cifar10", module=cifar10),
        "folder": partial(_load_folder, names=names),
        "rendered": _load_rendered,
    }
    cached, notes, *used = loaders[source](config, meanwhile)
    if source == "rendered" and config.source == "auto":
        notes = (BANNER, *notes)
    notes = notes + cached.notes
    files = used[0] if used else ()
    return Dataset(
        cached.images,
        cached.labels,
        source,
        notes,
        cached.fingerprint,
        files,
        cached.total,
        cached.class_names,
    )


def _choose(config: "DataConfig") -> str:
    """The source that `auto` stands for here: cars196 or rendered."""
    if stanford_cars.available(config.path, config.data_dir):
        return "cars196"
    if config.path is not None:
        raise UserError(
            f"--data.path {config.path} holds no Stanford Cars in a known layout; to train on the "
            "images in it, add --data.source folder"
        )
    return "rendered"


def _load_prepared(
    config: "DataConfig", meanwhile: Callable[[], None], source: str, module: Any
) -> tuple[cache.Cached, tuple[str, ...]]:
    dataset, notes = module.ensure(config.path, config.data_dir)

    def pictures() -> decoding.Pictures:
        meanwhile()
        with prepared.readable(dataset):
            return prepared.pictures(module.builder(config.data_dir))

    return _cached(config, source, _content(config, folder.scan(dataset)), pictures), notes


def _load_folder(
    config: "DataConfig", meanwhile: Callable[[], None], names: tuple[str, ...]
) -> tuple[cache.Cached, tuple[str, ...], tuple[str, ...]]:
    if config.path is None:
        raise UserError("--data.source folder needs --data.path, the folder of images")
    listing = folder.scan(config.path)
    now = len(listing.names)
    listing = folder.only(listing, names) if names else listing
    notes = (folder.runs_note(listing.runs),) if listing.runs else ()
    if now > len(listing.names):
        notes += (f"{listing.root} holds {now:,} files now: used are the run's {len(names):,}",)
    parts = _content(config, listing, vetting.LARGEST_FILE)

    def pictures() -> decoding.Pictures:
        meanwhile()
        return folder.pictures(listing)

    cached = _cached(config, "folder", parts, pictures)
    return cached, notes, listing.names


def _content(
    config: "DataConfig", listing: folder.Listing, largest: float = math.inf
) -> tuple[tuple[str, ...], str]:
    """What tells files apart: their names and contents, wherever they are."""
    cache_folder = cache_dir(config.cache_dir)
    read = contents.digest(listing.root, listing.names, listing.stamps, cache_folder, largest)
    return listing.names, read


def _load_rendered(
    config: "DataConfig", meanwhile: Callable[[], None]
) -> tuple[cache.Cached, tuple[str, ...]]:
    if config.path is not None:
        raise UserError(
            "--data.source rendered, which this configuration has, draws its images: to train on "
            f"those in it, add --data.source folder; else leave out --data.path {config.path}"
        )
    number = config.num_images or DEFAULT_RENDERED
    notes: list[str] = []

    def pictures() -> decoding.Pictures:
        meanwhile()
        from experiments.data.sources import rendered

        root = prepared.data_root(config.data_dir)
        try:
            found, note = rendered.pictures(config.shape[:2], number, data_dir=str(root))
        except OSError as error:
            raise UserError(
                f"cannot write rendered cars to {root}: {brief(error)}; free some space there, or "
                "choose another folder with --data.data-dir"
            ) from error
        notes.extend(note)
        return found

    return _cached(config, "rendered", (VERSION, number), pictures), tuple(notes)


def _cached(config: "DataConfig", source: str, parts: tuple, pictures) -> cache.Cached:
    """The cache of a source for this size, class filter and number of images."""
    shape, classes, number = config.shape, tuple(config.classes), config.num_images
    key = cache.key(cache.DECODING, source, shape, classes, number, *parts)
    name = f"{source}-{shape[0]}x{shape[1]}-{key}"
    return cache.cached(
        cache_dir(config.cache_dir) / name,
        lambda: decoding.choose(pictures(), classes),
        shape,
        limit=number,
    )


def split(dataset: Dataset, holdout: int) -> tuple[Dataset, Dataset]:
    """Training images, and the last `holdout` images for validation.

    The order of a dataset is pseudo-random and fixed, so its end is a fair sample.
    Both parts are views; no image is copied.

    Args:
      dataset: from `load`.
      holdout: number of images to hold out; limited to a tenth of all images, but at least one.
    Returns:
      (training part, validation part).
    Raises:
      UserError: when `holdout` is below 1 or there are fewer than two images.
    """
    count = len(dataset.images)
    if holdout < 1:
        raise UserError(f"--data.holdout {holdout}: must be at least 1")
    if count < 2:
        raise UserError(
            f"{texts.count(count, 'usable image')}: need one to train on and one to hold out"
        )
    cut = count - min(holdout, max(count // 10, 1))
    return _part(dataset, slice(None, cut)), _part(dataset, slice(cut, None))


def _part(dataset: Dataset, which: slice) -> Dataset:
    return dataset._replace(images=dataset.images[which], labels=dataset.labels[which])
