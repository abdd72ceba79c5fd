"""The loss on held-out images: a fixed function of the weights, so values are comparable."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import jaxddim
from jaxddim.denoisers import halves
from jaxddim.runs.config import Config
from jaxddim.training import Weighting, meshes


def make_losses(
    config: Config,
    model: Any,
    schedule: jaxddim.Schedule,
    weighting: Weighting | None = None,
    mesh: Mesh | None = None,
) -> Callable[..., np.ndarray]:
    """``losses(variables, images, t, eps, labels=None) -> float32 [n]``, by default unweighted.

    They are those of the mean, also for a network that predicts its variance.
    Images are uint8; the network gets as many at a time as in training, spread over the mesh, by
    default over all devices.
    """
    mesh = mesh or meshes.make_mesh()
    rows, whole = meshes.by_rows(mesh), meshes.everywhere(mesh)

    def some(variables: Any, batch: tuple[jax.Array, ...]) -> jax.Array:
        x0, t, eps, *label = batch
        given = {"label": label[0]} if label else {}
        output = model.apply(variables, jaxddim.q_sample(schedule, x0, t, eps), t - 1, **given)
        if config.diffusion.learned_variance:
            output, _ = halves(output, x0.shape)
        kind, norm = config.diffusion.kind, config.diffusion.norm
        options = {"kind": kind, "norm": norm, "weighting": weighting}
        return jaxddim.diffusion_loss(schedule, output, x0, t, eps, **options)

    places = {"in_shardings": (whole, rows), "out_shardings": whole}
    some = jaxddim.compiled(some, **places)

    def losses(
        variables: Any,
        images: np.ndarray,
        t: np.ndarray,
        eps: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        n = len(images)
        chunk = min(n, config.train.batch_size // config.train.accumulate)
        chunk = -(-chunk // mesh.size) * mesh.size
        variables, parts = meshes.spread(variables, whole), []
        for start in range(0, n, chunk):
            chosen = np.arange(start, start + chunk) % n
            x0 = images[chosen].astype(np.float32) / 127.5 - 1
            batch = (x0, t[chosen], eps[chosen])
            batch += () if labels is None else (labels[chosen],)
            placed = jax.block_until_ready(meshes.spread(batch, rows))  # see keep_memory
            parts.append(np.asarray(some(variables, placed)))
        return np.concatenate(parts)[:n]

    return losses


def fixed_noise(images: np.ndarray) -> np.ndarray:
    """The noise that these images get in every validation."""
    return np.random.default_rng(0).standard_normal(images.shape, np.float32)


def make_validation(
    config: Config,
    model: Any,
    schedule: jaxddim.Schedule,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    weighting: Weighting | None = None,
    times: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Any], float]:
    """``validate(variables) -> loss`` on held-out images.

    Image i of n always gets the noise level (i + 1/2) / n of the way to T, or that quantile of the
    times in training, and always the same noise, so that the loss is comparable between
    evaluations and between runs.
    """
    n, T = len(images), schedule.num_steps
    quantile = (np.arange(n) + 0.5) / n
    t = 1 + (quantile * T).astype(np.int32)
    if times is not None:
        share = np.cumsum(np.asarray(times, np.float64))
        t = 1 + np.searchsorted(share, quantile * share[-1], side="right").astype(np.int32)
    eps, losses = fixed_noise(images), make_losses(config, model, schedule, weighting, mesh)
    return lambda variables: float(losses(variables, images, t, eps, labels).mean(dtype=np.float64))
