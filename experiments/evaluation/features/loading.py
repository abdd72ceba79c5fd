"""Loading feature networks, with their weights, by name."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp

import jaxddim
from experiments.evaluation.features import efficientnet, inception
from experiments.evaluation.features.networks import FeatureNetwork
from experiments.terminal.errors import UserError, user_mistakes
from experiments.terminal.files import located


def load(name: str, weights: str | None = None) -> FeatureNetwork:
    """Loads a feature network.

    Args:
      name: "efficientnet-lite0" or "inception".
      weights: the weights file of inception; those of efficientnet-lite0 are installed.
    Returns:
      The network.
    Raises:
      UserError: if weights are missing, not expected, or of another network.
    """
    if name == "inception":
        if weights is None:
            raise UserError(
                "--network inception needs --network-weights FILE, the weights that define "
                "the FID: pt_inception-2015-12-05-6726825d.pth from the releases of pytorch-fid"
            )
        kind, path = inception, located(weights)
    else:
        if weights is not None:
            raise UserError("--network-weights belongs to --network inception")
        kind, path = efficientnet, efficientnet.installed()
    with user_mistakes():
        params = kind.load(path)

    def embed(params: Any, images: jax.Array) -> jax.Array:
        pixels = images.astype(jnp.float32)
        if jnp.issubdtype(images.dtype, jnp.floating):
            pixels = (pixels + 1) * 127.5
        return kind.pooled(params, kind.preprocess(pixels))

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    about = kind.NAME, kind.FEATURES, kind.RESIZE, digest
    return FeatureNetwork(*about, jax.device_put(params), jaxddim.compiled(embed))
