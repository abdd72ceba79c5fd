"""How images are drawn: method, steps, weights and clipping, as every command's flags say."""

import functools
from dataclasses import dataclass
from typing import Literal

import jax

from jaxddim.grids import timesteps
from jaxddim.runs.errors import run_errors
from jaxddim.sampling.heun import heun
from jaxddim.sampling.multistep import dpm_solver_pp_2m
from jaxddim.sampling.plms import plms
from jaxddim.sampling.solver import Solver, StepFn
from jaxddim.sampling.steps import ddim_step, ddpm_step
from jaxddim.schedules import Schedule

Method = Literal["ddim", "ddpm", "heun", "dpm++2m", "dpm++2m-sde", "plms"]
Clip = Literal["rederive", "keep", "dynamic", "none"]


@dataclass(frozen=True)
class DrawConfig:
    """How images are drawn from a trained run."""

    workdir: str = ""
    """Folder of the run."""
    steps: int = 50
    """Sampling steps, S."""
    method: Method = "ddim"
    """Sampling method; with spacing log_snr dpm++2m needs 10 to 20 steps where ddim needs 50."""
    eta: float = 0.0
    """Noise of DDIM: 0 is deterministic, 1 is DDPM."""
    variance: Literal["small", "large"] = "small"
    """Variance of DDPM: small is the posterior's; large is the DDIM paper's sigma-hat."""
    spacing: Literal[
        "linear", "quadratic", "leading", "trailing", "linspace", "log_snr", "karras"
    ] = "linear"
    """Spacing of the sampling times; log_snr and karras space the noise levels."""
    seed: int = 0
    """Seed of the noise."""
    checkpoint: str = "latest"
    """Checkpoint: latest, best or a step."""
    weights: Literal["ema", "raw"] = "ema"
    """ema: averaged weights; raw: last weights."""
    ema: float | None = None
    """Length of the average of the weights, as a share of the training, for runs that keep them."""
    clip: Clip = "rederive"
    """x_0 clipped with eps derived anew, or with the network's eps; thresholded; or as it is."""


SOLVERS: dict[str, Solver] = {
    "heun": heun(),
    "dpm++2m": dpm_solver_pp_2m(),
    "dpm++2m-sde": dpm_solver_pp_2m(eta=1.0),
    "plms": plms(),
}
"""The methods that are no single steps; none has an option."""


def stepper(config: DrawConfig) -> StepFn | Solver:
    """The step of the method."""
    if config.method == "ddim":
        return functools.partial(ddim_step, eta=config.eta)
    if config.method == "ddpm":
        return functools.partial(ddpm_step, variance=config.variance)
    return SOLVERS[config.method]


def noise(config: DrawConfig) -> float:
    """The eta of the method: how much noise its steps draw."""
    known = {"ddim": config.eta, "ddpm": 1.0, "dpm++2m-sde": 1.0}
    return known.get(config.method, 0.0)


def evaluations(config: DrawConfig) -> int:
    """How often the network is evaluated for an image."""
    S = config.steps
    return {"heun": 2 * S - 1, "plms": S + (S > 1)}.get(config.method, S)


def time_grid(config: DrawConfig, schedule: Schedule) -> jax.Array:
    """The sampling times, int32 [S+1].

    Raises:
      RunError: for an impossible grid.
    """
    with run_errors(f"--steps {config.steps}"):
        return timesteps(
            schedule.num_steps, config.steps, spacing=config.spacing, schedule=schedule
        )
