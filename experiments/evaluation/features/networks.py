"""Feature networks: a vector of features for each image.

A network is its weights and one function of them. It runs on chunks of one fixed shape, the last
one padded. So it is compiled once, and the features of an image do not depend on the number of
images. Matrix products are in full float32 on every device.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.terminal.errors import UserError
from experiments.terminal.progress import tracked

CHUNK = {"cpu": 16}
"""Images per call of the network, by platform; 64 elsewhere."""
PRECISION = "highest"
OF_THE_FID = "Inception-v3"
_CALLED: weakref.WeakSet[Any] = weakref.WeakSet()
"""The compiled functions that have been called."""


class FeatureNetwork(NamedTuple):
    """A network that maps images to features.

    Attributes:
      name: shown in every result.
      dims: number of features.
      resize: how images are resized and scaled for the network, for the record.
      weights: sha256 of the weights file.
      params: the weights.
      embed: ``embed(params, images) -> [b, dims]``, compiled; images as for `features`.
    """

    name: str
    dims: int
    resize: str
    weights: str
    params: Any
    embed: Callable[[Any, jax.Array], jax.Array]

    def label(self, metric: str) -> str:
        """The name of a metric with this network.

        For example "FD (EfficientNet-Lite0)"; "FID" only for the network that defines it.
        """
        if (metric, self.name) == ("FD", OF_THE_FID):
            return "FID"
        return f"{metric} ({self.name})"


def features(network: FeatureNetwork, images: np.ndarray, *, what: str = "features") -> np.ndarray:
    """The features of images.

    Args:
      network: from `loading.load`.
      images: [n, h, w, c], RGB or grey; uint8, or float in [-1, 1]; may be memory-mapped.
      what: label of the progress bar.
    Returns:
      Float32 [n, dims], one row per image.
    Raises:
      UserError: if a feature is not finite.
    """
    chunk = CHUNK.get(jax.default_backend(), 64)
    found = np.empty((len(images), network.dims), np.float32)
    with jax.default_matmul_precision(PRECISION):
        compiles = network.embed not in _CALLED
        _CALLED.add(network.embed)
        for start in tracked(range(0, len(images), chunk), what, compiles=compiles):
            rows = np.arange(start, start + chunk).clip(max=len(images) - 1)
            rgb = np.broadcast_to(images[rows], (chunk, *images.shape[1:3], 3))
            placed = jax.block_until_ready(jnp.asarray(rgb))  # see keep_memory
            answer = network.embed(network.params, placed)
            found[start : start + chunk] = np.asarray(answer)[: len(images) - start]
    if not np.isfinite(found).all():
        raise UserError(f"features of {network.name} are not finite: its weights are damaged")
    return found
