"""Builds the network, schedule, optimizer and initial state of a configuration."""

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxddim import checks, schedules
from jaxddim.ideal import Moments
from jaxddim.models.dit import DiT
from jaxddim.models.simple_unet import SimpleUNet
from jaxddim.models.unet import UNet
from jaxddim.predictions import check_kind
from jaxddim.runs import flat
from jaxddim.runs.config import MOST_STEPS, Config, DiffusionConfig, ModelConfig, OptimConfig
from jaxddim.runs.errors import RunError, run_errors
from jaxddim.schedules import Schedule
from jaxddim.training import losses
from jaxddim.training.levels import lognormal
from jaxddim.training.muon import muon
from jaxddim.training.preconditioning import preconditioned, unit_error
from jaxddim.training.state import TrainState, create_state

SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "quadratic": schedules.quadratic,
    "const": schedules.const,
    "jsd": schedules.jsd,
    "sigmoid": schedules.sigmoid,
    "cosine": schedules.cosine,
}
"""Every schedule, by its name."""
WEIGHTINGS: Mapping[str, Callable[..., losses.Weighting]] = {
    "min_snr": losses.min_snr,
    "p2": losses.p2,
}


class Setup(NamedTuple):
    """A configuration, and what is built from it.

    Attributes:
      config: configuration of the run.
      schedule: the noise schedule.
      model: the Flax network.
      tx: the optimizer.
      weighting: weight of each noise level in the loss, a function of log_snr; None for equal ones.
      times: probabilities of t = 1..T in training; None for equal ones.
      create: ``create(key)``, the state before the first step; jitted, so that it is traced once.
    """

    config: Config
    schedule: Schedule
    model: Any
    tx: optax.GradientTransformation
    weighting: losses.Weighting | None
    times: jax.Array | None
    create: Callable[[jax.Array], TrainState]


def build(config: Config) -> Setup:
    """Everything that a configuration describes, except the state.

    With --diffusion.precondition it lacks what depends on the images: see `around`.

    Raises:
      RunError: for a field out of range, an impossible schedule, or one that does not suit the kind
        of network.
    """
    flat.check(config)
    schedule = build_schedule(config.diffusion)
    model = build_model(
        config.model, 2 * config.data.channels if config.diffusion.learned_variance else None
    )
    return Setup(
        config,
        schedule,
        model,
        build_optimizer(config.optim),
        build_weighting(config.diffusion),
        build_times(config.diffusion, schedule),
        _creator(model, config.optim, config.data.shape),
    )


@functools.lru_cache(maxsize=4)
def _creator(
    model: Any, config: OptimConfig, shape: tuple[int, ...]
) -> Callable[[jax.Array], TrainState]:
    """Draws a new state; the same function for all runs that agree in these, so traced once."""
    tx = build_optimizer(config)

    @jax.jit
    def create(key: jax.Array) -> TrainState:
        return create_state(key, model, tx, (1, *shape), averages=config.averages)

    return create


def around(setup: Setup, moments: Moments | None) -> Setup:
    """The setup with the network preconditioned by the images' moments, if there are any."""
    if moments is None:
        return setup
    return setup._replace(
        model=preconditioned(setup.model, setup.schedule, moments),
        weighting=unit_error(moments),
        times=build_times(setup.config.diffusion, setup.schedule, math.log(moments.std)),
    )


def build_model(config: ModelConfig, out_channels: int | None = None) -> Any:
    """The Flax network of a configuration, by default with as many channels out as in."""
    dtype = jnp.dtype(config.dtype)
    if config.name == "simple_unet":
        channels = tuple(config.channels * multiplier for multiplier in config.multipliers)
        return SimpleUNet(channels=channels, out_channels=out_channels, dtype=dtype)
    if config.name == "dit":
        return DiT(
            channels=config.channels,
            num_blocks=config.num_blocks,
            head_dim=config.head_dim or min(DiT.head_dim, config.channels),
            patch=config.patch,
            num_classes=config.num_classes,
            out_channels=out_channels,
            remat=config.remat,
            dtype=dtype,
        )
    return UNet(
        channels=config.channels,
        multipliers=tuple(config.multipliers),
        num_blocks=config.num_blocks,
        attention=tuple(config.attention),
        dropout=config.dropout,
        groups=config.groups,
        patch=config.patch,
        epsilon=config.epsilon,
        head_dim=config.head_dim,
        freq_shift=config.freq_shift,
        downsample_padding=config.downsample_padding,
        num_classes=config.num_classes,
        out_channels=out_channels,
        remat=config.remat,
        dtype=dtype,
    )


