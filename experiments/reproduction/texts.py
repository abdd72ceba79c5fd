"""Markdown of the report: tables, numbers and lists."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
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
    """Whether there are two numbers or more, and each is below the one before it."""
    return known(*values) and len(values) > 1 and all(b < a for a, b in itertools.pairwise(values))


def verb(before: float, after: float, digits: int = 3) -> str | None:
    """Whether a number rises, falls or stays, as it is printed; None without both numbers.

    Example:
      >>> verb(0.2, 0.1), verb(2.51e6, 2.49e6, 2), verb(float("nan"), 1.0)
      ('falls', 'stays', None)
    """
    if not known(before, after):
        return None
    a, b = float(number(before, digits)), float(number(after, digits))
    return "falls" if b < a else "rises" if b > a else "stays"


def change(before: float, after: float, digits: int = 3) -> str | None:
    """From where to where a number goes, as it is printed; None without both numbers.

    Example:
      >>> change(0.2, 0.1), change(2.51e6, 2.49e6, 2)
      ('falls from 0.200 to 0.100', 'stays at 2.5e+06')
    """
    how = verb(before, after, digits)
    if how in (None, "stays"):
        return how and f"stays at {number(before, digits)}"
    return f"{how} from {number(before, digits)} to {number(after, digits)}"


def trend(
    steps: Sequence[int], values: Sequence[float], digits: int = 3
) -> tuple[str, list[str]] | None:
    """What a quantity does as S grows: "falls", "mixed" or "never", and where it does not fall.

    Returns:
      None when fewer than two values are known, and when one is missing and the others fall.

    Example:
      >>> trend([10, 20, 50], [0.1, 0.02, 0.03], 2)
      ('mixed', ['from S = 20 to 50 (0.020 to 0.030)'])
      >>> trend([10], [0.1]) is None
      True
    """
    measured = [(s, x) for s, x in zip(steps, values, strict=True) if known(x)]
    if len(measured) < 2:
        return None
    pairs = list(itertools.pairwise(measured))
    others = [
        f"from S = {s} to {t} ({number(a, digits)} to {number(b, digits)})"
        for (s, a), (t, b) in pairs
        if verb(a, b, digits) != "falls"
    ]
    if not others and len(measured) < len(steps):
        return None
    return ("falls" if not others else "never" if len(others) == len(pairs) else "mixed"), others


def grid_end(record: Mapping[str, Any]) -> list[str]:
    """Where the times of a part end, if before T, and why."""
    end = record.get("grid_end")
    if not end or end["t"] == end["T"]:
        return []
    at, last = end["sigma_over_alpha"]
    there = f"it is {number(last)}" if known(last) else "alpha is 0"
    return [
        f"The times end at t = {end['t']} of {end['T']}, where sigma / alpha is {number(at)}. At T "
        f"{there}: a step from there, which divides by alpha, does not determine the image.",
        "",
    ]
