"""Pictures of the swiss roll: the forward and the learned reverse process, methods, and paths.

Each point has the same colour in all panels: that of its place on the roll at the start (forward)
or at the end (reverse). Axes are equal, and the same in every panel of a picture. The files hold no
date and no version.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

import jaxddim
from experiments.points import roll
from experiments.points.roll import METHODS, NUM_STEPS, schedule
from experiments.terminal.files import replace

PANELS = 10
FRAMES, FRAME_POINTS = 37, 700
LIMIT = 2.6
"""Half the side of a panel; one in fifty standard normal points lies outside."""
CMAP, NORM = "turbo", Normalize(roll.FIRST, roll.LAST)
NUM_PATHS = 12
PATH_STATES = 101
FIELD_TIME = 250
"""t of the score field: the turns of the roll are still visible, and the field reaches far."""


def draw_all(
    workdir: Path,
    key: jax.Array,
    params: Any,
    samples: Mapping[tuple[str, int], np.ndarray],
    results: Mapping[str, Any],
) -> None:
    """Writes forward.png, reverse.png, methods.png, trajectories.png and animation.gif.

    Args:
      workdir: the folder to write to.
      key: key of the points and noise in the pictures.
      params: parameters of one network.
      samples: that network's points, [n, 2], for each method and number of evaluations.
      results: the contents of results.json; its distances are in the captions.
    """
    data_key, noise_key, way_key = jax.random.split(key, 3)
    num = results["settings"]["num_points"]
    evaluations = sorted(results["settings"]["evaluations"])
    data = roll.swiss_roll(data_key, num)
    way = {
        name: roll.paths(params, way_key, METHODS[name], evaluations[-1], num)
        for name in ("ddpm", "ddim")
    }
    save(workdir / "forward.png", forward(data, noise_key))
    save(workdir / "reverse.png", reverse(way["ddpm"]))
    save(workdir / "methods.png", methods(np.asarray(data), samples, results))
    save(workdir / "trajectories.png", trajectories(way, np.asarray(data), params))
    save_gif(workdir / "animation.gif", way)


def forward(data: jax.Array, key: jax.Array) -> Figure:
    """q(x_t) in ten panels, from data to noise; each point keeps its noise."""
    times = np.round(np.linspace(0, NUM_STEPS, PANELS)).astype(int)
    eps = jax.random.normal(key, data.shape, jnp.float32)
    clouds = np.stack([jaxddim.q_sample(schedule(), data, int(t), eps) for t in times])
    title = "Forward: $q(x_t)$, from data to noise"
    return strip(title, times, clouds, roll.nearest_theta(data))


def reverse(path: jaxddim.Trajectory) -> Figure:
    """The learned reverse process in ten panels, from noise to data."""
    kept = evenly(path, PANELS)
    title = f"Reverse: $x_t$ of DDPM in {len(path.t) - 1} steps, from noise to data"
    times, clouds = np.asarray(path.t)[kept], np.asarray(path.x)[kept]
    return strip(title, times, clouds, roll.nearest_theta(clouds[-1]))


def evenly(path: jaxddim.Trajectory, num: int) -> np.ndarray:
    """Indices of `num` evenly spaced states of a path, or of all if there are fewer."""
    return np.unique(np.round(np.linspace(0, len(path.t) - 1, num)).astype(int))


def strip(title: str, times: np.ndarray, clouds: np.ndarray, theta: np.ndarray) -> Figure:
    """Clouds in two rows of panels, with their times."""
    figure = Figure(figsize=(10, 4.7), layout="constrained")
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(2, -(-len(times) // 2), squeeze=False)
    for panel, t, cloud in zip(panels.flat, times, clouds, strict=False):
        alpha_bar = float(schedule().alpha_bar[t])
        frame(panel, rf"$t = {t}$,  $\bar\alpha_t = {alpha_bar:.2f}$")
        scatter(panel, cloud, theta)
    for panel in list(panels.flat)[len(times) :]:
        panel.axis("off")
    return figure


def methods(
    data: np.ndarray,
    samples: Mapping[tuple[str, int], np.ndarray],
    results: Mapping[str, Any],
) -> Figure:
    """Every method at equal numbers of evaluations, and fresh data."""
    rows = sorted({evaluations for _, evaluations in samples})[::2][:3]
    mean = {
        (row["method"], row["evaluations"]): row["sliced_w2"]["mean"]
        for row in results["rows"]
        if row["weights"] == "ema"
    }
    figure = Figure(figsize=(11, 0.6 + 2.35 * len(rows)), layout="constrained")
    figure.suptitle(
        "Four methods at equal numbers of network evaluations, and fresh data", fontsize=11
    )
    panels = figure.subplots(len(rows), len(METHODS) + 1, squeeze=False)
    for i, (line, evaluations) in enumerate(zip(panels, rows, strict=True)):
        for panel, name in zip(line, METHODS, strict=False):
            frame(panel, METHODS[name].title if i == 0 else "", limit=1.9)
            cloud = samples[name, evaluations]
            scatter(panel, cloud, roll.nearest_theta(cloud))
            made = METHODS[name].made(evaluations)
            note = "" if made == evaluations else f" in {made} evaluations"
            panel.set_xlabel(f"sliced $W_2$ {mean[name, evaluations]:.3f}{note}", fontsize=9)
        frame(line[-1], "" if i else "data", limit=1.9)
        scatter(line[-1], data, roll.nearest_theta(data))
        line[-1].set_xlabel(f"floor {results['floor']['sliced_w2']['mean']:.3f}", fontsize=9)
        line[0].set_ylabel(f"{evaluations} evaluations", fontsize=10)
    return figure


def trajectories(way: Mapping[str, jaxddim.Trajectory], data: np.ndarray, params: Any) -> Figure:
    """Paths of DDIM and DDPM from the same noise, over the score field at one time."""
    steps = len(way["ddim"].t) - 1
    figure = Figure(figsize=(9, 5.1), layout="constrained")
    figure.suptitle(
        f"From the same noise in {steps} steps, over the score at t = {FIELD_TIME}", fontsize=11
    )
    side = np.linspace(-LIMIT, LIMIT, 27)[1:-1]
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    t = jnp.int32(FIELD_TIME)
    score = np.asarray(-roll.denoiser(params)(jnp.asarray(grid), t).eps / schedule().scales(t)[1])
    arrows = score / np.sqrt(np.linalg.norm(score, axis=1, keepdims=True) + 1e-6)
    start = np.asarray(way["ddim"].x[0])
    inside = np.flatnonzero(np.abs(start).max(1) < 0.8 * LIMIT)[: 4 * NUM_PATHS]
    shown = inside[np.argsort(np.arctan2(*start[inside].T))][::4]  # from all sides
    for panel, name in zip(figure.subplots(1, 2), ("ddim", "ddpm"), strict=True):
        frame(panel, METHODS[name].title)
        panel.quiver(*grid.T, *arrows.T, color="0.8", width=0.003, scale=60, zorder=0)
        panel.scatter(*data.T, s=1, color="0.6", linewidths=0, zorder=1)
        x = np.asarray(way[name].x)[:, shown]
        theta = roll.nearest_theta(x[-1])
        lines = list(x[evenly(way[name], PATH_STATES)].swapaxes(0, 1))
        width = 1.5 if name == "ddim" else 0.6
        paths = LineCollection(lines, array=theta, cmap=CMAP, norm=NORM, linewidths=width, zorder=2)
        panel.add_collection(paths)
        panel.scatter(*x[0].T, s=20, facecolor="white", edgecolor="black", lw=0.8, zorder=3)
        panel.scatter(
            *x[-1].T, s=28, c=theta, cmap=CMAP, norm=NORM, edgecolor="black", lw=0.8, zorder=4
        )
        panel.set_xlabel("from the open circles to the filled ones", fontsize=9)
    return figure


def frame(panel: Any, title: str, limit: float = LIMIT) -> None:
    """Equal axes without ticks, and a title."""
    panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    panel.set_title(title, fontsize=10)
    panel.spines[:].set_color("0.75")


def scatter(panel: Any, cloud: np.ndarray, theta: np.ndarray) -> Any:
    """Points, coloured by their place on the roll."""
    return panel.scatter(*cloud.T, c=theta, s=2.2, alpha=0.8, linewidths=0, cmap=CMAP, norm=NORM)


def save(path: Path, figure: Figure) -> None:
    """Writes a PNG without the name of the software."""
    replace(
        path, lambda file: figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    )


def save_gif(path: Path, way: Mapping[str, jaxddim.Trajectory]) -> None:
    """Writes an animation from noise to the roll by each method; the last frame stays 2 seconds."""
    times = next(iter(way.values())).t
    # more frames near the end, where the roll appears
    passed = (len(times) - 1) * (1 - np.linspace(1, 0, FRAMES) ** 1.5)
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    x = {name: np.asarray(path.x)[:, :FRAME_POINTS] for name, path in way.items()}
    clouds = {}
    for panel, name in zip(figure.subplots(1, len(way)), way, strict=True):
        frame(panel, METHODS[name].title)
        clouds[name] = scatter(panel, x[name][0], roll.nearest_theta(x[name][-1]))
    title = figure.suptitle(f"t = {times[0]}", fontsize=10)
    canvas.draw()
    figure.set_layout_engine("none")  # only the points move
    frames = []
    for i in np.unique(np.round(passed).astype(int)):
        title.set_text(f"t = {times[i]}")
        for name, cloud in clouds.items():
            cloud.set_offsets(x[name][i])
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    palette = frames[-1].quantize(48, Image.Quantize.MAXCOVERAGE)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in frames]
    duration = [70] * (len(frames) - 1) + [2000]
    replace(
        path,
        lambda file: frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0
        ),
    )
