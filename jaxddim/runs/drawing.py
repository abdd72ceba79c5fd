"""Draws images from a run: image i depends only on the weights, the seed, i and the method."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxddim import checks
from jaxddim.runs.errors import RunError
from jaxddim.runs.methods import DrawConfig, labeller, stepper, time_grid
from jaxddim.runs.trained import Trained
from jaxddim.sampling.loop import sample
from jaxddim.training import meshes

CHUNKS, WORK = (4, 8, 16), 7e9
"""On a CPU: the possible chunks (images per network call), and the least operations per call.

On two cores such a call reaches more than eight tenths of the speed of large ones, and 16 images
are not a long wait for a user who wants one. For `demo` (0.5e9 operations per image), calls of 4,
8, 16 and 32 make 270, 322, 375 and 439 images per second; for `cifar10` and `cars` (8e9), calls of
4 reach 0.92 of the speed of 16 and of 8.
"""


def sampler(
    config: DrawConfig, run: Trained, chunk: int, devices: Mesh | None = None
) -> Callable[..., jax.Array]:
    """``draw(first, seed=config.seed, weights=run.variables) -> images``, compiled once.

    The images are float32 in [-1, 1]. Each device (of a mesh, by default all) draws `chunk` of
    them, from the first on.

    Raises:
      RunError: for an impossible time grid, or a label or a variance that there is not.
    """
    labels = labeller(config, run.config.model.num_classes, run.classes)
    grid, step = time_grid(config, run.schedule), stepper(config, run.config.diffusion)
    shape, devices = (chunk, *run.config.data.shape), devices or meshes.make_mesh()

    def some(given: tuple[Any, jax.Array], first_index: jax.Array) -> jax.Array:
        variables, seed = given
        key, index = checks.new_key(seed), first_index + jnp.arange(chunk)
        label = None if labels is None else labels(key, index)
        denoise_fn = run.denoiser(variables, label=label, guidance=config.guidance)
        return sample(
            key, denoise_fn, run.schedule, grid, shape, step=step, first_index=first_index
        )

    images = meshes.on_each(some, devices, chunk)
    everywhere = meshes.everywhere(devices)
    own = meshes.spread(run.variables, everywhere)

    def draw(first: int, seed: int = config.seed, weights: Any = None) -> jax.Array:
        variables = own if weights is None else meshes.spread(weights, everywhere)
        return images((variables, np.uint32(seed & 0xFFFFFFFF)), first)

    return draw


def chunk_size(run: Trained) -> int:
    """Images per call of the network on this backend.

    Float32 sums depend on array shapes, so this number n does not depend on what is asked for: the
    compiled function always makes images c n .. (c + 1) n - 1, and a batch is cut from these.
    """
    if jax.default_backend() != "cpu":
        return 64
    x, index = jnp.zeros((1, *run.config.data.shape), jnp.float32), jnp.zeros(1, jnp.int32)
    cost = jax.jit(run.model.apply).lower(run.variables, x, index).cost_analysis() or {}
    return next((n for n in CHUNKS if n * cost.get("flops", WORK) >= WORK), CHUNKS[-1])


def drawn(
    config: DrawConfig,
    run: Trained,
    num: int,
    chunk: int | None = None,
    *,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[np.ndarray]:
    """The first num images as uint8, in chunks of all devices; the last may hold more.

    Args:
      config: how to draw them.
      run: the network.
      num: number of images.
      chunk: images at a time on a device; `chunk_size` if not given. Another value changes the
        images, but by rounding only.
      track: shows progress while it yields the first index of each chunk.
    """
    chunk = chunk or chunk_size(run)
    return in_chunks(sampler(config, run, chunk), num, chunk, track=track)


def in_chunks(
    draw: Callable[[int], jax.Array],
    num: int,
    chunk: int,
    *,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Iterator[np.ndarray]:
    """The same, of a `sampler`; a chunk is dispatched before the one before it is waited for."""
    last = None
    for first in track(range(0, num, chunk * jax.device_count())):
        images = draw(first)
        if last is not None:
            yield to_uint8(last)
        last = images
    if last is not None:
        yield to_uint8(last)


def to_uint8(images: Any) -> np.ndarray:
    """Images in [-1, 1] as uint8, rounded and clipped.

    Raises:
      ValueError: when they hold integers.
      RunError: when they hold NaN or infinity, which would become black or white pixels.
    """
    images = np.asarray(images)
    if images.dtype.kind in "biu":
        raise ValueError(f"expected images in [-1, 1] to convert to uint8, got {images.dtype}")
    images = images.astype(np.promote_types(images.dtype, np.float32))
    if not np.isfinite(images).all():
        share = 1 - np.isfinite(images).mean(dtype=np.float64)
        raise RunError(
            f"the images drawn are not finite ({share:.0%} of the values are NaN or infinite), so "
            "no picture was written: training has diverged, or the weights are damaged; take an "
            "earlier --checkpoint, or train again with a lower --optim.learning-rate"
        )
    return np.round(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)
