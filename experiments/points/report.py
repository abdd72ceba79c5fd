"""From clouds of points to a table of distances and its findings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.points import roll
from experiments.points.distances import mmd2, sliced_wasserstein
from experiments.points.roll import METHODS

Cell = tuple[str, int, str]
"""Method, requested evaluations, and weights: "ema", "raw", or "exact" for the exact denoiser."""


def distances(clouds: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Both distances between pairs of clouds.

    Args:
      clouds: [n, num, 2].
      reference: [n, num, 2].
    Returns:
      For "sliced_w2" and "mmd2" a dict of "mean", "standard_error" (of the mean) and "values" [n].
    """
    found = {}
    for name, distance in (("sliced_w2", sliced_wasserstein), ("mmd2", mmd2)):
        values = [distance(x, y) for x, y in zip(clouds, reference, strict=True)]
        mean, error = mean_and_error(np.array(values))
        found[name] = {"mean": mean, "standard_error": error, "values": values}
    return found


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of a vector and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def table(results: Mapping[str, Any]) -> str:
    """Markdown: a row for each method and number of evaluations, and comparisons in words.

    Args:
      results: the contents of results.json: "settings", "floor" and "rows".
    """
    settings, floor = results["settings"], results["floor"]
    found = {(r["method"], r["evaluations"], r["weights"]): r for r in results["rows"]}
    widths = ", ".join(map(str, settings["bandwidths"]))
    lines = [
        f"Distances to fresh data, mean ± standard error over {settings['networks']} networks, "
        f"{settings['num_points']:,} points each. SW2: sliced Wasserstein-2 over "
        f"{settings['directions']} directions. MMD²: unbiased, times 1000, Gaussian kernels of "
        f"widths {widths}. EMA: averaged weights. Exact: the roll's posterior mean in place of a "
        f"network, up to {roll.EXACT_UP_TO} evaluations.",
        "",
        "| method | evaluations | SW2, EMA | SW2, raw | SW2, exact "
        "| MMD², EMA | MMD², raw | MMD², exact |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        for evaluations in settings["evaluations"]:
            cells = [found.get((name, evaluations, weights)) for weights in ("ema", "raw", "exact")]
            made = method.made(evaluations)
            sw2 = [_number(row["sliced_w2"], 1, 4) if row else "" for row in cells]
            mmd = [_number(row["mmd2"], 1000, 2) if row else "" for row in cells]
            lines.append(_row(method.title, str(made), *sw2, *mmd))
    sw2, mmd = _number(floor["sliced_w2"], 1, 4), _number(floor["mmd2"], 1000, 2)
    lines.append(_row("other fresh data: the floor", "", sw2, "", "", mmd, "", ""))
    return "\n".join([*lines, "", *reading(found, floor)]) + "\n"


def _number(value: Mapping[str, Any], scale: float, digits: int) -> str:
    return f"{scale * value['mean']:.{digits}f} ± {scale * value['standard_error']:.{digits}f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def reading(found: Mapping[Cell, Any], floor: Mapping[str, Any]) -> list[str]:
    """Comparisons of the rows of the table, in words."""
    sw2 = {cell: row["sliced_w2"]["mean"] for cell, row in found.items()}
    values = {cell: np.array(row["sliced_w2"]["values"]) for cell, row in found.items()}
    pairs = [(cell, (*cell[:2], "raw")) for cell in found if cell[2] == "ema"]
    ratio = np.mean([sw2[ema] / sw2[raw] for ema, raw in pairs])
    smaller = sum(sw2[ema] < sw2[raw] for ema, raw in pairs)
    gaps = [mean_and_error(values[ema] - values[raw]) for ema, raw in pairs]  # per network
    worse = sum(gap > 2 * error for gap, error in gaps)
    lines = [
        f"* EMA against raw weights: SW2 is {ratio:.2f} times as large on average, smaller in "
        f"{smaller} of {len(pairs)} rows, and larger by more than two standard errors in {worse}."
    ]
    few, less, many = ("ddim", 20, "ema"), ("ddpm", 20, "ema"), ("ddpm", 1000, "ema")
    if {few, less, many} <= sw2.keys():
        lines += [
            f"* DDIM with 20 evaluations: {sw2[few] / sw2[many]:.2f} times the SW2 of DDPM with "
            f"1000, which is {sw2[many] / floor['sliced_w2']['mean']:.2f} times the floor.",
            f"* DDPM with 20 evaluations: {sw2[less] / sw2[few]:.2f} times the SW2 of DDIM with "
            "20.",
        ]
    alone = [name for name in METHODS if (name, 20, "exact") in sw2]
    if alone:
        shares = ", ".join(
            f"{METHODS[name].title} {sw2[name, 20, 'exact'] / floor['sliced_w2']['mean']:.2f}"
            for name in alone
        )
        lines.append(
            "* With the exact denoiser 20 evaluations are at these multiples of the floor, the "
            f"error of the sampler alone: {shares}."
        )
    return lines
