"""Schedules of diffusers: scheduler_config.json, both ways.

A field that a file leaves out has that library's default.

Source: diffusers 0.42.1, schedulers/scheduling_ddpm.py and scheduling_ddim.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxddim.files import reading
from jaxddim.files.reading import shown
from jaxddim.runs.build import build_schedule
from jaxddim.runs.config import MOST_STEPS, DiffusionConfig

NAME = "scheduler_config.json"
SCHEDULES: Mapping[str, Any] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
MOST_BYTES = 1 << 26
"""Of a JSON file; lists of the tensors of large models have a few million."""
KINDS: Mapping[str, Any] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON file, without those that begin with _.

    Raises:
      ValueError: when it cannot be read.
    """
    try:
        found = reading.record(path, MOST_BYTES)
        if not isinstance(found, dict):
            raise ValueError("it is no dictionary")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): restore it") from None
    return {name: value for name, value in found.items() if not name.startswith("_")}


def read(folder: Path, given: DiffusionConfig | None) -> tuple[DiffusionConfig, list[str]]:
    """The schedule of a folder, and notes on how it was sampled.

    Args:
      folder: of a network of diffusers'.
      given: the schedule if the folder has none.
    Raises:
      ValueError: for a schedule that is none of ours, or when there is none.
    """
    places = [folder / "scheduler", folder, folder.parent / "scheduler"]
    path = next((p / NAME for p in places if (p / NAME).is_file()), None)
    if path is None:
        if given is None:
            raise ValueError(
                f"{folder} holds no {NAME}: give the schedule that it was trained with, "
                "--diffusion.schedule linear for the library's example"
            )
        return given, []
    told = fields(path)
    schedule: Any = told.get("beta_schedule", "linear")
    kind: Any = told.get("prediction_type", "epsilon")
    variance = str(told.get("variance_type"))
    for name, value, known in (
        ("beta_schedule", schedule, SCHEDULES),
        ("prediction_type", kind, KINDS),
    ):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{path}: {name} is {shown(value)}, and here it is {', '.join(known)}")
    if told.get("trained_betas") is not None:
        raise ValueError(f"{path}: trained_betas is a list, and here schedules have names")
    if variance.startswith("learned"):
        raise ValueError(f"{path}: variance_type is {variance}, and here no network learns it")
    steps = told.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise ValueError(
            f"{path}: num_train_timesteps is {shown(steps)}, expected a number of steps"
        )
    found = DiffusionConfig(
        schedule=SCHEDULES[schedule],
        num_steps=steps,
        zero_terminal_snr=bool(told.get("rescale_betas_zero_snr", False)),
        kind=KINDS[kind],
    )
    if schedule != "squaredcos_cap_v2":
        betas = told.get("beta_start", 1e-4), told.get("beta_end", 0.02)
        for beta in betas:
            if type(beta) not in (int, float) or not 0 <= beta <= 1:
                raise ValueError(f"{path}: a beta is {shown(beta)}, expected a number in [0, 1]")
        found = replace(found, beta_start=float(betas[0]), beta_end=float(betas[1]))
    notes = []
    if variance == "fixed_large":
        notes.append("DDPM sampled it with the large variance: --method ddpm --variance large")
    if not told.get("clip_sample", True):
        notes.append("it was sampled without clipping: --clip none")
    return found, notes


def written(diffusion: DiffusionConfig) -> dict[str, Any]:
    """The scheduler_config.json of a run's schedule.

    Raises:
      ValueError: for a network that predicts what that library does not know.
    """
    if diffusion.kind not in KINDS.values():
        raise ValueError(f"diffusers has no --diffusion.kind {diffusion.kind}")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": diffusion.num_steps,
        "prediction_type": next(name for name, kind in KINDS.items() if kind == diffusion.kind),
        "clip_sample": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
        **betas(diffusion),
    }


def betas(diffusion: DiffusionConfig) -> dict[str, Any]:
    """The fields that give a schedule's betas: a name and two numbers, or a list."""
    theirs = {ours: name for name, ours in SCHEDULES.items()} | {"quadratic": "scaled_linear"}
    usual = {"scaled_linear": (0.00085, 0.012)}.get(diffusion.schedule, (1e-4, 0.02))
    if diffusion.schedule not in theirs:
        schedule = build_schedule(replace(diffusion, zero_terminal_snr=False))
        log_alpha_bar = -np.logaddexp(0, -np.asarray(schedule.log_snr, np.float64))
        return {"trained_betas": (-np.expm1(np.diff(log_alpha_bar))).tolist()}
    first, last = (
        given if given is not None else default
        for given, default in zip((diffusion.beta_start, diffusion.beta_end), usual, strict=True)
    )
    return {"beta_schedule": theirs[diffusion.schedule], "beta_start": first, "beta_end": last}
