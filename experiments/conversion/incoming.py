"""From foreign weights to a run."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.terminal.errors import UserError, user_mistakes
from experiments.terminal.files import absolute, located
from experiments.terminal.texts import count
from jaxddim import TrainState
from jaxddim.runs import checkpoints, record
from jaxddim.runs.build import Setup, abstract_state, build
from jaxddim.runs.config import Config, DiffusionConfig, LoopConfig, OptimConfig
from jaxddim.runs.flat import flatten
from jaxddim.training.state import EMA
from jaxddim.weights import diffusers, official, reader, seed
from jaxddim.weights.imported import Imported


def convert(config: Any) -> None:
    """Makes the run.

    Raises:
      UserError: for weights that are none of ours, or a missing --workdir.
      RunError: when the workdir holds something already or cannot be written to.
    """
    if not config.workdir:
        raise UserError("--workdir is missing: name the folder of the new run, e.g. runs/imported")
    workdir = located(config.workdir)
    if record.read(config.workdir) or (workdir.is_dir() and any(workdir.iterdir())):
        raise UserError(f"--workdir {config.workdir} holds files already: name a new folder")
    found = imported(config)
    run = configuration(config, found)
    setup = build(run)
    state = initial_state(setup, found)
    origin = {"from": absolute(config.from_), "format": found.form, "images": IMAGES}
    record.write(config.workdir, {"config": flatten(run), "imported": origin})
    checkpoints.save(checkpoints.manager(config.workdir), state, None)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    size = "x".join(map(str, run.data.shape[:2]))
    print(
        f"{config.workdir}: {run.model.name} of {found.form} with {count(parameters, 'parameter')} "
        f"at {size}, step {found.step}; schedule {run.diffusion.schedule} with "
        f"{run.diffusion.num_steps} steps, {run.diffusion.kind}"
    )
    for note in found.notes:
        print(f"note: {note}")


IMAGES = "none yet: the first that it is trained on become its own"


def imported(config: Any) -> Imported:
    """The network of --from.

    Raises:
      UserError: when it is none of the formats, damaged, or of a network that is none of ours.
    """
    path = located(config.from_)
    told = dataclasses.asdict(config.diffusion)
    known: dict[str, Any] = {"size": config.image_size}
    known["diffusion"] = None if told["schedule"] is None else DiffusionConfig(**told)
    with user_mistakes(f"--from {config.from_}"):
        if path.is_dir():
            if not diffusers.is_one(path):
                raise ValueError(
                    "no config.json is in it or in its folder unet: expected a folder of "
                    "diffusers' UNet2DModel, or the file of another format"
                )
            return diffusers.read(path, **known)
        found = reader.load(path)
        if official.is_one(found):
            return official.read(found, str(path), dropout=config.dropout, **known)
        if seed.is_one(found):
            return seed.read(found, str(path), **known)
        raise ValueError(
            "it is no checkpoint of the official DDIM code and none of the seed; a network of "
            "diffusers' is named by its folder"
        )


def configuration(config: Any, found: Imported) -> Config:
    """The configuration of the new run.

    Raises:
      UserError: for images that are neither grey nor RGB.
    """
    if found.channels not in (1, 3):
        raise UserError(
            f"--from {config.from_}: its images have {found.channels} channels; a run's have 3, or "
            "1 in grey"
        )
    rate = config.optim.learning_rate or found.learning_rate or OptimConfig().learning_rate
    optim = dataclasses.asdict(config.optim) | {"learning_rate": rate}
    data = dataclasses.replace(
        config.data,
        image_size=found.image_size,
        channels=found.channels,
        path=absolute(config.data.path),
        data_dir=absolute(config.data.data_dir),
        cache_dir=absolute(config.data.cache_dir),
    )
    return Config(
        workdir=config.workdir,
        config="imported",
        data=data,
        model=found.model,
        diffusion=found.diffusion,
        optim=OptimConfig(**optim),
        train=LoopConfig(),
    )


def initial_state(setup: Setup, found: Imported) -> TrainState:
    """The state that training goes on from."""
    abstract = abstract_state(setup)
    params, averaged = (
        jax.tree.map(jnp.asarray, v["params"]) for v in (found.variables, found.averaged)
    )
    others = {name: v for name, v in found.variables.items() if name != "params"}
    others |= {EMA + name: v for name, v in found.averaged.items() if name != "params"}
    opt_state = setup.tx.init(params)
    if found.adam is not None and setup.config.optim.name == "adam":
        opt_state = optax.tree_utils.tree_set(opt_state, **found.adam._asdict())
    averages = tuple(averaged for _ in abstract.averages)
    state = TrainState(jnp.int32(found.step), params, others, averaged, opt_state, averages)
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), state, abstract)
