"""python -m experiments.sample --workdir DIR --num N --out FILE.png|FILE.npz|DIR ...

Draws images from a trained run. Image i depends only on the weights, the seed, i and
the method: the same command gives the same pixels, and neither more images nor another
batch size changes any of them.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.terminal import cli, pictures
from experiments.terminal.checks import check_numbers, check_step, make_folder
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.progress import stage, tracked
from experiments.terminal.texts import count, listed
from jaxddim.runs.drawing import drawn
from jaxddim.runs.methods import ALL, SOLVERS, DrawConfig, evaluations
from jaxddim.runs.opened import load_run

FILES = (".png", ".npz")
OTHERS = {".npy", ".pt", ".svg", ".zip"}
"""Suffixes of files that are not written, besides other pictures; any other is a folder's."""


@dataclass(frozen=True)
class SampleConfig(DrawConfig):
    """Draw images from a trained run.

    For a run of demo, 64 images in 50 steps take seconds on two cores, besides compiling.
    """

    num: int = 16
    """Number of images."""
    out: str = ""
    """FILE.png (a grid, enlarged), FILE.npz (uint8 array "images") or DIR (one PNG per image)."""
    batch_size: int = 64
    """Images written at a time; does not change any pixel."""


def sample(config: SampleConfig) -> None:
    """Draws the images and writes them.

    Raises:
      RunError: for a folder without a run, a missing checkpoint or an invalid grid.
      UserError: for an invalid eta, or an output that cannot be written.
    """
    check(config)
    with stage("restoring the network", wait=True):
        run = load_run(config.workdir, config.checkpoint, config.weights, config.clip, config.ema)
        track = functools.partial(tracked, what="sampling", compiles=True)
        chunks = drawn(config, run, config.num, track=track)
    batches = rebatch(chunks, config.num, config.batch_size)
    out = located(config.out)
    classes = run.config.model.num_classes if config.label == ALL else None
    try:
        write(out, batches, classes)
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror})") from None
    if others := strangers(out, config.num):
        print(
            f"note: {out} holds {count(len(others), 'more picture')} ({listed(others)}), which "
            "experiments.evaluate --samples would measure too; for these images alone, name an "
            "empty folder"
        )
    weights = config.weights if config.ema is None else f"ema {config.ema:g}"
    cost = count(evaluations(config), "evaluation")
    print(
        f"{count(config.num, 'image')} in {config.out}: {config.method}, "
        f"{count(config.steps, 'step')}{f' ({cost})' if config.method in SOLVERS else ''}, "
        f"{weights} weights of step {run.step}"
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
    """Raises a UserError for invalid settings."""
    from PIL import Image

    check_numbers(config, "num", "steps", "batch_size")
    check_step(config)
    if not config.out:
        raise UserError("--out is missing: name a FILE.png, a FILE.npz or a folder")
    out = located(config.out)
    suffix = out.suffix.lower()
    other = suffix in OTHERS | set(Image.registered_extensions()) - set(FILES)
    if other and not out.is_dir():
        raise UserError(f"--out {config.out}: expected a FILE.png, a FILE.npz or a folder")
    make_folder(out.parent if suffix in FILES else out)


def strangers(out: Path, num: int) -> list[str]:
    """The pictures in the folder of --out that a call with `num` images does not write."""
    from PIL import Image

    if out.suffix.lower() in FILES:
        return []
    ours = {picture_name(index) for index in range(num)}
    known = Image.registered_extensions()
    names = {path.name for path in out.iterdir() if path.suffix.lower() in known}
    return sorted(name for name in names - ours if not name.startswith("."))


def picture_name(index: int) -> str:
    """The file of image `index` in a folder."""
    return f"{index:05d}.png"


def write(out: Path, batches: Iterator[np.ndarray], classes: int | None = None) -> None:
    """Writes uint8 images as one grid, one array, or one file each.

    Of images of all classes by turns the grid has a row for each class.
    """
    if out.suffix.lower() in FILES:
        images = np.concatenate(list(batches))
        with stage(f"writing {out}", wait=True):
            if out.suffix.lower() == ".png":
                columns = None
                if classes and len(images) % classes == 0:
                    columns = len(images) // classes
                    images = pictures.by_class(images, classes)
                pictures.save_png(out, pictures.grid(images, columns), pictures.zoom(images))
            else:
                pictures.save_npz(out, images)
    else:
        index = 0
        for batch in batches:
            for pixels in batch:
                pictures.save_png(out / picture_name(index), pixels)
                index += 1


if __name__ == "__main__":
    cli.run(sample, SampleConfig)
