"""Configurations as JSON keeps them: flat, with every field checked when it is read back."""

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxddim.runs.config import LATER, MAY_DIFFER, Config, ImageSize
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

    Fields in `MAY_DIFFER` and `LATER` may be missing, and then have their defaults.

    Raises:
      RunError: for a field that is missing, unknown or of another type; it names the field.
    """
    unread = dict(flat)

    def build(kind: type, prefix: str) -> Any:
        values, hints = {}, get_type_hints(kind)
        for f in fields(kind):
            name, hint = prefix + f.name, hints[f.name]
            if is_dataclass(hint):
                values[f.name] = build(hint, name + ".")
            elif name in unread:
                values[f.name] = _typed(name, unread.pop(name), hint)
            elif name not in MAY_DIFFER | LATER | {"config"}:
                raise RunError(f"the field {name} is missing")
        return kind(**values)

    config = build(Config, "")
    if unread:
        raise RunError(
            f"the field {min(unread)} is unknown to this version of jaxddim: a newer one wrote it"
        )
    return config


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value of a field as its type; a RunError if it is of another type or out of range."""
    choices = get_args(hint)
    if hint == ImageSize:
        return _size(name, value)
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _typed(name, value, choices[0])
    if get_origin(hint) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise RunError(f"{name} is {value!r}: expected one of {', '.join(map(str, choices))}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise RunError(f"{name} is {value!r}: expected a list")
        return tuple(_typed(name, item, choices[0]) for item in value)
    if name == "optim.clip" and value is None:
        return math.inf  # as `finite` writes it
    allowed = (float, int) if hint is float else (hint,)  # JSON of another writer has no 1.0
    if type(value) not in allowed:
        raise RunError(f"{name} is {value!r}: expected {_NAMES[hint]}")
    if name == "seed" and not 0 <= value < 2**32:
        raise RunError(f"{name} is {value!r}: expected a number in [0, 2^32)")
    if hint is int and name.startswith(_COUNTS) and value < 1:
        raise RunError(f"{name} is {value!r}: expected 1 or more")
    low, high = _RANGES.get(name, (0, math.inf))
    if name in _RANGES and not low <= value <= high:
        raise RunError(f"{name} is {value!r}: expected {low:g} to {high:g}")
    return hint(value)


def _size(name: str, value: Any) -> ImageSize:
    sides = value if isinstance(value, list) else [value]
    if not 1 <= len(sides) <= 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise RunError(f"{name} is {value!r}: expected pixels, 1 or more, or [height, width]")
    return sides[0] if len(set(sides)) == 1 else tuple(sides)


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_RANGES = {
    "model.dropout": (0, 1),
    "diffusion.levels_std": (0, math.inf),
    "optim.learning_rate": (0, math.inf),
    "optim.muon_rate": (0, math.inf),
    "optim.warmup_steps": (0, math.inf),
    "optim.decay_steps": (0, math.inf),
    "optim.clip": (0, math.inf),
    "optim.ema": (0, 1),
}
_COUNTS = ("data.", "diffusion.", "train.")
"""Groups whose whole numbers are counts."""
