"""python -m experiments.sample --workdir DIR --num N --out FILE.png|FILE.npz|DIR ...

Images from a trained run. Image i is a function of the weights, the seed, i and the
method, and of nothing else: the same command gives the same pixels, and asking for
more images, or for other batches, changes none of them.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments import cli, compile_cache, monitor, runs, writer
from experiments.cli import UserError

CHUNKS, WORK = (4, 8, 16), 7e9
"""On a CPU: how many images one call of the network may make, and the operations it should have.

On two cores such a call has more than eight tenths of the speed of large ones, and 16 images do not
make a user who wants one wait: for `demo` (0.5e9 operations an image) calls of 4, 8, 16 and 32 make
270, 322, 375 and 439 images a second; for `cifar10` and `cars` (8e9) those of 4 have 0.92 of the
speed of 16 and of 8.
"""


@dataclass(frozen=True)
class DrawConfig:
    """How images are drawn from a trained run."""

    workdir: str = ""
    """Folder of the run."""
    steps: int = 50
    """Sampling steps, S."""
    method: Literal["ddim", "ddpm"] = "ddim"
    """The update step."""
    eta: float = 0.0
    """Randomness of DDIM: 0 deterministic, 1 as DDPM."""
    variance: Literal["small", "large"] = "small"
    """Variance of DDPM: the posterior's, or the larger one that the DDIM paper calls sigma-hat."""
    spacing: Literal["linear", "quadratic", "leading", "trailing", "linspace"] = "linear"
    """How the sampling times are spread over the training times."""
    seed: int = 0
    """Of the noise."""
    checkpoint: str = "latest"
    """latest, best or a step."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged or last weights."""


@dataclass(frozen=True)
class SampleConfig(DrawConfig):
    """Draw images from a trained run."""

    num: int = 16
    """How many images."""
    out: str = ""
    """FILE.png (a grid), FILE.npz (uint8 array "images") or DIR (a PNG an image)."""
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
    jaxddim.keep_memory()
    run = runs.restore(config.workdir, config.checkpoint, config.weights)
    batches = rebatch(drawn(config, run, config.num), config.num, config.batch_size)
    try:
        write(Path(config.out), batches)
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror})") from None
    print(
        f"{config.num} images in {config.out}: {config.method}, {config.steps} steps, "
        f"{config.weights} weights of step {run.step}"
    )


def sampler(config: DrawConfig, run: runs.Trained, chunk: int) -> Callable[[int], jax.Array]:
    """``draw(first) -> images first .. first + chunk - 1``, float32 in [-1, 1], compiled once.

    Raises:
      UserError: for an impossible grid.
    """
    grid = time_grid(config, run)
    if config.method == "ddim":
        step = functools.partial(jaxddim.ddim_step, eta=config.eta)
    else:
        step = functools.partial(jaxddim.ddpm_step, variance=config.variance)
    size = run.config.data.image_size
    shape = (chunk, size, size, 3)

    @jaxddim.compiled
    def draw(variables: Any, first_index: jax.Array) -> jax.Array:
        key, denoise_fn = jax.random.key(config.seed), run.denoiser(variables)
        return jaxddim.sample(
            key, denoise_fn, run.schedule, grid, shape, step=step, first_index=first_index
        )

    return functools.partial(draw, run.variables)


def time_grid(config: DrawConfig, run: runs.Trained) -> jax.Array:
    """The sampling times, int32 [S+1]."""
    with cli.user_mistakes():
        return jaxddim.timesteps(run.schedule.num_steps, config.steps, spacing=config.spacing)


def chunk_size(run: runs.Trained) -> int:
    """Images in one call of the network, here.

    Sums in float32 depend on the shapes they are computed in. So it depends on the network alone:
    the compiled function always makes images c n .. (c + 1) n - 1, and a batch is cut from these.
    """
    if jax.default_backend() != "cpu":
        return 64
    size = run.config.data.image_size
    x, index = jnp.zeros((1, size, size, 3)), jnp.zeros(1, jnp.int32)
    cost = jax.jit(run.model.apply).lower(run.variables, x, index).cost_analysis() or {}
    return next((n for n in CHUNKS if n * cost.get("flops", WORK) >= WORK), CHUNKS[-1])


def drawn(
    config: DrawConfig, run: runs.Trained, num: int, chunk: int | None = None
) -> Iterator[np.ndarray]:
    """The first num images as uint8, in chunks; the last chunk may hold more.

    Another size of chunk than `chunk_size` changes images by rounding only, but it does.
    """
    chunk = chunk or chunk_size(run)
    draw, starts = sampler(config, run, chunk), range(0, num, chunk)
    return (writer.to_uint8(draw(first)) for first in monitor.tracked(starts, "sampling"))


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
    check_numbers(config, "num", "steps", "batch_size")
    check_step(config)
    if not config.out:
        raise UserError("--out is missing: name a FILE.png, a FILE.npz or a folder")
    out = Path(config.out)
    if out.suffix and out.suffix.lower() not in (".png", ".npz") and not out.is_dir():
        raise UserError(f"--out {config.out}: expected a FILE.png, a FILE.npz or a folder")
    make_folder(out.parent if out.suffix else out)


def check_numbers(config: Any, *positive: str) -> None:
    """Raises a UserError for a seed out of range, or where one of these fields is below 1."""
    for name in positive:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {config.seed}")


def check_step(config: DrawConfig) -> None:
    """Raises a UserError for an update step that is not defined."""
    if not 0 <= config.eta <= 1:
        raise UserError(
            f"--eta must lie in [0, 1], got {config.eta}: above 1 the step is not defined"
        )
    if config.eta and config.method == "ddpm":
        raise UserError("--eta belongs to --method ddim; DDPM is what eta = 1 gives")
    if config.variance == "large" and config.method == "ddim":
        raise UserError("--variance large belongs to --method ddpm; DDIM has --eta")


def make_folder(folder: Path) -> None:
    """Makes the folder that --out goes into, or raises a UserError."""
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
