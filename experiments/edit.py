"""python -m experiments.edit --workdir DIR --image FILE --mask FILE|--strength X|--image2 FILE ...

Changes an image with a trained run. With --mask, what is white in it is drawn anew and all other
pixels stay as they are (RePaint). With --strength, the image is noised so far and drawn from there
(SDEdit): what is coarser than the noise stays. With --image2, both images are encoded, and those
between them are decoded. Images are squeezed to the run's size, as for training.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.data import decoding
from experiments.terminal import cli, pictures
from experiments.terminal.checks import check_numbers, check_step, make_folder
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.progress import stage, tracked
from experiments.terminal.texts import count
from jaxddim import checks
from jaxddim.runs import methods
from jaxddim.runs.drawing import chunk_size, to_uint8
from jaxddim.runs.errors import run_errors
from jaxddim.runs.methods import Method
from jaxddim.runs.opened import load_run
from jaxddim.runs.trained import Trained
from jaxddim.sampling.conditioning import fraction_of
from jaxddim.sampling.editing import jumping

Make = Callable[..., jax.Array]
VARIANTS, ALONG = 4, 9
"""Images that are drawn if --num is not given: of an edit, and along the way between two images."""


@dataclass(frozen=True)
class EditConfig(methods.DrawConfig):
    """Change an image with a trained run.

    For a run of demo it takes seconds to a minute on two cores, besides compiling.
    """

    method: Method | None = None  # pyrefly: ignore[bad-override]
    """Sampling method; by default ddpm with --mask, else ddim."""
    image: str = ""
    """The image to change."""
    mask: str | None = None
    """Image whose white part is drawn anew; its black part stays, exactly."""
    strength: float | None = None
    """Share of the way to noise, in (0, 1]: the more, the less stays of the image."""
    image2: str | None = None
    """Another image: draw those between both, by encoding and decoding with DDIM."""
    num: int | None = None
    """Number of images; by default 4, or 9 from one image to the other."""
    jump: int = 10
    """Steps that a jump back takes (with --mask)."""
    repeats: int = 10
    """How often each stretch of steps is gone through, so that the parts agree (with --mask)."""
    out: str = ""
    """FILE.png (a grid, enlarged, the given images too) or FILE.npz (uint8 array "images")."""


def edit(config: EditConfig) -> None:
    """Edits the image and writes the results.

    Raises:
      RunError: for a folder without a run, a missing checkpoint or an impossible grid.
      UserError: for impossible settings, an image that cannot be read, or an output that cannot be
        written.
    """
    default = "ddim" if config.mask is None else "ddpm"
    config = dataclasses.replace(config, method=config.method or default)
    check(config)
    with stage("restoring the network", wait=True):
        run = load_run(config.workdir, config.checkpoint, config.weights, config.clip, config.ema)
    image = read("--image", config.image, run.config.data.shape)
    if config.image2 is not None:
        given = [image, read("--image2", config.image2, run.config.data.shape)]
        images, how = between(config, run, np.stack(given)), "between two images, ddim"
    else:
        given = [image]
        images, how = redrawn(config, run, image)
    out = located(config.out)
    try:
        if out.suffix.lower() == ".npz":
            pictures.save_npz(out, images)
        else:
            row = np.stack([given[0], *images, *given[1:]])
            columns = len(row) if len(row) <= ALONG + 2 else None
            pictures.save_png(out, pictures.grid(row, columns), pictures.zoom(row))
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror})") from None
    print(f"{count(len(images), 'image')} in {config.out}: {how}, weights of step {run.step}")


def check(config: EditConfig) -> None:
    """Raises a UserError for impossible settings."""
    check_numbers(config, "num", "steps", "jump", "repeats")
    check_step(config)
    if not config.image:
        raise UserError("--image is missing: name a picture")
    if config.mask is None and config.strength is None and config.image2 is None:
        raise UserError("what to do is missing: give --mask FILE, --strength X or --image2 FILE")
    if config.strength is not None and not 0 < config.strength <= 1:
        raise UserError(f"--strength must lie in (0, 1], got {config.strength:g}")
    if config.mask is not None and config.method in methods.SOLVERS:
        raise UserError(f"--mask needs --method ddpm or ddim, got {config.method}")
    if config.image2 is not None and (config.method != "ddim" or config.eta):
        raise UserError("--image2 encodes and decodes by ddim, without noise: leave out --method")
    if not config.out:
        raise UserError("--out is missing: name a FILE.png or a FILE.npz")
    if Path(config.out).suffix.lower() not in (".png", ".npz"):
        raise UserError(f"--out {config.out}: expected a FILE.png or a FILE.npz")
    make_folder(located(config.out).parent)


def read(flag: str, path: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The picture as for training, uint8 [h, w, c].

    Raises:
      UserError: when it cannot be read.
    """
    file = located(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "there is no such file"
        raise UserError(f"{flag} {path}: {what}")
    with decoding.without_warnings():
        found = decoding.decode(file, shape[:2], shape[2])
    if found.image is None:
        raise UserError(f"{flag} {path} cannot be read as a picture: {found.remark}")
    return found.image


def redrawn(config: EditConfig, run: Trained, image: np.ndarray) -> tuple[np.ndarray, str]:
    """Variants of the image, uint8 [num, h, w, c], and how they were made.

    Like those of experiments.sample, variant i does not depend on their number.
    """
    make, how, cost = (redrawer if config.mask is None else inpainter)(config, run, image.shape)
    num, chunk, key = config.num or VARIANTS, chunk_size(run), checks.new_key(config.seed)
    x0 = jnp.broadcast_to(image / np.float32(127.5) - 1, (chunk, *image.shape))
    labels = methods.labeller(config, run.config.model.num_classes, run.classes)

    @jaxddim.compiled
    def draw(variables: Any, first: jax.Array) -> jax.Array:
        label = None if labels is None else labels(key, first + jnp.arange(chunk))
        fn = run.denoiser(variables, label=label, guidance=config.guidance)
        return make(key, fn, x0, first_index=first)

    starts = tracked(range(0, num, chunk), what="drawing", compiles=True)
    chunks = [to_uint8(draw(run.variables, first)) for first in starts]
    steps = f"{config.method}, {count(config.steps, 'step')} ({cost:,} evaluations)"
    return np.concatenate(chunks)[:num], f"{how}, {steps}"


def inpainter(config: EditConfig, run: Trained, shape: tuple[int, ...]) -> tuple[Make, str, int]:
    """``make(key, denoise_fn, x0, first_index=)``, what it does, and its evaluations."""
    path, grid = str(config.mask), methods.time_grid(config, run.schedule)
    white = read("--mask", path, (shape[0], shape[1], 1)) >= 128
    if not white.any():
        raise UserError(f"--mask {path} has no white part, so nothing would be drawn")
    step: Any = methods.stepper(config, run.config.diffusion)

    def make(key: jax.Array, fn: Any, x0: jax.Array, *, first_index: jax.Array) -> jax.Array:
        return jaxddim.inpaint(
            key, fn, run.schedule, grid, x0, ~white,
            step=step, jump=config.jump, repeats=config.repeats, first_index=first_index,
        )  # fmt: skip

    falls = np.diff(jumping(grid, config.jump, config.repeats)) < 0
    return make, f"{white.mean():.0%} of the pixels drawn anew", int(falls.sum())


def redrawer(config: EditConfig, run: Trained, shape: tuple[int, ...]) -> tuple[Make, str, int]:
    """As `inpainter`, for all that is finer than the noise of --strength."""
    del shape
    schedule, strength = run.schedule, config.strength or 1.0
    with run_errors(f"--steps {config.steps} with --strength {strength:g}"):
        grid = jaxddim.timesteps(
            schedule.num_steps, config.steps, spacing=config.spacing, fraction=strength,
            schedule=schedule,
        )  # fmt: skip

    def make(key: jax.Array, fn: Any, x0: jax.Array, *, first_index: jax.Array) -> jax.Array:
        step = methods.stepper(config, run.config.diffusion)
        return jaxddim.sdedit(key, fn, schedule, grid, x0, step=step, first_index=first_index)

    return make, f"drawn from t = {int(grid[0])}", methods.evaluations(config)


def between(config: EditConfig, run: Trained, images: np.ndarray) -> np.ndarray:
    """Images decoded along the arc between the codes of two, uint8 [num, h, w, c]."""
    schedule, num = run.schedule, config.num or ALONG
    end = fraction_of(run.denoiser(run.variables, clip_x0=False), schedule)
    with run_errors(f"--steps {config.steps}"):
        grid = jaxddim.timesteps(
            schedule.num_steps, config.steps, spacing=config.spacing, fraction=end,
            schedule=schedule,
        )  # fmt: skip

    @jaxddim.compiled
    def arc(variables: Any, x0: jax.Array) -> jax.Array:
        fn = run.denoiser(variables, clip_x0=False)
        z0, z1 = jnp.split(jaxddim.encode(fn, schedule, grid, x0, refine=1), 2)
        return jaxddim.interpolate(fn, schedule, grid, z0, z1, jnp.linspace(0, 1, num))[:, 0]

    with stage("encoding and decoding", wait=True):
        return to_uint8(arc(run.variables, images / np.float32(127.5) - 1))


ALONE = ("--mask", "--strength", "--image2")
EXCLUSIVE = [
    *((one, other) for i, one in enumerate(ALONE) for other in ALONE[i + 1 :]),
    *((one, flag) for one in ("--strength", "--image2") for flag in ("--jump", "--repeats")),
]

if __name__ == "__main__":
    cli.run(edit, EditConfig, exclusive=EXCLUSIVE)
