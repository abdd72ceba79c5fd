"""What samples are compared with: a run's own images, and their features.

Features and statistics are kept in `features` of the image cache, under a name that holds a hash
of their recipe: the pixels, the network, its weights and how images are brought to its size. The
recipe itself is inside and is compared, so nothing is ever taken for what it is not.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import cache
from experiments.evaluation import frechet
from experiments.evaluation.features import networks
from experiments.terminal.files import save_arrays

FORMAT = 1  # part of every recipe: raise it when features of the same images change
CHUNK = 4096


class Splits(NamedTuple):
    """A run's images.

    Attributes:
      source: where they are from.
      images: by split, uint8 [n, size, size, 3]: "train", "holdout" (kept out of training) and
        "all".
      cache: the folder for what is computed from them.
    """

    source: str
    images: dict[str, np.ndarray]
    cache: Path


class Reference(NamedTuple):
    """Features of real images.

    Attributes:
      features: float32 [n, dims].
      statistics: of all n.
      recipe: what they were computed from, and how.
    """

    features: np.ndarray
    statistics: frechet.Statistics
    recipe: dict[str, Any]


def reference(network: networks.FeatureNetwork, found: Splits, split: str) -> Reference:
    """Features and statistics of a split, from the cache where they are there.

    Where the cache cannot be written to, they are computed each time.
    """
    images = found.images[split]
    recipe = {
        "source": found.source,
        "split": split,
        "num": len(images),
        "image_size": images.shape[1],
        "sha256": pixel_hash(images),
        "network": network.name,
        "network_weights": network.weights,
        "resize": network.resize,
        "format": FORMAT,
    }
    name = f"{found.source}-{split}-{network.name.lower()}-{cache.key(recipe)}.npz"
    kept = _read(found.cache / name, recipe)
    if kept is not None:
        return kept
    what = f"features of {found.source} ({split})"
    features = networks.features(network, images, what=what)
    measured = frechet.statistics(features)
    with contextlib.suppress(OSError):
        save_arrays(
            found.cache / name,
            features=features,
            count=np.array(measured.count),
            mean=measured.mean,
            scatter=measured.scatter,
            recipe=np.array(json.dumps(recipe)),
        )
    return Reference(features, measured, recipe)


def _read(path: Path, recipe: dict[str, Any]) -> Reference | None:
    """What is kept under this name, None where there is nothing, or something else or broken."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            if json.loads(str(kept["recipe"])) != recipe:
                return None
            measured = frechet.Statistics(int(kept["count"]), kept["mean"], kept["scatter"])
            return Reference(kept["features"], measured, recipe)
    except Exception:  # a file that a full disk cut short may raise anything
        return None


def pixel_hash(images: np.ndarray) -> str:
    """sha256 over the shape and the pixels of uint8 images."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), CHUNK):
        digest.update(images[start : start + CHUNK].tobytes())
    return digest.hexdigest()
