"""python -m benchmarks.studies.solvers --workdir RUN [--out docs/solvers]: error over evaluations.

How far each method is, after so many evaluations, from where the flow of its denoiser ends, started
from the same x_T: for the run's network, and for the exact denoiser of rendered cars of its size
and schedule, each blurred a little (the flow of single points is the choice of a car and nothing
else). The end of the flow is that of Heun's method in T steps, and the distance the median over
images. Writes errors.png, table.md and results.json; `docs/solvers.md` explains them.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.cars.drawing import render
from experiments.reproduction import plots
from experiments.terminal import checks, cli
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, save_json, save_text
from experiments.terminal.progress import stage
from jaxddim.runs.opened import load_run
from jaxddim.sampling.solver import as_solver

METHODS = {
    "DDIM": as_solver(jaxddim.ddim_step),
    "Heun": jaxddim.heun(),
    "DPM-Solver++ 2M": jaxddim.dpm_solver_pp_2m(),
    "PLMS": jaxddim.plms(),
}
SPACINGS = ("linear", "log_snr", "karras")
EVALUATIONS = (5, 10, 20, 50, 100)
STEPS = {"Heun": lambda n: (n + 1) // 2, "PLMS": lambda n: n - 1}
"""Steps that so many evaluations pay for; as many for other methods."""


@dataclass(frozen=True)
class SolversConfig:
    """Measure sampling methods by their distance to the exact flow."""

    workdir: str = ""
    """Folder of a trained run."""
    out: str = "docs/solvers"
    """Folder for the table, the picture and the numbers."""
    num: int = 8
    """Images to start from noise."""
    cars: int = 256
    """Rendered cars that the exact denoiser knows."""
    blur: float = 0.1
    """Deviation of the Gaussian around each of these cars."""
    seed: int = 0
    """Seed of the noise and of the cars."""


def follow(step: Callable[..., Any], init: Any, grid: np.ndarray, x: jax.Array) -> jax.Array:
    """x at the end of the grid, by a compiled step: no grid compiles again."""
    memory = init(x)
    for t, s in itertools.pairwise(grid.astype(np.int32)):
        gaussian, _, memory = step(x, t, s, memory)
        x = gaussian.mean
    return x


def errors(denoise_fn: Any, schedule: jaxddim.Schedule, x_T: jax.Array) -> dict[str, Any]:
    """Distance to the end of the flow, by method, spacing and evaluations."""
    T = schedule.num_steps
    steps = {
        name: jax.jit(functools.partial(solver.step, denoise_fn, schedule))
        for name, solver in METHODS.items()
    }

    def end(name: str, S: int, spacing: str) -> jax.Array:
        grid = jaxddim.timesteps(T, S, spacing=spacing, schedule=schedule)
        return follow(steps[name], METHODS[name].init, np.asarray(grid), x_T)

    def distance(x: jax.Array) -> float:
        return float(jnp.median(jnp.sqrt(jnp.mean((x - flow) ** 2, (1, 2, 3)))))

    flow = end("Heun", T, "linear")
    found: dict[str, Any] = {
        f"{name}, {spacing}": [
            distance(end(name, STEPS.get(name, int)(n), spacing)) for n in EVALUATIONS
        ]
        for name in METHODS
        for spacing in SPACINGS
    }
    other = distance(end("DPM-Solver++ 2M", T, "linear"))
    return {"DPM-Solver++ 2M in T steps": other, "errors": found}


def measure(config: SolversConfig) -> None:
    """Measures both denoisers, and writes the files."""
    checks.check_numbers(config, "num", "cars")
    if not config.blur > 0:
        raise UserError(f"--blur must be positive, got {config.blur:g}")
    out = located(config.out)
    checks.make_folder(out)
    run = load_run(config.workdir)
    shape = run.config.data.shape
    cars = render(range(config.cars), size=shape[:2], seed=config.seed) / np.float32(127.5) - 1
    denoisers = {
        "exact denoiser": jaxddim.exact_denoiser(run.schedule, cars, std=config.blur),
        "network": run.denoiser(run.variables, clip_x0=False),
    }
    x_T = jax.random.normal(jax.random.key(config.seed), (config.num, *shape))
    record: dict[str, Any] = {"evaluations": EVALUATIONS, "T": run.schedule.num_steps}
    record |= {name: getattr(config, name) for name in ("num", "cars", "blur", "seed")}
    for name, denoise_fn in denoisers.items():
        with stage(f"measuring the {name}", wait=True):
            record[name] = errors(denoise_fn, run.schedule, x_T)
    save_json(out / "results.json", record)
    save_text(out / "table.md", table(record))
    draw(out / "errors.png", record)
    print(f"{out}: results.json, table.md, errors.png")


def table(record: dict[str, Any]) -> str:
    """Rows of methods and spacings, columns of evaluations, for each denoiser."""
    lines = []
    for name in ("exact denoiser", "network"):
        head = " | ".join(map(str, record["evaluations"]))
        lines += [f"| {name}: evaluations | {head} |", "|---" * (len(EVALUATIONS) + 1) + "|"]
        for row, values in record[name]["errors"].items():
            lines.append(f"| {row} | {' | '.join(f'{value:.2g}' for value in values)} |")
        lines.append("")
    return "\n".join(lines)


def draw(path: Path, record: dict[str, Any]) -> None:
    """A panel for each denoiser: every method with its best spacing, by the mean of log errors."""
    with plots.figure(path, (9, 3.6), 2) as axes:
        for axis, name in zip(axes, ("exact denoiser", "network"), strict=True):
            found = record[name]["errors"]
            for i, method in enumerate(METHODS):
                rows = [row for row in found if row.startswith(f"{method}, ")]
                row = min(rows, key=lambda row: math.prod(found[row]))
                style = {"color": plots.COLOURS[i], "marker": plots.MARKERS[i]}
                axis.plot(record["evaluations"], found[row], label=row, **style)
            plots.number_axis(axis, record["evaluations"])
            axis.set_xlabel("evaluations of the denoiser")
            axis.set_yscale("log")
            axis.set_title(name, fontsize=10)
            axis.legend(fontsize=8, frameon=False)
        axes[0].set_ylabel("distance to the end of the flow")


if __name__ == "__main__":
    cli.run(measure, SolversConfig)
