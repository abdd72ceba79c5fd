"""What a press of the button asks for."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints
from urllib.parse import urlencode

from experiments.terminal.errors import UserError
from jaxddim.files.reading import shown
from jaxddim.runs.methods import DrawConfig, Method, Spacing

BOUNDS = {
    "num": (1, 64),
    "seed": (0, 2**32 - 1),
    "steps": (1, 1000),
    "eta": (0.0, 1.0),
    "guidance": (-20.0, 20.0),
}


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn. The names are those of `experiments.sample`.

    Attributes:
      num: number of pictures.
      seed: of their noise.
      steps: sampling steps, S.
      method: sampling method.
      eta: noise of ddim.
      spacing: of the sampling times.
      label: class; "" draws them as often as the images have them.
      guidance: how strongly pictures follow their labels.
    """

    num: int = 16
    seed: int = 0
    steps: int = 50
    method: Method = "ddim"
    eta: float = 0.0
    spacing: Spacing = "linear"
    label: str = ""
    guidance: float = 1.0

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:  # NaN is in no range
                raise UserError(f"{name} must lie in {low}..{high}, got {getattr(self, name)}")
        for name, hint in get_type_hints(type(self)).items():
            value, choices = getattr(self, name), get_args(hint)
            if get_origin(hint) is Literal and value not in choices:
                raise UserError(f"{name}: expected one of {', '.join(choices)}, got {shown(value)}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The settings with these names, as numbers or as text; others are left as they are.

        Raises:
          UserError: for a value of another type, or out of range.
        """
        found: dict[str, Any] = {}
        for name, kind in get_type_hints(cls).items():
            if name not in values:
                continue
            value = values[name]
            kind = kind if kind in (int, float) else str
            try:
                found[name] = kind(value)
                if kind is int and found[name] != float(value):
                    raise ValueError
            except (TypeError, ValueError, OverflowError):
                number = "whole number" if kind is int else "number"
                raise UserError(f"{name}: expected a {number}, got {shown(value)}") from None
        return cls(**found)

    @property
    def changed(self) -> dict[str, Any]:
        """The fields that are not the defaults, by name."""
        return {
            f.name: value
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != f.default
        }

    def link(self) -> str:
        """The query that opens the page with these settings."""
        return "?" + urlencode(self.changed)

    def command(self, workdir: str) -> str:
        """The command that draws the same pictures into a file."""
        words = ["python", "-m", "experiments.sample", "--workdir", workdir]
        always = {name: getattr(self, name) for name in ("num", "steps", "seed")}
        for name, value in (always | self.changed).items():
            words += [f"--{name}", str(value)]
        return shlex.join([*words, "--out", "pictures.png"])

    def how(self, workdir: str) -> DrawConfig:
        """The same for `jaxddim.runs.drawing`, with seed 0."""
        return DrawConfig(
            workdir, self.steps, self.method, self.eta, spacing=self.spacing,
            label=self.label or None, guidance=self.guidance,
        )  # fmt: skip
