"""Medians and quartiles over the rounds, and the names shown to readers."""

import statistics
from typing import Any, NamedTuple

NAMES = {
    "jax": "this project",
    "bfloat16": "this project, bfloat16",
    "remat": "this project, remat",
    "xla": "this project, plain XLA convolutions",
    "flax": "plain Flax",
    "eager": "PyTorch eager",
    "channels_last": "PyTorch channels_last, fused Adam",
    "compile": "PyTorch torch.compile",
    "autocast": "PyTorch channels_last, fused Adam, bfloat16",
    "autocast_compile": "the same with torch.compile",
    "diffusers": "diffusers",
    "product": "a product of large matrices",
}
NETWORKS = {"simple": "SimpleUNet 64x64", "unet": "UNet 32x32"}
OPS = {"train": "training", "forward": "forward"}


class Spread(NamedTuple):
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 3 if self.median < 1 else 2 if self.median < 10 else 1 if self.median < 100 else 0
        low, median, high = (f"{v:.{digits}f}" for v in (self.low, self.median, self.high))
        return f"{median} ({low} to {high})"


def spread(values: list[float]) -> Spread:
    """Median and quartiles of some values.

    Example:
      >>> print(spread([3.0, 1.0, 2.0, 5.0, 4.0]))
      3.00 (2.00 to 4.00)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def cell(record: dict[str, Any] | None, contender: str, op: str) -> dict[str, Any] | None:
    """One contender's method in a race, if it was measured."""
    cells = record["cells"] if record else []
    found = [c for c in cells if (c["contender"], c["op"]) == (contender, op)]
    return found[0] if found else None


def ratio(slow: dict[str, Any] | None, fast: dict[str, Any] | None) -> Spread | None:
    """Time of `slow` relative to `fast`: median and quartiles of the rounds' ratios."""
    if not slow or not fast:
        return None
    return spread([a / b for a, b in zip(slow["seconds"], fast["seconds"], strict=True)])


def rate(cell: dict[str, Any] | None, count: float) -> Spread | None:
    """Items per second, if one call processes `count` of them."""
    return spread([count / seconds for seconds in cell["seconds"]]) if cell else None
