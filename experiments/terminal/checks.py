"""Checks of settings that several commands share, made before any work is done."""

import math
from pathlib import Path
from typing import Any

from experiments.terminal.errors import UserError
from jaxddim.runs.methods import DrawConfig

INSTEAD_OF_ETA = {
    "ddpm": "DDPM is DDIM with eta = 1",
    "heun": "heun draws no noise",
    "dpm++2m": "with noise it is --method dpm++2m-sde",
    "dpm++2m-sde": "dpm++2m-sde draws the noise of eta = 1",
    "plms": "plms draws no noise",
}


def check_numbers(config: Any, *positive: str) -> None:
    """Raises a UserError for a seed out of range, or when one of these fields is below 1."""
    for name in positive:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {config.seed}")


def check_step(config: DrawConfig) -> None:
    """Raises a UserError for an update step that is not defined."""
    if not 0 <= config.eta <= 1:
        raise UserError(
            f"--eta must lie in [0, 1], got {config.eta}: above 1 the step is not defined"
        )
    if not math.isfinite(config.guidance):
        raise UserError(f"--guidance must be a number, got {config.guidance}")
    if config.eta and config.method != "ddim":
        raise UserError(f"--eta belongs to --method ddim; {INSTEAD_OF_ETA[config.method]}")
    if config.variance != "small" and config.method != "ddpm":
        instead = "; DDIM has --eta" if config.method == "ddim" else f", not to {config.method}"
        raise UserError(f"--variance {config.variance} belongs to --method ddpm{instead}")


def make_folder(folder: Path) -> None:
    """Creates the folder of --out, or raises a UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be made ({error.strerror})") from None
