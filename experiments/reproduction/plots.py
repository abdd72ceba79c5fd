"""The pictures of the report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reproduction import texts
from experiments.terminal.pictures import grid, save_png
from experiments.terminal.progress import stage

COLOURS = ("#9a3412", "#ea7a2c", "#e0b33a", "#5b7fa6", "#1f2937")
MARKERS = "osD^v"
GREY = "#8a8580"
DPI = 120
WIDTH = 800  # approximate width of a grid of images, in pixels
LABEL, MARGIN = 9, 12  # size of a row's name in points; pixels around it


@contextmanager
def figure(path: Path, size: tuple[float, float], panels: int) -> Iterator[list[Any]]:
    """Axes side by side; the figure is saved on exit."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = list(np.ravel(sheet.subplots(1, panels)))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    yield axes
    _save(path, sheet)


def _save(path: Path, sheet: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with stage(f"drawing {path.name}"):
        canvas = FigureCanvasAgg(sheet)
        canvas.draw()
        save_png(path, np.asarray(canvas.buffer_rgba())[..., :3])


def number_axis(axis: Any, values: Sequence[int]) -> None:
    """A logarithmic axis of S, with ticks at these values."""
    axis.set_xscale("log")
    axis.set_xticks(values, [str(value) for value in values])
    axis.minorticks_off()
    axis.set_xlabel("sampling steps S")


def save_images(
    path: Path,
    images: np.ndarray,
    rows: Sequence[Any] = (),
    columns: Sequence[Any] = (),
    *,
    gap: int = 2,
) -> None:
    """A grid of images, with names beside its rows and above its columns.

    Args:
      path: the PNG to write.
      images: uint8 [rows, columns, h, w, c].
      rows: names of the rows.
      columns: names of the columns.
      gap: white pixels between images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    across, h, w = images.shape[1:4]
    pixels = grid(images.reshape(-1, *images.shape[2:]), across, gap)
    zoom = max(1, round(WIDTH / pixels.shape[1]))
    pixels = pixels.repeat(zoom, 0).repeat(zoom, 1)
    font, renderer = FontProperties(size=LABEL), FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()
    widths = [renderer.get_text_width_height_descent(str(name), font, False)[0] for name in rows]
    left = MARGIN + round(max(widths, default=0))
    top, edge = 28 if columns else 4, 4
    width, height = left + pixels.shape[1] + edge, top + pixels.shape[0] + edge
    sheet = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    # exact to the pixel, so nothing is blurred
    box = (left / width, edge / height, pixels.shape[1] / width, pixels.shape[0] / height)
    axis = sheet.add_axes(box)
    axis.imshow(pixels, cmap="grey", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
    axis.xaxis.set_ticks_position("top")
    axis.set_xticks(_centres(w, gap, zoom, len(columns)), [str(name) for name in columns])
    axis.set_yticks(_centres(h, gap, zoom, len(rows)), [str(name) for name in rows])
    axis.tick_params(length=0, labelsize=LABEL)
    axis.spines[:].set_visible(False)
    _save(path, sheet)


def _centres(size: int, gap: int, zoom: int, count: int) -> np.ndarray:
    return zoom * (np.arange(count) * (size + gap) + size / 2) - 0.5


def save_quality(path: Path, record: dict[str, Any]) -> None:
    """Both distances of table 1 over S, a line for each eta."""
    cells, labels = record["cells"], record["labels"]
    names = list(dict.fromkeys(cell["eta"] for cell in cells))
    steps = sorted({cell["steps"] for cell in cells})
    with figure(path, (9, 3.9), 2) as axes:
        for axis, key, label in zip(axes, ("fd", "kid"), labels.values(), strict=True):
            for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
                row = [cell for cell in cells if cell["eta"] == name]
                error = [cell["kid_std"] for cell in row] if key == "kid" else None
                axis.errorbar(
                    [cell["steps"] for cell in row],
                    [cell[key] for cell in row],
                    error,
                    color=colour,
                    marker=marker,
                    ms=4,
                    lw=1.4,
                    capsize=2,
                    label=texts.eta(name),
                )
            if exact := record.get("exact"):
                row = [[cell[name] for cell in exact] for name in ("steps", key)]
                axis.plot(*row, color=GREY, marker=".", lw=1.2, label="exact denoiser, eta = 0")
            if record["held_out"]:
                axis.axhline(record["held_out"][key], color=GREY, ls=":", label="held-out images")
            number_axis(axis, steps)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{label}, N = {record['num']}", fontsize=10)
        handles = axes[0].get_legend_handles_labels()
        sheet = axes[0].get_figure()
        sheet.legend(*handles, loc="outside lower center", ncols=7, frameon=False, fontsize=8)


def save_timing(path: Path, record: dict[str, Any]) -> None:
    """Seconds over S with the fitted line, on a linear and on a logarithmic scale."""
    steps, seconds = np.array(record["steps"]), np.array(record["seconds"])
    line, between = record["line"], np.linspace(steps[0], steps[-1], 200)
    title = f"seconds for {record['batch']} images"
    with figure(path, (9, 3.4), 2) as axes:
        for axis in axes:
            if line:
                fit = line["intercept"] + line["slope"] * between
                axis.plot(between, fit, color=GREY, lw=1.2, label=f"fit, R² = {line['r2']:.5f}")
            axis.plot(steps, seconds, "o", color=COLOURS[0], ms=5, label="DDIM, median")
            axis.set_xlabel("sampling steps S")
            axis.set_title(title, fontsize=10)
        number_axis(axes[1], record["steps"])
        axes[1].set_yscale("log")
        axes[0].legend(frameon=False, fontsize=9)


def save_reconstruction(path: Path, record: dict[str, Any]) -> None:
    """The error of encoding and decoding over S, a line for each number of refinements."""
    with figure(path, (5.6, 3.8), 1) as (axis,):
        for row, colour, marker in zip(record["rows"], COLOURS[::2], MARKERS, strict=False):
            label = f"refine = {row['refine']}"
            axis.plot(record["steps"], row["error"], color=colour, marker=marker, ms=5, label=label)
        number_axis(axis, record["steps"])
        axis.set_yscale("log")
        axis.set_title("squared error per dimension, images in [0, 1]", fontsize=10)
        axis.legend(frameon=False, fontsize=9)


def save_ode(path: Path, grid: np.ndarray, euler: np.ndarray, ddim: np.ndarray) -> None:
    """Paths of a few pixels in the plane of eq. 14, and the difference of the two integrators.

    Args:
      path: the PNG to write.
      grid: sigma / alpha, [S+1], falling to 0.
      euler: x / alpha by Euler's method, [S+1, pixels].
      ddim: x / alpha by DDIM, likewise.
    """
    with figure(path, (9, 3.6), 2) as (plane, apart):
        for i in range(min(euler.shape[1], len(COLOURS))):
            plane.plot(grid, euler[:, i], color=COLOURS[i], lw=1.2)
            plane.plot(grid, ddim[:, i], "o", color=COLOURS[i], ms=3)
        plane.plot([], [], color=GREY, lw=1.2, label="Euler")
        plane.plot([], [], "o", color=GREY, ms=3, label="DDIM")
        plane.set_xscale("symlog", linthresh=0.1)
        plane.set_yscale("symlog", linthresh=1)
        plane.invert_xaxis()
        plane.set_ylabel("x / alpha, one pixel a colour")
        plane.legend(frameon=False, fontsize=9)
        alpha = 1 / np.sqrt(1 + grid**2)
        difference = np.abs(euler - ddim).max(1) * alpha
        apart.plot(grid, np.maximum(difference, 1e-9), ".-", color=COLOURS[0])
        apart.set_xscale("symlog", linthresh=0.1)
        apart.set_yscale("log")
        apart.invert_xaxis()
        apart.set_title("largest difference in x, of images in [-1, 1]", fontsize=10)
        for axis in (plane, apart):
            axis.set_xlabel("sigma / alpha: noise on the left, image on the right")
