"""What a run shows of itself while it trains: validation loss, sample grid, and strip.

All of it is a fixed function of the weights, so that one evaluation compares with the next.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxddim
from experiments import writer
from experiments.configs import Config

STRIP = 10
"""Images in the strip of one sample on its way from noise (seed fig. 5)."""


def make_losses(
    config: Config, model: Any, schedule: jaxddim.Schedule
) -> Callable[[Any, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """``losses(variables, images, t, eps) -> float32 [n]``, as trained but for the weighting.

    Images are uint8; the network sees as many at a time as in training.
    """

    @jaxddim.compiled
    def some(variables: Any, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        output = model.apply(variables, jaxddim.q_sample(schedule, x0, t, eps), t - 1)
        kind, norm = config.diffusion.kind, config.diffusion.norm
        return jaxddim.diffusion_loss(schedule, output, x0, t, eps, kind=kind, norm=norm)

    def losses(variables: Any, images: np.ndarray, t: np.ndarray, eps: np.ndarray) -> np.ndarray:
        n = len(images)
        chunk = min(n, config.train.batch_size // config.train.accumulate)
        parts = []
        for start in range(0, n, chunk):
            rows = np.arange(start, start + chunk) % n
            x0 = images[rows].astype(np.float32) / 127.5 - 1
            parts.append(np.asarray(some(variables, x0, t[rows], eps[rows])))
        return np.concatenate(parts)[:n]

    return losses


def fixed_noise(images: np.ndarray) -> np.ndarray:
    """The noise of these images in every validation."""
    return np.random.default_rng(0).standard_normal(images.shape, np.float32)


def make_validation(
    config: Config, model: Any, schedule: jaxddim.Schedule, images: np.ndarray
) -> Callable[[Any], float]:
    """``validate(variables) -> loss`` on held-out images.

    Image i of n always gets the noise level (i + 1/2) / n of the way to T, and always the same
    noise, so that the loss is comparable between evaluations and between runs.
    """
    n = len(images)
    t = 1 + ((np.arange(n) + 0.5) / n * schedule.num_steps).astype(np.int32)
    eps, losses = fixed_noise(images), make_losses(config, model, schedule)
    return lambda variables: float(losses(variables, images, t, eps).mean(dtype=np.float64))


def make_sampler(
    config: Config, model: Any, schedule: jaxddim.Schedule
) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """``draw(variables) -> (samples [n, h, w, 3], strip [STRIP, h, w, 3])`` by DDIM, eta = 0."""
    size, n = config.data.image_size, config.train.num_samples
    grid = jaxddim.timesteps(schedule.num_steps, config.train.sample_steps)
    keep = min(STRIP, grid.size)

    @jaxddim.compiled
    def draw(variables: Any) -> tuple[jax.Array, jax.Array]:
        denoise_fn = jaxddim.as_denoiser(
            schedule, lambda x, index: model.apply(variables, x, index), kind=config.diffusion.kind
        )
        key = jax.random.key(config.seed)
        x_T = jax.random.normal(key, (n, size, size, 3))
        x, path = jaxddim.integrate(key, denoise_fn, schedule, grid, x_T, keep=keep)
        assert path is not None  # keep > 0
        return x, path.x[:, 0]

    return draw


def write_samples(
    workdir: str, log: writer.Writer, step: int, samples: jax.Array, strip: jax.Array
) -> None:
    """Writes samples/STEP.png and samples/STEP_strip.png, and adds both to the events."""
    zoom = max(1, 96 // samples.shape[1])
    for name, images, columns in (("", samples, None), ("_strip", strip, len(strip))):
        pixels = writer.grid(writer.to_uint8(images), columns)
        path = Path(workdir) / "samples" / f"{step:07d}{name}.png"
        writer.save_png(path, pixels, zoom)
        log.picture(step, f"samples{name}", pixels)
