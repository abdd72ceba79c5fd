"""Sample pictures during training: a grid of samples, and a strip of one sample's path from noise.

Both are a fixed function of the weights, so pictures from different steps are comparable.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import jaxddim
from experiments.terminal import pictures
from experiments.trainer.log import Log
from jaxddim import checks
from jaxddim.runs.config import Config
from jaxddim.runs.drawing import to_uint8
from jaxddim.training import meshes

ROWS = 10
"""Classes that samples are drawn of, at most, for a run that learns labels."""
STRIP = 10
"""Images in the strip, which shows one sample on its way from noise (seed fig. 5)."""


def make_sampler(
    config: Config, model: Any, schedule: jaxddim.Schedule, mesh: Mesh
) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """``draw(variables) -> (samples [n, h, w, c], strip [STRIP, h, w, c])`` by DDIM, eta = 0.

    The samples are drawn by all devices of the mesh. With labels they are as `layout` says.
    """
    classes, columns = layout(config)
    labels = jnp.repeat(jnp.arange(classes), columns) if config.model.labels else None
    shape = (classes * columns, *config.data.shape)
    grid = jaxddim.timesteps(schedule.num_steps, config.train.sample_steps)
    keep = min(STRIP, grid.size)

    rows = meshes.by_rows(mesh)
    padding = [(0, -shape[0] % mesh.size)] + [(0, 0)] * 3

    def draw(variables: Any) -> tuple[jax.Array, jax.Array]:
        given = {} if labels is None else {"label": jnp.pad(labels, padding[0])}
        denoise_fn = jaxddim.as_denoiser(
            schedule,
            lambda x, index: model.apply(variables, x, index, **given),
            kind=config.diffusion.kind,
            learned_variance=config.diffusion.learned_variance,
        )
        key = checks.new_key(config.seed)
        x_T = jnp.pad(jax.random.normal(key, shape, jnp.float32), padding)
        x_T = jax.lax.with_sharding_constraint(x_T, rows)
        x, path = jaxddim.integrate(key, denoise_fn, schedule, grid, x_T, keep=keep)
        assert path is not None  # keep > 0
        return x[: shape[0]], path.x[:, 0]

    return jaxddim.compiled(draw, out_shardings=meshes.everywhere(mesh))


def layout(config: Config) -> tuple[int, int]:
    """Rows and columns of the samples: with labels a row for each of the first classes."""
    num = config.train.num_samples
    if not config.model.labels:
        return 1, num
    classes = min(config.model.num_classes or 1, ROWS)
    return classes, max(num // classes, 1)


def path(workdir: str, step: int, name: str) -> Path:
    """The file of the samples ("") or the strip ("_strip") of a step."""
    return Path(workdir) / "samples" / f"{step:07d}{name}.png"


def write_samples(
    config: Config, log: Log, step: int, samples: jax.Array, strip: jax.Array
) -> None:
    """Writes samples/STEP.png and samples/STEP_strip.png, and adds both to TensorBoard."""
    zoom, workdir = pictures.zoom(samples), config.workdir
    across = layout(config)[1] if config.model.labels else None
    for name, images, columns in (("", samples, across), ("_strip", strip, len(strip))):
        pixels = pictures.grid(to_uint8(images), columns)
        pictures.save_png(path(workdir, step, name), pixels, zoom)
        log.picture(step, f"samples{name}", pixels)
