"""Loading a run's own images."""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from experiments.data import dataset as datasets
from experiments.evaluation.references import Splits
from experiments.terminal.files import absolute, cache_dir
from experiments.terminal.texts import printable
from jaxddim.runs import record


@dataclass(frozen=True)
class Places:
    """Where the run's images are now; by default as in the run's configuration."""

    path: str | None = None
    """Folder of images (folder), or of hand-placed archives (cars196, cifar10)."""
    data_dir: str | None = None
    """TFDS data folder."""
    cache_dir: str | None = None
    """Cache folder of resized images and their features."""


def absolute_places(places: Places) -> dict[str, str | None]:
    """The places as a record keeps them."""
    return {name: absolute(path) for name, path in dataclasses.asdict(places).items()}


def splits(workdir: str, places: Places = Places()) -> Splits:
    """Loads the images that a run was trained and validated on.

    Args:
      workdir: folder of the run.
      places: where the images are now.
    Raises:
      UserError: if the images are not on this machine, or are not the run's.
    """
    given: dict[str, Any] = {k: v for k, v in dataclasses.asdict(places).items() if v is not None}
    config = dataclasses.replace(record.load(workdir).data, **given)
    dataset = datasets.load(config, record.read_names(workdir))
    found = record.read(workdir) or {}
    record.check_images(workdir, dataset.fingerprint, len(dataset.images), found)
    for note in dataset.notes:
        if note not in (found.get("data", {}).get("notes") or ()):  # training has said these
            print(f"note: {printable(note)}", file=sys.stderr)
    train, holdout = datasets.split(dataset, config.holdout)
    parts = {"train": train, "holdout": holdout, "all": dataset}
    return Splits(
        dataset.source,
        {name: part.images for name, part in parts.items()},
        cache_dir(config.cache_dir) / "features",
        {name: part.labels for name, part in parts.items()},
    )
