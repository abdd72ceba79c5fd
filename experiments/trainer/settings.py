"""The configuration of a run: checked, the same in all processes, and completed."""

import dataclasses
import math
from typing import Any

import jax

import jaxddim
from experiments.terminal import processes
from experiments.terminal.errors import UserError, user_mistakes
from experiments.terminal.files import absolute
from jaxddim.runs import record
from jaxddim.runs.config import Config
from jaxddim.runs.flat import flatten


def check(config: Config) -> None:
    """Raises a UserError for invalid settings, before any work is done."""
    if not config.workdir:
        raise UserError("--workdir is missing: name the folder of the run, e.g. runs/cars")
    record.read(config.workdir)  # so that a folder that is no run's is told before all else
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {config.seed}")
    if min(config.data.shape) < 1:
        raise UserError(f"--data.image-size must be at least 1, got {min(config.data.shape)}")
    training, optim = config.train, config.optim
    for name, value in dataclasses.asdict(training).items():
        if type(value) is int and value < 1:
            raise UserError(f"--train.{name.replace('_', '-')} must be at least 1, got {value}")
    if training.steps is None and training.epochs is None:
        raise UserError("how long to train? give --train.steps or --train.epochs")
    if config.model.labels and config.model.name == "simple_unet":
        raise UserError(
            "--model.labels: simple_unet, the seed's network, takes no labels: give --model.name "
            "unet or dit"
        )
    devices = jax.device_count()
    if training.batch_size % (devices * training.accumulate):
        raise UserError(
            f"--train.batch-size {training.batch_size} must be divisible by {devices} device(s) x "
            f"--train.accumulate {training.accumulate}"
        )
    for name in ("learning_rate", "muon_rate"):
        rate = getattr(optim, name)
        if not 0 < rate < math.inf:
            raise UserError(f"--optim.{name.replace('_', '-')} must be positive, got {rate}")
    if not 0 <= optim.ema < 1:
        raise UserError(f"--optim.ema must lie in [0, 1), got {optim.ema}")
    if not optim.clip >= 0 or optim.warmup_steps < 0:
        raise UserError("--optim.clip and --optim.warmup-steps must not be negative")
    if optim.decay_steps and optim.decay_steps <= optim.warmup_steps:
        raise UserError(
            f"--optim.decay-steps {optim.decay_steps} must be 0 or above --optim.warmup-steps "
            f"{optim.warmup_steps}"
        )
    if config.diffusion.num_steps < 1:
        raise UserError(
            f"--diffusion.num-steps must be at least 1, got {config.diffusion.num_steps}"
        )
    with user_mistakes(f"--train.sample-steps {training.sample_steps}"):
        jaxddim.timesteps(config.diffusion.num_steps, training.sample_steps)


def agree(config: Config, found: dict[str, Any] | None, fingerprint: str) -> None:
    """Checks that all processes have the same command, images and folder.

    Raises:
      UserError: in every process, when one has not.
    """
    places = {"workdir", "data.path", "data.data_dir", "data.cache_dir", "train.init_from"}
    flags = {name: value for name, value in flatten(config).items() if name not in places}
    processes.check_equal("command", flags | {"new run": not found, "images": fingerprint})
    processes.check_shared(config.workdir)


def with_classes(config: Config, number: int | None) -> Config:
    """The configuration with this number of classes."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=number))


def with_data(config: Config, **changes: Any) -> Config:
    """The configuration with these fields of its data changed."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def with_absolute_paths(config: Config) -> Config:
    """The configuration with paths that hold in any folder."""
    data, training = config.data, config.train
    config = with_data(
        config,
        path=absolute(data.path),
        data_dir=absolute(data.data_dir),
        cache_dir=absolute(data.cache_dir),
    )
    training = dataclasses.replace(training, init_from=absolute(training.init_from))
    return dataclasses.replace(config, train=training)
