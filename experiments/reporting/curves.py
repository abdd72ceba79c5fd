"""A run's numbers over its steps, as SVG."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.reporting.contents import Contents
from jaxddim.runs.build import learning_rate

MOST_POINTS = 1000
"""Points of a curve; of more, means of neighbours are drawn."""
COLOURS = ("#2b6cb0", "#c05621")


def curves(contents: Contents) -> list[tuple[str, str]]:
    """(title, SVG) of each number that the log has."""
    unit = {"images_per_second": "images/s", "peak_memory_gib": "GiB"}
    found = []
    losses = [(name, *contents.series(name)) for name in ("loss", "validation_loss")]
    if any(steps for _, steps, _ in losses):
        found.append(("Loss", drawn(losses, log=True)))
    steps, _ = contents.series("loss")
    if steps:
        optim = contents.config.optim
        rates = [("learning_rate", optim.learning_rate)]
        rates += [("muon_rate", optim.muon_rate)] if optim.name == "muon" else []
        named = [(name, steps, _rates(optim, peak, steps)) for name, peak in rates]
        found.append(("Learning rate", drawn(named)))
    for name, title in (
        ("grad_norm", "Norm of the gradient"),
        ("images_per_second", "Speed"),
        ("peak_memory_gib", "Peak memory"),
    ):
        steps, values = contents.series(name)
        if steps:
            log, label = name == "grad_norm", unit.get(name, "")
            found.append((title, drawn([(name, steps, values)], log=log, label=label)))
    return found


def _rates(optim: Any, peak: float, steps: Sequence[int]) -> list[float]:
    rate: Any = learning_rate(optim, peak)
    return [float(rate(step)) if callable(rate) else float(rate) for step in steps]


def thinned(values: Sequence[float]) -> np.ndarray:
    """At most MOST_POINTS means of neighbours.

    Example:
      >>> thinned(range(4000))[:2].tolist(), len(thinned(range(4000)))
      ([1.5, 5.5], 1000)
    """
    groups = np.array_split(np.asarray(values, float), min(len(values), MOST_POINTS))
    return np.array([group.mean() for group in groups])


def drawn(
    series: Sequence[tuple[str, Sequence[int], Sequence[float]]],
    *,
    log: bool = False,
    label: str = "",
) -> str:
    """Curves in one picture, as SVG.

    Args:
      series: (name, steps, values) of each.
      log: whether values have a logarithmic axis, where all are above 0.
      label: of the values' axis.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxddim", "font.size": 9}):
        figure = Figure(figsize=(5.2, 2.8), layout="constrained")
        axis = figure.subplots()
        for (name, steps, values), colour in zip(series, COLOURS, strict=False):
            if values:
                few = "o" if len(values) < 30 else ""
                x, y = thinned(steps), thinned(values)
                axis.plot(x, y, few + "-", label=name, color=colour, ms=3, lw=1.2)
        if log and all(value > 0 for _, _, values in series for value in values):
            axis.set_yscale("log")
        if label:
            axis.set_ylim(bottom=0)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        if sum(bool(values) for _, _, values in series) > 1:
            axis.legend(frameon=False)
        FigureCanvasSVG(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    return file.getvalue()[file.getvalue().index("<svg") :]
