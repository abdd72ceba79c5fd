"""Figure 4: seconds over S, and the speed-up of DDIM over the T steps of DDPM.

Images are drawn in batches of one size; compilation is timed separately. Each round runs every S in
turn, so a slowdown of the machine affects all of them. A time is the median over the rounds.
"""

import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.reproduction import findings, plots, quality, texts
from experiments.reproduction.study import DDIM, SAMPLERS, SIGMA_HAT, Result, Study
from experiments.terminal.progress import say
from experiments.terminal.startup import switched_off
from jaxddim.runs import record as records
from jaxddim.runs.drawing import sampler
from jaxddim.training.meshes import make_mesh

STEPS = (10, 20, 50, 100, 200, 500)
DDPM = tuple(s for s in SAMPLERS if s.eta == 1 or s == SIGMA_HAT)
BATCH = 4  # images: enough to time a step, and few enough for T steps
ROUNDS = 3
STEPS_A_ROUND = 200  # at least: short runs are repeated
FEWEST = 3  # points, for a meaningful fit of a line
LINEAR = 0.99
"""The lowest R^2 at which the time is called linear in S."""


class Line(NamedTuple):
    """Least squares: ``seconds = intercept + slope S``.

    Attributes:
      slope: seconds per step.
      intercept: seconds.
      r2: the fraction of the variance that the line explains.
    """

    slope: float
    intercept: float
    r2: float


def fitted(steps: list[int], seconds: list[float]) -> Line:
    """The line fitted to the times.

    Example:
      >>> fitted([10, 20, 50], [3.0, 5.0, 11.0])
      Line(slope=0.2, intercept=1.0, r2=1.0)
    """
    slope, intercept = np.polyfit(steps, seconds, 1)
    rest = np.asarray(seconds) - (intercept + slope * np.asarray(steps))
    spread = np.var(seconds)
    r2 = 1 - np.mean(rest**2) / spread if spread else 1.0
    return Line(*(round(float(value), 12) + 0.0 for value in (slope, intercept, r2)))


def measure(study: Study) -> dict[str, Any]:
    """Times, the line fitted to them, and the quality of the samples."""
    steps, top = study.columns(STEPS), study.max_steps
    device = f"{jax.default_backend()}: {jax.local_devices()[0].device_kind}"
    recipe = {"steps": steps, "batch": BATCH, "device": device, "versions": records.versions()}
    recipe |= {"spacing": study.spacing, "rounds": ROUNDS, "size": study.run.config.data.image_size}
    recipe |= {"ddpm": [sampler.name for sampler in DDPM]}
    found = study.kept("figure4", recipe, lambda: Result(timed(study, steps), {}), spinner=False)
    kept = found.numbers
    cells = {s: quality.cell(study, DDIM, s).numbers for s in study.columns(quality.STEPS)}
    spent = kept.pop("ddpm_each")
    record = {
        "steps": steps,
        "batch": BATCH,
        "device": device,
        "T": study.run.schedule.num_steps,
        "num": study.num,
        "labels": {name: study.network.label(name) for name in ("FD", "KID")},
        **kept,
        "line": fitted(steps, kept["seconds"])._asdict() if len(steps) >= FEWEST else None,
        "ddim": [{"steps": s} | numbers for s, numbers in cells.items()],
        "ddpm": [
            {"eta": s.name, "seconds": spent[s.name]} | quality.cell(study, s, top).numbers
            for s in DDPM
        ],
    }
    plots.save_timing(study.folder / "figure4.png", record)
    return record


