"""A run's folder and what belongs to it: its configuration, network, schedule and denoiser."""

import importlib.metadata
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxddim
from experiments import checkpoints
from experiments.cli import UserError, user_mistakes
from experiments.configs import (
    MAY_DIFFER,
    Config,
    DiffusionConfig,
    ModelConfig,
    OptimConfig,
    flatten,
    from_flat,
)
from experiments.data import Dataset
from jaxddim import models

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def read(workdir: str, command: str = "train") -> dict[str, Any] | None:
    """config.json of a run of the command, or None where no run was started.

    Raises:
      UserError: when it cannot be read, or is that of another command.
    """
    path = Path(workdir) / "config.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        if not isinstance(record["config"], dict) or not record["config"]:
            raise ValueError("its configuration is none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the record of a run ({error}): name another --workdir"
        ) from None
    if record.get("command", "train") != command:
        raise UserError(
            f"{workdir} holds a run of experiments.{record.get('command', 'train')}: name the "
            "folder of another run"
        )
    return record


def load(workdir: str) -> Config:
    """The configuration of an existing run.

    Raises:
      UserError: when the folder holds no run.
    """
    if not workdir:
        raise UserError("--workdir is missing: name the folder of a run, e.g. --workdir runs/cars")
    record = read(workdir)
    if record is None:
        raise UserError(
            f"{workdir} holds no run (no config.json in it): train one first with "
            f"python -m experiments.train --workdir {workdir}"
        )
    return from_flat(record["config"])


def write(config: Config, dataset: Dataset) -> None:
    """Makes the run's folder and records in it what the run is.

    Raises:
      UserError: when the folder cannot be made or written to.
    """
    data = {
        "source": dataset.source,
        "num_images": len(dataset.images),
        "fingerprint": dataset.fingerprint,
        "notes": list(dataset.notes),
    }
    write_record(config.workdir, {"config": flatten(config), "data": data})


def write_record(workdir: str, record: dict[str, Any]) -> None:
    """Makes a run's folder and in it config.json: the record, versions and backend.

    Raises:
      UserError: when the folder cannot be made or written to.
    """
    record = record | {"versions": versions(), "backend": jax.default_backend()}
    path = Path(workdir) / "config.json"
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record, indent=2) + "\n")
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written to ({error.strerror}): name another"
        ) from None


def versions() -> dict[str, str]:
    """What a result depends on, for its record."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"jaxddim": jaxddim.__version__, "python": platform.python_version()} | packages


def check_same(config: Config, dataset: Dataset, record: dict[str, Any]) -> None:
    """Raises a UserError that names the fields in which a resumed run would differ."""
    check_same_config(config.workdir, flatten(config), record["config"])
    check_images(config.workdir, dataset, record)


def check_same_config(workdir: str, new: dict[str, Any], old: dict[str, Any]) -> None:
    """Raises a UserError that names the fields in which two flat configurations differ."""
    names = sorted(
        name
        for name in new.keys() | old.keys()
        if name not in MAY_DIFFER | {"config"} and new.get(name) != old.get(name)
    )
    if names:
        changes = ", ".join(f"{name} was {old.get(name)}, is {new.get(name)}" for name in names)
        raise UserError(
            f"{workdir} is a run of another configuration ({changes}): give the old "
            "values to resume it, or another --workdir"
        )


def check_images(workdir: str, dataset: Dataset, record: dict[str, Any]) -> None:
    """Raises a UserError when these are not the images of the run."""
    if dataset.fingerprint != record["data"]["fingerprint"]:
        raise UserError(
            f"{workdir} was trained on other images ({record['data']['num_images']} of "
            f"{record['data']['source']}): restore them, or name another --workdir"
        )


def build_model(config: ModelConfig, axis_name: str | None = None) -> Any:
    """The Flax network of a configuration."""
    dtype = jnp.dtype(config.dtype)
    if config.name == "simple_unet":
        channels = tuple(config.channels * multiplier for multiplier in config.multipliers)
        return models.SimpleUNet(channels=channels, dtype=dtype, axis_name=axis_name)
    return models.UNet(
        channels=config.channels,
        multipliers=config.multipliers,
        num_blocks=config.num_blocks,
        attention=config.attention,
        dropout=config.dropout,
        groups=config.groups,
        patch=config.patch,
        remat=config.remat,
        dtype=dtype,
    )


def build_schedule(config: DiffusionConfig) -> jaxddim.Schedule:
    """The noise schedule of a configuration."""
    with user_mistakes():
        schedule = getattr(jaxddim, config.schedule)(config.num_steps)
        schedule = jaxddim.zero_terminal_snr(schedule) if config.zero_terminal_snr else schedule
        jaxddim.as_denoiser(schedule, lambda x, index: x, kind=config.kind)
    return schedule


def build_weighting(config: DiffusionConfig) -> Callable[[jax.Array], jax.Array] | None:
    """The weight of each noise level, as a function of log_snr."""
    if config.weighting == "none":
        return None
    return getattr(jaxddim, config.weighting)(kind=config.kind)


def build_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Adam with warm-up, decay and clipping."""
    rate, warmup, decay = config.learning_rate, config.warmup_steps, config.decay_steps
    if decay:
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, decay, rate / 100)
    elif warmup:
        rate = optax.linear_schedule(0.0, rate, warmup)
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    return optax.chain(*clip, optax.adam(rate))


def new_state(config: Config) -> jaxddim.TrainState:
    """The run's state before its first step."""
    size = config.data.image_size
    return jaxddim.create_state(
        jax.random.key(config.seed),
        build_model(config.model),
        build_optimizer(config.optim),
        (1, size, size, 3),
    )


def abstract_state(config: Config) -> jaxddim.TrainState:
    """Shapes and types of the run's state; nothing is computed.

    Raises:
      UserError: when the network cannot be built, or cannot take images of this size.
    """
    with user_mistakes():
        return jax.eval_shape(lambda: new_state(config))


class Trained(NamedTuple):
    """A run's network with its weights, ready to be asked.

    Attributes:
      config: of the run.
      model: the Flax network.
      schedule: the noise it was trained on.
      variables: what the network's ``apply`` takes.
      step: of the checkpoint.
    """

    config: Config
    model: Any
    schedule: jaxddim.Schedule
    variables: Any
    step: int

    def denoiser(self, variables: Any, *, clip_x0: bool = True) -> jaxddim.DenoiseFn:
        """``denoise_fn(x, t)`` with these variables, which may be traced."""
        return jaxddim.as_denoiser(
            self.schedule,
            lambda x, index: self.model.apply(variables, x, index),
            kind=self.config.diffusion.kind,
            clip_x0=clip_x0,
        )


def restore(workdir: str, checkpoint: str = "latest", weights: str = "ema") -> Trained:
    """A run's network.

    Args:
      workdir: folder of the run.
      checkpoint: "latest", "best" or a step.
      weights: "ema" or "raw".
    Raises:
      UserError: when there is no run, or no such checkpoint.
    """
    config = load(workdir)
    schedule, abstract = build_schedule(config.diffusion), abstract_state(config)
    state = checkpoints.restore(checkpoints.manager(workdir), abstract, checkpoint)
    variables = jaxddim.variables(state, weights)
    return Trained(config, build_model(config.model), schedule, variables, int(state.step))
