"""How images are drawn: method, steps, weights and clipping, as every command's flags say."""

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim.grids import timesteps
from jaxddim.runs.config import Classes, Clip, DiffusionConfig
from jaxddim.runs.errors import RunError, run_errors
from jaxddim.sampling.heun import heun
from jaxddim.sampling.learned import learned_step
from jaxddim.sampling.multistep import dpm_solver_pp_2m
from jaxddim.sampling.plms import plms
from jaxddim.sampling.solver import Solver, StepFn
from jaxddim.sampling.steps import ddim_step, ddpm_step
from jaxddim.schedules import Schedule

Method = Literal["ddim", "ddpm", "heun", "dpm++2m", "dpm++2m-sde", "plms"]
Spacing = Literal["linear", "quadratic", "leading", "trailing", "linspace", "log_snr", "karras"]


@dataclass(frozen=True)
class DrawConfig:
    """How images are drawn from a trained run."""

    workdir: str = ""
    """Folder of the run."""
    steps: int = 50
    """Sampling steps, S."""
    method: Method = "ddim"
    """Sampling method; for few steps dpm++2m, with --spacing log_snr."""
    eta: float = 0.0
    """Noise of DDIM: 0 is deterministic, 1 is DDPM."""
    variance: Literal["small", "large", "learned"] = "small"
    """Variance of DDPM: the posterior's, the DDIM paper's sigma-hat, or the network's own."""
    spacing: Spacing = "linear"
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
    label: str | None = None
    """Class to draw: its name or number, or all by turns; by default as often as in the images."""
    guidance: float = 1.0
    """How strongly images follow their labels: 1 as learned, 2 to 4 more clearly, 0 not at all."""


SOLVERS: dict[str, Solver] = {
    "heun": heun(),
    "dpm++2m": dpm_solver_pp_2m(),
    "dpm++2m-sde": dpm_solver_pp_2m(eta=1.0),
    "plms": plms(),
}
"""The methods that are no single steps; none has an option."""


def stepper(config: DrawConfig, diffusion: DiffusionConfig) -> StepFn | Solver:
    """The step of the method, for a run that was trained like this.

    Raises:
      RunError: for an unknown method, or a variance that the network has not learned.
    """
    if config.method == "ddim":
        return functools.partial(ddim_step, eta=config.eta)
    if config.method == "ddpm":
        if config.variance != "learned":
            return functools.partial(ddpm_step, variance=config.variance)
        if not diffusion.learned_variance:
            raise RunError(
                f"--variance learned: {config.workdir} has not learned a variance: leave it out, "
                "or train a run with --diffusion.variance learned"
            )
        return learned_step
    if config.method not in SOLVERS:
        known = ", ".join(get_args(Method))
        raise RunError(f"the method {config.method!r} is not known: expected one of {known}")
    return SOLVERS[config.method]


def noise(config: DrawConfig) -> float:
    """The eta of the method: how much noise its steps draw."""
    known = {"ddim": config.eta, "ddpm": 1.0, "dpm++2m-sde": 1.0}
    return known.get(config.method, 0.0)


ALL = "all"
LABELS = 2**31 - 1
"""Folded into the key of an image for its label."""


def labeller(
    config: DrawConfig, num_classes: int | None, classes: Classes | None
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """``labels(key, index) -> int32``, the label of each image with these numbers; or None.

    Args:
      config: with --label.
      num_classes: of the network; None for one without labels.
      classes: those of the run's images; None where only their number is known.
    Raises:
      RunError: for a label that there is not.
    """
    wanted = config.label
    if num_classes is None:
        if wanted is not None or config.guidance != 1:
            flag = "--label" if wanted is not None else "--guidance"
            raise RunError(
                f"{flag}: {config.workdir} has not learned labels: leave it out, or train a run "
                "with --model.labels"
            )
        return None
    if wanted == ALL:
        return lambda key, index: index % num_classes
    names = classes.names if classes else ()
    if wanted is not None:
        number = _number(wanted, names, num_classes)
        return lambda key, index: jnp.full_like(index, number)
    if classes is None:
        if config.guidance != 1:
            raise RunError("--guidance needs a --label: the run's record has no classes to draw")
        return None
    chances = jnp.asarray(np.log(np.maximum(classes.counts, 1e-9)), jnp.float32)

    def drawn(key: jax.Array, index: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), LABELS))(index)
        return jax.vmap(lambda key: jax.random.categorical(key, chances))(keys).astype(jnp.int32)

    return drawn


def _number(wanted: str, names: Sequence[str], num_classes: int) -> int:
    """The number of a class that a flag names."""
    if wanted in names:
        return names.index(wanted)
    if wanted.isascii() and wanted.isdigit():
        if int(wanted) < num_classes:
            return int(wanted)
        raise RunError(
            f"--label {wanted}: expected a number of 0 to {num_classes - 1}, {ALL}"
            + (f", or a name such as {names[0]}" if names else "")
        )
    simple = {name.casefold(): number for number, name in reversed(list(enumerate(names)))}
    if wanted.casefold() in simple:
        return simple[wanted.casefold()]
    close = difflib.get_close_matches(wanted.casefold(), simple, n=1, cutoff=0.4)
    hint = (
        f"did you mean {names[simple[close[0]]]}?"
        if close
        else (
            f"expected {', '.join(names[:MANY])}{', ...' * (len(names) > MANY)}"
            if names
            else f"the names are not known: give a number of 0 to {num_classes - 1}"
        )
    )
    raise RunError(f"--label {wanted!r} is none of the run's classes; {hint}")


MANY = 12
"""Names of classes that an error lists."""


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