def timed(study: Study, steps: list[int]) -> dict[str, Any]:
    """Median seconds per batch for each S, and for each DDPM with the largest S.

    What it does is said before the clock starts; a spinner would take time while it runs.
    """
    jobs = [(DDIM, s) for s in steps] + [(each, steps[-1]) for each in DDPM]
    one = make_mesh(1)
    draws = [sampler(study.config(*job), study.run, BATCH, one) for job in jobs]
    first, rounds = [], [[] for _ in jobs]
    with switched_off():
        for number, draw in enumerate(draws, 1):
            say(f"figure4: compiling sampler {number} of {len(draws)}")
            began = time.perf_counter()
            jax.block_until_ready(draw(0))
            first.append(time.perf_counter() - began)
    for number in range(1, ROUNDS + 1):
        say(f"figure4: timing, round {number} of {ROUNDS}")
        for (_, s), draw, spent in zip(jobs, draws, rounds, strict=True):
            repeats = max(1, STEPS_A_ROUND // s)
            began = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(draw(0))
            spent.append((time.perf_counter() - began) / repeats)
    medians = [statistics.median(spent) for spent in rounds]
    compiling = [max(a - b, 0.0) for a, b in zip(first, medians, strict=True)]
    return {
        "seconds": medians[: len(steps)],
        "compiling": compiling[: len(steps)],
        "ddpm_seconds": medians[-1],
        "ddpm_each": dict(zip((s.name for s in DDPM), medians[len(steps) :], strict=True)),
        "rounds": rounds,
    }


def lines(record: dict[str, Any]) -> list[str]:
    """Figure 4, the speed-up and their findings, in Markdown."""
    steps, seconds, batch = record["steps"], record["seconds"], record["batch"]
    rows = [
        [s, f"{value:.3f}", f"{1000 * value / (s * batch):.3f}", f"{compiling:.1f}"]
        for s, value, compiling in zip(steps, seconds, record["compiling"], strict=True)
    ]
    head = ["S", "seconds", "ms per step and image", "compilation, seconds"]
    told = texts.table(head, rows)
    told += texts.picture(
        "figure4.png",
        f"Wall-clock time of DDIM over S. Batches of {batch} on {record['device']}, median of "
        f"{len(record['rounds'][0])} rounds, without compilation; left linear, right "
        "logarithmic.",
    )
    fitted_well = record["line"] and texts.known(record["line"]["r2"])
    told += linear(record) if fitted_well else []
    return told + speed_up(record)


def linear(record: dict[str, Any]) -> list[str]:
    """Whether time is linear in S."""
    steps, seconds, line = record["steps"], record["seconds"], Line(**record["line"])
    worst = max(
        abs(line.intercept + line.slope * s - value) / value
        for s, value in zip(steps, seconds, strict=True)
    )
    verdict = "is linear in S" if line.r2 >= LINEAR else "is **not** linear in S"
    return [
        f"Time {verdict}: seconds = {line.intercept:.3f} + {line.slope:.5f} S with R² = "
        f"{line.r2:.5f}; the largest relative deviation of a time from the line is {worst:.1%}.",
        "",
    ]


def speed_up(record: dict[str, Any]) -> list[str]:
    """DDIM with few steps against DDPM with all of them."""
    top, last = record["steps"][-1], record["ddpm_seconds"]
    times = dict(zip(record["steps"], record["seconds"], strict=True))

    def row(name: str, cell: dict[str, Any], spent: float) -> list[str]:
        distances = [texts.number(cell["fd"]), findings.spread(cell)]
        measured = texts.known(spent)
        times = [f"{spent:.3f}", f"{last / spent:.1f}"] if measured else ["not timed", texts.NONE]
        return [name, *times, *distances]

    # older records hold one time, that of the last row
    own = [c.get("seconds", math.nan) for c in record["ddpm"]]
    own[-1] = own[-1] if texts.known(own[-1]) else last
    rows = [row(f"DDIM, S = {c['steps']}", c, times[c["steps"]]) for c in record["ddim"]]
    names = {"1": "DDPM (eta = 1)", SIGMA_HAT.name: "DDPM (σ̂)"}
    rows += [
        row(f"{names[c['eta']]}, S = {top}", c, spent)
        for c, spent in zip(record["ddpm"], own, strict=True)
    ]
    labels = record["labels"]
    told = texts.table(
        ["", "seconds per batch", "speed-up over DDPM", labels["FD"], labels["KID"]],
        rows,
    )
    base = names[record["ddpm"][-1]["eta"]]
    told += [f"Quality as in table 1, N = {record['num']}. The speed-up is over {base}.", ""]
    few = [cell for cell in record["ddim"] if cell["steps"] < top and findings.known(cell)]
    for c, spent in zip(record["ddpm"], own, strict=True):
        if not few or not findings.known(c):
            continue
        name = f"{names[c['eta']]} with {top} steps"
        equal = [d for d in few if d["kid"] <= c["kid"] or not findings.apart(d, c)]
        if equal:
            d = min(equal, key=lambda d: d["steps"])
            how = "better than" if d["kid"] < c["kid"] else "within the spread of"
            kid = f"a KID {how} DDPM's ({findings.spread(d)} against {findings.spread(c)})"
            if not texts.known(spent):
                told.append(f"* {name} was not timed: DDIM has {kid} at S = {d['steps']}.")
                continue
            told.append(
                f"* {name}: DDIM is {spent / times[d['steps']]:.0f} times as fast at S = "
                f"{d['steps']}, with {kid}; the paper finds 10 to 50 times."
            )
        else:
            told.append(
                f"* {name}: DDIM with fewer steps does not reach its KID of {findings.spread(c)} "
                "on this network, so there is no speed-up at equal quality to report; the paper "
                "finds 10 to 50 times."
            )
    return [*told, ""]
