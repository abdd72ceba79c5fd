"""The reference of an evaluation: a run's own images, and their features.

Features and statistics are cached in the folder `features` of the image cache. The file name holds
a hash of their recipe: the pixels, the network, its weights and how images are resized. The file
also stores the recipe, which is compared on reading, so a file is never mistaken for another.
"""

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from experiments.data import cache
from experiments.evaluation import frechet
from experiments.evaluation.features import networks
from experiments.terminal.files import is_trusted, save_arrays
from experiments.terminal.texts import brief
from jaxddim.files import arrays
from jaxddim.files.arrays import Form

FORMAT = 1  # part of every recipe: raise it when features of the same images change


class Splits(NamedTuple):
    """A run's images.

    Attributes:
      source: where the images come from.
      images: by split, uint8 [n, h, w, c]: "train", "holdout" (kept out of training) and
        "all".
      cache: the folder of cached features.
      labels: by split, int32 [n], -1 where unknown; none for images that are not the run's.
    """

    source: str
    images: dict[str, np.ndarray]
    cache: Path
    labels: Mapping[str, np.ndarray] = MappingProxyType({})


class Reference(NamedTuple):
    """Features of real images.

    Attributes:
      features: float32 [n, dims].
      statistics: of all n images.
      recipe: what the features were computed from, and how.
    """

    features: np.ndarray
    statistics: frechet.Statistics
    recipe: dict[str, Any]


def reference(network: networks.FeatureNetwork, found: Splits, split: str) -> Reference:
    """Features and statistics of a split, from the cache if present.

    If the cache is not writable, they are computed each time.
    """
    images = found.images[split]
    recipe = {
        "source": found.source,
        "split": split,
        "num": len(images),
        "shape": list(images.shape[1:]),
        "sha256": pixel_hash(images),
        "network": network.name,
        "network_weights": network.weights,
        "resize": network.resize,
        "format": FORMAT,
    }
    name = f"{found.source}-{split}-{network.name.lower()}-{cache.key(recipe)}.npz"
    kept = _read(found.cache / name, recipe, network.dims)
    if kept is not None:
        return kept
    what = f"features of {found.source} ({split})"
    features = networks.features(network, images, what=what)
    measured = frechet.statistics(features)
    with contextlib.suppress(OSError):  # then they are computed each time
        save_arrays(
            found.cache / name,
            features=features,
            count=np.array(measured.count),
            mean=measured.mean,
            scatter=measured.scatter,
            recipe=np.array(json.dumps(recipe)),
        )
    return Reference(features, measured, recipe)


def _read(path: Path, recipe: dict[str, Any], dims: int) -> Reference | None:
    """The cached reference; None if it is missing, damaged (which is said) or of another recipe."""
    if not path.exists():
        return None
    forms = {
        "recipe": Form("U", ()),
        "count": Form("i", ()),
        "features": Form("f", (recipe["num"], dims)),
        "mean": Form("f", (dims,)),
        "scatter": Form("f", (dims, dims)),
    }
    try:
        if not is_trusted(path, path.parent):
            raise ValueError("others may write to it")
        kept = arrays.read(path, {"recipe": forms["recipe"]})
        if json.loads(str(kept["recipe"])) != recipe:
            return None
        kept = arrays.read(path, forms)
        measured = frechet.Statistics(int(kept["count"]), kept["mean"], kept["scatter"])
        return Reference(kept["features"], measured, recipe)
    except Exception as error:  # damaged files may raise anything
        print(f"note: {path} was damaged ({brief(error)}): computed again", file=sys.stderr)
        return None


def pixel_hash(images: np.ndarray) -> str:
    """sha256 over the shape and the pixels of uint8 images."""
    return cache.pixel_hash(images, repr(images.shape).encode())
