"""Pictures of an evaluation: samples beside their nearest training images, and distances."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation.manifolds import Neighbours
from experiments.terminal.files import replace
from experiments.terminal.pictures import grid, save_png, zoom

ROWS = 10
SAMPLES, REAL = "#c2410c", "#5b7fa6"


def save_neighbours(
    path: Path, samples: np.ndarray, training: np.ndarray, found: Neighbours
) -> list[int]:
    """Rows of a sample and its nearest training images, from the closest pair to the farthest.

    Args:
      path: the PNG to write.
      samples: uint8 [n, h, w, c].
      training: uint8 [m, h, w, c].
      found: the neighbours of each sample.
    Returns:
      The indices of the samples shown, top to bottom: evenly spaced in the order of distances.
    """
    order = np.argsort(found.distances[:, 0], kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(ROWS, len(order))).round().astype(int)]
    left = grid(samples[shown], 1)
    indices = found.indices[shown]
    right = grid(training[indices.ravel()], indices.shape[1])
    gap = np.full((len(left), samples.shape[2] // 2, samples.shape[3]), 255, np.uint8)
    save_png(path, np.concatenate([left, gap, right], 1), zoom(samples))
    return shown.tolist()


def save_spectrum(path: Path, frequencies: list[float], ratios: list[float]) -> None:
    """The samples' power by frequency over that of real images, as a curve about 1.

    Args:
      path: the PNG to write.
      frequencies: of each ring, in cycles a pixel.
      ratios: of its power; those that are not finite are left out.
    """
    figure, axis = _figure()
    found = [(f, ratio) for f, ratio in zip(frequencies, ratios, strict=True) if 0 < ratio < np.inf]
    axis.axhline(1.0, color=REAL, label="real images")
    f, ratio = [f for f, _ in found], [ratio for _, ratio in found]
    axis.plot(f, ratio, marker="o", markersize=3, color=SAMPLES, label="samples")
    axis.set_yscale("log")
    axis.set_xlabel("frequency in cycles a pixel (the corner is 0.71)")
    axis.set_ylabel("power over that of real images")
    _save(path, figure, axis)


def save_histogram(path: Path, samples: np.ndarray, held_out: np.ndarray, axis_label: str) -> None:
    """Histogram of the distances of samples and held-out images to the nearest training image.

    Args:
      path: the PNG to write.
      samples: distances of samples, [n].
      held_out: distances of held-out images, [m].
      axis_label: label of the distance axis.
    """
    figure, axis = _figure()
    bins = np.linspace(0, 1.02 * max(samples.max(), held_out.max(), 1e-12), 41).tolist()
    for values, name, colour in (
        (samples, "samples", SAMPLES),
        (held_out, "held-out images", REAL),
    ):
        weights = np.full(len(values), 1 / len(values))
        label = f"{name} (N = {len(values)})"
        axis.hist(values, bins, weights=weights, color=colour, alpha=0.55, label=label)
    axis.set_xlabel(axis_label)
    axis.set_ylabel("share")
    _save(path, figure, axis)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    return figure, figure.subplots()


def _save(path: Path, figure: Any, axis: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    FigureCanvasAgg(figure)
    replace(path, lambda file: figure.savefig(file, format="png", dpi=120))