def build_schedule(config: DiffusionConfig) -> Schedule:
    """The noise schedule of a configuration.

    Raises:
      RunError: for an impossible number of steps, or when it does not suit the kind of network.
    """
    if not 1 <= config.num_steps <= MOST_STEPS:
        raise RunError(
            f"--diffusion.num-steps must lie in 1 to {MOST_STEPS:,}, got {config.num_steps}"
        )
    make = SCHEDULES.get(config.schedule)
    if make is None:
        raise RunError(
            f"--diffusion.schedule {config.schedule}: expected one of {', '.join(SCHEDULES)}"
        )
    betas = {name: getattr(config, name) for name in ("beta_start", "beta_end")}
    betas = {name: value for name, value in betas.items() if value is not None}
    if other := betas.keys() - inspect.signature(make).parameters.keys():
        flag = f"--diffusion.{min(other).replace('_', '-')}"
        raise RunError(f"{flag}: the schedule {config.schedule} has no such number: leave it out")
    with run_errors(f"--diffusion.schedule {config.schedule}"):
        schedule = make(config.num_steps, **betas)
    if config.precondition != "none":
        wanted = {"kind": "x0", "norm": "l2", "weighting": "none"}
        for name, value in wanted.items():
            if getattr(config, name) != value:
                raise RunError(
                    f"--diffusion.precondition {config.precondition} needs --diffusion.{name} "
                    f"{value}, got {getattr(config, name)}: it makes a network that predicts x_0, "
                    "and weighs its squared error by the variance that a Gaussian leaves"
                )
    if config.zero_terminal_snr:
        if config.num_steps < 2:
            raise RunError("--diffusion.zero-terminal-snr needs --diffusion.num-steps 2 or more")
        schedule = schedules.zero_terminal_snr(schedule)
    try:
        check_kind(config.kind, schedule)
    except ValueError as error:
        raise RunError(
            f"--diffusion.kind {config.kind} does not go with zero terminal SNR "
            "(--diffusion.zero-terminal-snr, or --diffusion.schedule jsd): at t = T the input is "
            "pure noise, so the network's answer says nothing about the image; give "
            "--diffusion.kind v or --diffusion.kind x0"
        ) from error
    return schedule


def build_times(
    config: DiffusionConfig, schedule: Schedule, origin: float = 0.0
) -> jax.Array | None:
    """Probabilities of the times in training; levels_mean counts from `origin`.

    Raises:
      RunError: when the distribution of noise levels is impossible.
    """
    if config.levels == "uniform":
        return None
    with run_errors("--diffusion.levels lognormal"):
        return lognormal(schedule, mean=origin + config.levels_mean, std=config.levels_std)


def build_weighting(config: DiffusionConfig) -> losses.Weighting | None:
    """The weight of each noise level, as a function of log_snr."""
    if config.weighting == "none":
        return None
    return WEIGHTINGS[config.weighting](kind=config.kind)


def build_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Adam or Muon with warm-up, decay and clipping."""
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    rate = learning_rate(config, config.learning_rate)
    if config.name == "adam":
        return optax.chain(*clip, optax.adam(rate))
    return optax.chain(*clip, muon(learning_rate(config, config.muon_rate), rate))


def learning_rate(config: OptimConfig, peak: float) -> optax.ScalarOrSchedule:
    """The rate over the steps: warm-up to its peak, then decay, as far as there are any."""
    warmup, decay = config.warmup_steps, config.decay_steps
    if decay:
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, decay, peak / 100)
    return optax.linear_schedule(0.0, peak, warmup) if warmup else peak


def new_state(setup: Setup) -> TrainState:
    """The state of the run before its first step."""
    return setup.create(checks.new_key(setup.config.seed))


def abstract_state(setup: Setup) -> TrainState:
    """Shapes and types of the state of the run; nothing is computed.

    Raises:
      RunError: when the network cannot be built, or cannot take images of this size.
    """
    try:
        return jax.eval_shape(lambda: new_state(setup))
    except ValueError as error:
        raise RunError(_with_flags(str(error), setup.config.model)) from error


def _with_flags(message: str, config: ModelConfig) -> str:
    """A message of a network with the flags of what it names."""
    message = re.sub(r"(\d+x\d+ images)", r"\1 (--data.image-size)", message)
    if config.name == "simple_unet":  # its channels are the products
        return message.replace("channels=", "--model.channels x --model.multipliers=")
    names = "|".join(field.name for field in fields(config))
    flag = lambda found: f"--model.{found[1].replace('_', '-')}="  # noqa: E731
    return re.sub(rf"\b({names})=", flag, message)
