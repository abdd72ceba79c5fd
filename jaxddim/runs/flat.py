"""Configurations as JSON keeps them: flat, with every field checked when it is read back."""

import math
import os
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxddim.files.reading import shown
from jaxddim.runs.config import LATER, MAY_DIFFER, MOST_STEPS, Config, ImageSize
from jaxddim.runs.errors import RunError


def finite(value: Any) -> Any:
    """The value as JSON can hold it: tuples as lists, and null for a number that is not finite.

    Example:
      >>> finite({"loss": float("nan"), "log_snr": (1.0, -float("inf"))})
      {'loss': None, 'log_snr': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"seed": 0, "data.source": "auto", ...}, with values as JSON returns them."""
    flat = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = finite(value)
    return flat


def from_flat(flat: dict[str, Any]) -> Config:
    """The inverse of `flatten`.

    Fields in `MAY_DIFFER` may be missing, and those of `LATER` that are younger than the record;
    they have their defaults.

    Raises:
      RunError: for a field that is missing, unknown, of another type or out of range; it names the
        field.
    """
    unread = dict(flat)
    newest = max((i for i, names in enumerate(LATER, 1) if names & flat.keys()), default=0)
    optional = MAY_DIFFER.union({"config"}, *LATER[newest:])

    def build(kind: type, prefix: str) -> Any:
        values, hints = {}, get_type_hints(kind)
        for f in fields(kind):
            name, hint = prefix + f.name, hints[f.name]
            if is_dataclass(hint):
                values[f.name] = build(hint, name + ".")
            elif name in unread:
                values[f.name] = _typed(name, unread.pop(name), hint)
            elif name not in optional:
                raise RunError(f"the field {name} is missing")
        return kind(**values)

    config = build(Config, "")
    if unread:
        raise RunError(
            f"the field {shown(min(unread))} is unknown to this version of jaxddim: a newer one "
            "wrote it"
        )
    return config


def check(config: Config) -> None:
    """Raises a RunError, with its flag, for a field that could not be read back from a record."""
    try:
        from_flat(flatten(config))
    except RunError as error:
        name, _, trouble = str(error).partition(" is ")
        raise RunError(f"--{name.replace('_', '-')} {trouble}") from None


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value of a field as its type; a RunError if it is of another type or out of range."""
    choices = get_args(hint)
    if hint == ImageSize:
        return _size(name, value)
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _typed(name, value, choices[0])
    if get_origin(hint) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise _wrong(name, value, f"one of {', '.join(map(str, choices))}")
        return value
    if get_origin(hint) is tuple:
        most = MOST_NAMES if choices[0] is str else MOST_LEVELS
        if not isinstance(value, list) or len(value) > most:
            raise _wrong(name, value, f"a list of {most} items at most")
        return tuple(_typed(name, item, choices[0]) for item in value)
    if name == "optim.clip" and value is None:
        return math.inf  # as `finite` writes it
    allowed = (float, int) if hint is float else (hint,)  # JSON of another writer has no 1.0
    if type(value) not in allowed:
        raise _wrong(name, value, _NAMES[hint])
    if hint is str:
        _check_text(name, value)
    elif hint is not bool:
        low, high = _range(name, hint)
        if not low <= value <= high or (value > LARGEST and type(value) is int):
            raise _wrong(name, value, f"{low:,} to {high:,}")
    return hint(value)


def _range(name: str, hint: type) -> tuple[float, float]:
    """The smallest and the largest value of a field."""
    if hint is float:
        return _RANGES.get(name, (-LARGEST, LARGEST))
    return _RANGES.get(name, (1 if name.startswith(_COUNTS) else 0, MOST))


def _check_text(name: str, value: str) -> None:
    """Raises a RunError for a text that no path and no name can be."""
    try:
        short = len(os.fsencode(value)) <= LONGEST_TEXT and "\0" not in value
    except UnicodeEncodeError:
        short = False
    if not short:
        raise _wrong(name, value, "a name or a path")


def _wrong(name: str, value: Any, expected: str) -> RunError:
    return RunError(f"{name} is {shown(value)}: expected {expected}")


def _size(name: str, value: Any) -> ImageSize:
    sides = value if isinstance(value, list) else [value]
    known = all(type(side) is int and 1 <= side <= LONGEST_SIDE for side in sides)
    if not 1 <= len(sides) <= 2 or not known:
        raise _wrong(name, value, f"pixels, 1 to {LONGEST_SIDE:,}, or [height, width]")
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


MOST = 2**31 - 1
MOST_NAMES, MOST_LEVELS = 10_000, 16
LARGEST = 1e30
LONGEST_SIDE = 1 << 13
LONGEST_TEXT = 4096
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_RANGES = {
    "seed": (0, 2**32 - 1),
    "diffusion.num_steps": (1, MOST_STEPS),
    "diffusion.levels_std": (0, LARGEST),
    "model.channels": (1, 1 << 16),
    "model.multipliers": (1, 1 << 10),
    "model.num_blocks": (1, 64),
    "model.groups": (1, 1 << 16),
    "model.patch": (1, 1 << 10),
    "model.dropout": (0, 1),
    "model.epsilon": (0, 1),
    "model.head_dim": (1, 1 << 16),
    "model.num_classes": (1, 1 << 20),
    "optim.learning_rate": (0, LARGEST),
    "optim.muon_rate": (0, LARGEST),
    "optim.clip": (0, math.inf),
    "optim.ema": (0, 1),
}
_COUNTS = ("data.", "diffusion.", "train.")
"""Groups whose whole numbers are counts."""
