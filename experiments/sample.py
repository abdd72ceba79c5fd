"""python -m experiments.sample --workdir DIR --num N --out FILE.png|FILE.npz|DIR ...

Images from a trained run. Image i is a function of the weights, the seed, i and the
method, and of nothing else: the same command gives the same pixels, and asking for
more images, or for other batches, changes none of them.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

import jaxddim
from experiments import checkpoints, cli, compile_cache, runs, writer
from experiments.cli import UserError

CHUNK = {"cpu": 4}
"""Images in one call of the network, by platform; 64 elsewhere.

Sums in float32 depend on the shapes they are computed in. So the compiled function always
makes images c CHUNK .. (c + 1) CHUNK - 1, and a batch is cut from such chunks.
"""


@dataclass(frozen=True)
class SampleConfig:
    """Draw images from a trained run."""

    workdir: str = ""
    """Folder of the run."""
    num: int = 16
    """How many images."""
    out: str = ""
    """FILE.png (a grid), FILE.npz (uint8 array "images") or DIR (a PNG an image)."""
    steps: int = 50
    """Sampling steps, S."""
    method: Literal["ddim", "ddpm"] = "ddim"
    """The update step."""
    eta: float = 0.0
    """Randomness of DDIM: 0 deterministic, 1 as DDPM."""
    spacing: Literal["linear", "quadratic", "leading", "trailing", "linspace"] = "linear"
    """How the sampling times are spread over the training times."""
    seed: int = 0
    """Of the noise."""
    checkpoint: str = "latest"
    """latest, best or a step."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged or last weights."""
    batch_size: int = 64
    """Images computed and written at a time; never changes a pixel."""


def sample(config: SampleConfig) -> None:
    """Draws the images and writes them.

    Raises:
      UserError: for a folder without a run, a checkpoint that is not there, an impossible grid
        or eta, or an output that cannot be written.
    """
    check(config)
    compile_cache.switch_on()
    run = runs.load(config.workdir)
    schedule = runs.build_schedule(run.diffusion)
    with cli.user_mistakes():
        grid = jaxddim.timesteps(schedule.num_steps, config.steps, spacing=config.spacing)
    abstract = runs.abstract_state(run)
    store = checkpoints.manager(config.workdir)
    state = checkpoints.restore(store, abstract, config.checkpoint)
    variables = jaxddim.variables(state, config.weights)
    model = runs.build_model(run.model)
    step = jaxddim.ddpm_step
    if config.method == "ddim":
        step = functools.partial(jaxddim.ddim_step, eta=config.eta)
    chunk = CHUNK.get(jax.default_backend(), 64)
    shape = (chunk, run.data.image_size, run.data.image_size, 3)

    @jaxddim.compiled
    def draw(variables: Any, first_index: jax.Array) -> jax.Array:
        denoise_fn = jaxddim.as_denoiser(
            schedule, lambda x, index: model.apply(variables, x, index), kind=run.diffusion.kind
        )
        key = jax.random.key(config.seed)
        return jaxddim.sample(
            key, denoise_fn, schedule, grid, shape, step=step, first_index=first_index
        )

    console = Console(stderr=True, highlight=False)
    starts = range(0, config.num, chunk)
    chunks = (draw(variables, first) for first in starts)
    if console.is_terminal:
        chunks = track(chunks, "sampling", len(starts), console=console)
    batches = rebatch(map(writer.to_uint8, chunks), config.num, config.batch_size)
    try:
        write(Path(config.out), batches)
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror})") from None
    print(
        f"{config.num} images in {config.out}: {config.method}, {config.steps} steps, "
        f"{config.weights} weights of step {int(state.step)}"
    )


def rebatch(chunks: Iterator[np.ndarray], num: int, size: int) -> Iterator[np.ndarray]:
    """The first num images of the chunks, size at a time."""
    held: list[np.ndarray] = []
    done = 0
    for chunk in chunks:
        held.extend(chunk[: num - done - len(held)])
        while len(held) >= size or (held and done + len(held) == num):
            batch, held = held[:size], held[size:]
            done += len(batch)
            yield np.stack(batch)


def check(config: SampleConfig) -> None:
    """Raises a UserError for settings that cannot work."""
    for name in ("num", "steps", "batch_size"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be at least 1, got {getattr(config, name)}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {config.seed}")
    if not 0 <= config.eta <= 1:
        raise UserError(
            f"--eta must lie in [0, 1], got {config.eta}: above 1 the step is not defined"
        )
    if config.eta and config.method == "ddpm":
        raise UserError("--eta belongs to --method ddim; DDPM is what eta = 1 gives")
    if not config.out:
        raise UserError("--out is missing: name a FILE.png, a FILE.npz or a folder")
    out = Path(config.out)
    if out.suffix and out.suffix.lower() not in (".png", ".npz") and not out.is_dir():
        raise UserError(f"--out {config.out}: expected a FILE.png, a FILE.npz or a folder")
    folder = out.parent if out.suffix else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be made ({error.strerror})") from None


def write(out: Path, batches: Iterator[np.ndarray]) -> None:
    """Writes uint8 images as one grid, one array, or one file each."""
    if out.suffix.lower() == ".png":
        writer.save_png(out, writer.grid(np.concatenate(list(batches))))
    elif out.suffix.lower() == ".npz":
        writer.save_npz(out, np.concatenate(list(batches)))
    else:
        index = 0
        for batch in batches:
            for pixels in batch:
                writer.save_png(out / f"{index:05d}.png", pixels)
                index += 1


if __name__ == "__main__":
    cli.run(sample, SampleConfig)
