"""What all contenders get: the same network, weights and images."""

import contextlib
from typing import Any
from unittest import mock

import numpy as np

NETWORKS = {
    "simple": ("SimpleUNet 64x64", 64),
    "unet": ("UNet 32x32", 32),
    "cifar10": ("UNet of cifar10 32x32", 32),
    "cars_unet": ("UNet of cars_unet 64x64", 64),
}
CHANNELS = (64, 128, 256, 512, 1024)
UNET: dict[str, Any] = {
    "channels": 64,
    "multipliers": (1, 2, 2, 2),
    "num_blocks": 2,
    "attention": (16,),
}
UNETS: dict[str, dict[str, Any]] = {
    "unet": UNET,
    "cifar10": UNET | {"channels": 128},
    "cars_unet": UNET | {"channels": 128, "multipliers": (1, 2, 2, 2, 4)},
}
LEARNING_RATE, EMA = 2e-4, 0.9999


def inputs(network: str, batch: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The same images and noise indices for every contender."""
    size = size or NETWORKS[network][1]
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    return images, rng.integers(0, 1000, batch).astype(np.int32)


def unet_options(network: str, size: int | None = None) -> dict[str, Any]:
    """A UNet's options; at another size than its own attention is at the same levels."""
    options, own = UNETS[network], NETWORKS[network][1]
    return options | {"attention": tuple(a * (size or own) // own for a in options["attention"])}


def jax_network(
    network: str, dtype: str = "float32", size: int | None = None, **options: Any
) -> Any:
    import jaxddim.models

    if network == "simple":
        return jaxddim.models.SimpleUNet(channels=CHANNELS, dtype=dtype, **options)
    return jaxddim.models.UNet(**unet_options(network, size) | options, dtype=dtype)


def save_weights(network: str, path: str) -> None:
    """Draws weights that keep a signal at every layer (a new UNet outputs about zero)."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    images, index = inputs(network, 2)
    shapes = jax.eval_shape(
        jax_network(network).init, jax.random.key(0), images, jnp.asarray(index)
    )
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    for collection in shapes.values():
        leaves: dict[str, Any] = flatten_dict(collection, sep="/")  # pyrefly: ignore[bad-assignment]
        for name, leaf in leaves.items():
            kind = name.rsplit("/")[-1]
            if kind == "kernel":
                fan_in = np.prod(leaf.shape[:-1])
                weights[name] = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
            else:
                weights[name] = np.full(leaf.shape, float(kind in ("scale", "var")))
    np.savez(path, **{name: value.astype(np.float32) for name, value in weights.items()})


def plain_layers():
    """Replaces our layers by Flax's own, with the same parameters."""
    import flax.linen as nn

    from jaxddim.models import simple_unet, unet

    def conv(features, kernel_size=(3, 3), **options):
        return nn.Conv(features, kernel_size, **options)

    def spread(v, *space):
        return v[:, None, None]

    def conv_transpose(features, name=None, **options):
        return nn.ConvTranspose(features, (4, 4), (2, 2), name=name, **options)

    def group_norm(groups, dtype, name, epsilon=1e-6):
        return nn.GroupNorm(num_groups=groups, epsilon=epsilon, dtype=dtype, name=name)

    def batch_norm(axis_name, dtype, name):
        module = nn.BatchNorm(momentum=0.9, axis_name=axis_name, dtype=dtype, name=name)
        return lambda x, train: module(x, use_running_average=not train)

    layers = {"ConvTranspose": conv_transpose, "BatchNorm": batch_norm, "GroupNorm": group_norm}
    layers |= {"Conv": conv, "Dense": nn.Dense, "spread": spread}
    stack = contextlib.ExitStack()
    for module in (simple_unet, unet):
        for name in layers.keys() & vars(module).keys():
            stack.enter_context(mock.patch.object(module, name, layers[name]))
    return stack
