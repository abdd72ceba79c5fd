"""Bits per dimension of held-out images, by the variational bound and by DDIM's ODE.

Both need at least one network evaluation per step and image. So they are measured on the first
images only, and only on request.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxddim
from experiments.terminal.progress import tracked
from jaxddim import checks, likelihood
from jaxddim.runs.drawing import chunk_size
from jaxddim.runs.trained import Trained
from jaxddim.sampling.conditioning import fraction_of
from jaxddim.training import meshes

IMAGES = 16
ODE_STEPS = 100

ChunkFn = Callable[[Any, jax.Array, jax.Array], Any]
"""``bits(variables, key, images, first_index)``: a tree of arrays whose last axis is the image."""


def bound(run: Trained, images: np.ndarray, seed: int) -> dict[str, Any]:
    """The terms of the variational bound over all T steps, for each variance that there is.

    The model is the one used for sampling, with x_0 clipped, as by the DDPM authors.

    Args:
      run: from `load_run`.
      images: uint8 [n, h, w, c], not seen in training; the first `IMAGES` are used.
      seed: the seed of the noise.
    Returns:
      For each variance the mean bound, its standard error and its terms, in bits per dimension.
    """
    grid = jaxddim.timesteps(run.schedule.num_steps, run.schedule.num_steps)

    learned = run.config.diffusion.learned_variance

    def bits(variance: Any) -> ChunkFn:
        step = functools.partial(jaxddim.ddpm_step, variance=variance)
        step = jaxddim.learned_step if variance == "learned" else step

        def of_chunk(variables: Any, first: jax.Array, x0: jax.Array) -> Any:
            key = checks.new_key(seed)
            found = likelihood.variational_bound(
                key, run.denoiser(variables), run.schedule, grid, x0, step=step, first_index=first
            )
            return {
                "value": found.total,
                "prior": found.prior,
                "steps": found.steps.sum(0),
                "decoder": found.decoder,
            }

        return of_chunk

    about = {"S": run.schedule.num_steps, "clipped": True}
    return {
        f"variational bound, bits per dimension ({variance} variance)": _measured(
            run, images, bits(variance)
        )
        | about
        for variance in ("small", "large", "learned")[: 2 + learned]
    }


def ode(run: Trained, images: np.ndarray, seed: int) -> dict[str, Any]:
    """Bits per dimension from the density along DDIM's ODE, on a quadratic grid.

    The grid ends where the network still determines x_0 (`jaxddim.safe_fraction`), or later where S
    times do not fit below.

    Args:
      run, images, seed: as for `bound`.
    Returns:
      Mean and standard error over the images, and the largest time. x_0 is not clipped.
    """
    T = run.schedule.num_steps
    steps = min(ODE_STEPS, T)
    known = fraction_of(run.denoiser(run.variables, clip_x0=False), run.schedule)
    fraction = max(known, steps / T)
    grid = jaxddim.timesteps(T, steps, spacing="quadratic", fraction=fraction)

    def of_chunk(variables: Any, first: jax.Array, x0: jax.Array) -> Any:
        denoise_fn = run.denoiser(variables, clip_x0=False)
        args = checks.new_key(seed), denoise_fn, run.schedule, grid, x0
        return {"value": likelihood.ode_bits_per_dim(*args, first_index=first)}

    end = {"t": int(grid[0]), "T": T}
    about = {"S": steps, "spacing": "quadratic", "grid_end": end, "clipped": False}
    return {"ODE, bits per dimension": _measured(run, images, of_chunk) | about}


def _measured(run: Trained, images: np.ndarray, of_chunk: ChunkFn) -> dict[str, Any]:
    """Means over the first images, computed in chunks of one size; the last chunk is padded."""
    devices = meshes.make_mesh()
    n, chunk = min(IMAGES, len(images)), chunk_size(run)
    compiled, parts = meshes.on_each(of_chunk, devices, chunk, rows=1), []
    variables = meshes.spread(run.variables, meshes.everywhere(devices))
    size = chunk * devices.size
    for start in tracked(range(0, n, size), "bits per dimension", compiles=True):
        x0 = images[np.arange(start, start + size) % n].astype(np.float32) / 127.5 - 1
        found = compiled(variables, np.int32(start), x0)
        parts.append({k: np.asarray(v, np.float64)[: n - start] for k, v in found.items()})
    terms = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
    error = float(terms["value"].std(ddof=1) / n**0.5) if n > 1 else 0.0
    means = {k: float(v.mean()) for k, v in terms.items()}
    return {"value": means.pop("value"), "std_error": error, **means, "num_images": n}
