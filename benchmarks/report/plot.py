"""The plot of the report: images a second, with quartiles."""

from pathlib import Path
from typing import Any

from benchmarks.report.summary import NAMES, NETWORKS, OPS, cell, rate

COLORS = {"jax": "#c2410c", "bfloat16": "#ea9a6d", "xla": "#ea9a6d", "flax": "#a8a29e"}
PYTORCH = "#5b7fa6"


def draw(records: dict[str, Any], path: Path) -> bool:
    """Draws a panel for each network, batch and kind of step; False if there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    races = [record for name, record in sorted(records.items(), key=_order) if "steps/" in name]
    if not races:
        return False
    names = [n for n in NAMES if any(cell(race, n, op) for race in races for op in OPS)]
    size = (9, 0.4 + (0.6 + 0.24 * len(names)) * len(races))
    figure, axes = pyplot.subplots(
        len(races), len(OPS), figsize=size, squeeze=False, layout="constrained"
    )
    for row, race in zip(axes, races, strict=True):
        for axis, op in zip(row, OPS, strict=True):
            _panel(axis, race, op, names)
            axis.set_title(
                f"{OPS[op]}: {NETWORKS[race['network']]}, batch {race['batch']}", fontsize=9
            )
            axis.set_yticks(range(len(names)), [NAMES[n] for n in names] if axis is row[0] else [])
    figure.supxlabel("images a second: median of the rounds, with quartiles", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True


def _order(item: tuple[str, Any]) -> tuple[str, int]:
    return item[1].get("network", ""), item[1].get("batch", 0)


def _panel(axis: Any, race: dict[str, Any], op: str, names: list[str]) -> None:
    rates = {n: rate(c, race["batch"]) for n in names if (c := cell(race, n, op))}
    top = max((r.high for r in rates.values()), default=1.0)
    for i, name in enumerate(names):
        if name not in rates:
            axis.text(0.02 * top, i, "not measured", va="center", fontsize=7, color="gray")
            continue
        median, low, high = rates[name]
        axis.barh(i, median, color=COLORS.get(name, PYTORCH), height=0.7)
        axis.errorbar(
            median, i, xerr=[[median - low], [high - median]], color="black", capsize=2, lw=0.8
        )
        axis.text(high + 0.03 * top, i, f"{median:.3g}", va="center", fontsize=8)
    axis.set_xlim(0, 1.22 * top)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(labelsize=8, length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
