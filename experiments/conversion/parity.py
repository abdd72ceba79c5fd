"""The same images from the same noise, drawn here and by diffusers.

Their network is loaded from the folder itself; weights of another format are given to it first.
Both make DDIM steps with eta = 0 on the grid i T / S, once without clipping and once with. Theirs
is told `use_clipped_model_output`: by default it clips x_0 and keeps the eps that belongs to
another.
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.conversion import incoming, outgoing
from experiments.terminal import pictures
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.progress import stage
from jaxddim.runs.build import Setup, build
from jaxddim.weights import diffusers
from jaxddim.weights.imported import Imported


def check(config: Any) -> None:
    """Prints the largest differences, and writes the images to --out, a row a set, if it is given.

    Raises:
      UserError: for weights that cannot be read, steps that do not divide T, or an --out that is no
        picture.
    """
    for name in ("num", "steps"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(config, name)}")
    if config.out and Path(config.out).suffix.lower() != ".png":
        raise UserError(f"--out {config.out}: expected a FILE.png for the pictures of --check")
    found = incoming.imported(config)
    setup = build(incoming.configuration(config, found))
    total = setup.schedule.num_steps
    if total % config.steps:
        raise UserError(f"--steps {config.steps} must divide the schedule's {total} steps")
    height, width, channels = setup.config.data.shape
    shape = (config.num, height, width, channels)
    noise = np.asarray(jax.random.normal(jax.random.key(0), shape))
    there = peer(config, setup, found)
    rows = []
    for clip in (False, True):
        with stage(f"drawing here, {NAMES[clip]}", wait=True):
            ours = here(setup, found, noise, config.steps, clip)
        rows.append(ours)
        if there is None:
            print(f"here, {NAMES[clip]}: values in {ours.min():.3f} to {ours.max():.3f}")
            continue
        with stage(f"drawing with diffusers, {NAMES[clip]}", wait=True):
            theirs = diffusers_images(there, noise, config.steps, clip)
        rows.append(theirs)
        largest = np.abs(ours - theirs).max()
        print(
            f"{NAMES[clip]}: {config.num} images after {config.steps} steps differ by at most "
            f"{largest:.1e}, {largest / np.abs(theirs).max():.1e} of the largest value"
        )
    if there is None:
        print(
            "nothing was compared: "
            + (
                "PyTorch and diffusers are not installed: pip install torch diffusers"
                if setup.config.model.name == "unet"
                else "diffusers has no network like the seed's"
            )
        )
    if config.out:
        images = np.clip(np.round((np.concatenate(rows) + 1) * 127.5), 0, 255).astype(np.uint8)
        picture = pictures.grid(images, columns=config.num)
        pictures.save_png(located(config.out), picture, pictures.zoom(images))
        print(f"{config.out}, row by row: " + "; ".join(ROWS if there else ROWS[::2]))


NAMES = {False: "without clipping", True: "with clipping"}
ROWS = ("here", "diffusers", "here, clipped", "diffusers, clipped")


def here(setup: Setup, found: Imported, noise: np.ndarray, steps: int, clip: bool) -> np.ndarray:
    """Images by this project."""
    denoise_fn = jaxddim.as_denoiser(
        setup.schedule,
        lambda x, index: setup.model.apply(found.averaged, x, index),
        kind=setup.config.diffusion.kind,
        clip_x0=clip,
    )
    grid = jaxddim.timesteps(setup.schedule.num_steps, steps, spacing="leading")

    def draw(x: jax.Array) -> jax.Array:
        key = jax.random.key(0)  # eta = 0 draws nothing
        return jaxddim.integrate(key, denoise_fn, setup.schedule, grid, x)[0]

    return np.asarray(jax.jit(draw)(jnp.asarray(noise)))


def peer(config: Any, setup: Setup, found: Imported) -> Any:
    """Diffusers' pipeline with this network; None where it cannot be had."""
    installed = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    if not installed or setup.config.model.name != "unet":
        return None
    from diffusers import DDIMPipeline, UNet2DModel  # pyrefly: ignore[missing-import]

    source = located(config.from_)
    with tempfile.TemporaryDirectory() as folder:
        outgoing.write_folder(Path(folder), setup, found.averaged)
        pipeline: Any = DDIMPipeline.from_pretrained(folder)
    if source.is_dir():  # the network as it is, not as it was converted
        parts = ["unet_ema", "unet", "."]
        part = next(p for p in parts if (source / p / diffusers.CONFIG).is_file())
        pipeline.unet = UNet2DModel.from_pretrained(str(source / part))
    return pipeline


def diffusers_images(pipeline: Any, noise: np.ndarray, steps: int, clip: bool) -> np.ndarray:
    """Images by diffusers' network and DDIM scheduler."""
    import torch  # pyrefly: ignore[missing-import]
    from diffusers import DDIMScheduler  # pyrefly: ignore[missing-import]

    scheduler: Any = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=clip)
    scheduler.set_timesteps(steps)
    network = pipeline.unet.eval()
    x = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    labels = None
    if network.config.num_class_embeds is not None:
        labels = torch.full((len(noise),), network.config.num_class_embeds - 1)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = network(x, t, class_labels=labels).sample
            x = scheduler.step(output, t, x, eta=0.0, use_clipped_model_output=clip).prev_sample
    return x.numpy().transpose(0, 2, 3, 1)
