"""Markdown of the report: tables, numbers and lists."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

ETA = {"sigma-hat": "σ̂"}
"""How samplers are displayed, if not by their names."""
NONE = "n/a"
"""A number that could not be measured."""
ABSENT = ("held_out", "line")
"""Names whose null means that there is no such entry."""


def numbers(value: Any, name: str = "") -> Any:
    """A part of report.json with NaN for the null of a number that is not finite.

    Example:
      >>> numbers({"error": [1.0, None], "line": None})
      {'error': [1.0, nan], 'line': None}
    """
    if isinstance(value, dict):
        return {key: numbers(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return math.nan if value is None and name not in ABSENT else value


def known(*values: float) -> bool:
    """Whether all of these numbers could be measured."""
    return all(map(math.isfinite, values))


def ratio(a: float, b: float) -> float:
    """a / b, or NaN where b is 0."""
    return a / b if b else math.nan


def shown(value: float, form: str) -> str:
    """A number in this format.

    Example:
      >>> shown(0.5, ".0%"), shown(float("nan"), ".0%")
      ('50%', 'n/a')
    """
    return format(value, form) if known(value) else NONE


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> list[str]:
    """A table, followed by an empty line.

    Example:
      >>> table(["S", "FD"], [[10, "1.5"]])
      ['| S | FD |', '| --- | --- |', '| 10 | 1.5 |', '']
    """
    head = [str(value) for value in head]
    lines = [head, ["---"] * len(head), *([str(value) for value in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def number(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, or more if its integer part is longer.

    Example:
      >>> number(1234.5), number(0.012345), number(1.2e-7), number(float("nan"))
      ('1234', '0.0123', '1.20e-07', 'n/a')
    """
    if not known(value):
        return NONE
    scientific = f"{value:.{digits - 1}e}"
    exponent = int(scientific.partition("e")[2])
    if not -4 <= exponent < 6:
        return scientific
    return f"{value:.{max(digits - 1 - exponent, 0)}f}"


def listed(words: Iterable[Any]) -> str:
    """Words as a list in a sentence.

    Example:
      >>> listed([10, 20, 50]), listed(["a"])
      ('10, 20 and 50', 'a')
    """
    first = [str(word) for word in words]
    return " and ".join(filter(None, [", ".join(first[:-1]), first[-1]]))


def eta(name: str) -> str:
    """The name of a sampler in a sentence.

    Example:
      >>> eta("0.5"), eta("sigma-hat")
      ('eta = 0.5', 'σ̂')
    """
    return ETA.get(name, f"eta = {name}")


def picture(name: str, caption: str) -> list[str]:
    """A picture in the folder of the report, with its caption below."""
    return [f"![{caption.partition('.')[0]}]({name})", "", f"*{caption}*", ""]


def falling(values: Sequence[float]) -> bool:
    """Whether each value is below the one before it."""
    return all(b < a for a, b in itertools.pairwise(values))
