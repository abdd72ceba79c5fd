"""Table 2: images encoded to x_T and decoded again.

x_0 is not clipped. Clipping it also changes eps = (x_t - alpha_t x_0) / sigma_t, so decoding would
no longer follow the ODE that encoding followed backwards. The effect grows with the number of
pixels near black and white.

Without clipping, an error of an eps-network is divided by alpha. The times therefore end where the
network still determines x_0, see `jaxddim.safe_fraction`; S is then at most that time.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxddim
from experiments.evaluation import references
from experiments.reproduction import plots, texts
from experiments.reproduction.study import Result, Study
from jaxddim.runs.drawing import to_uint8

STEPS = (10, 20, 50, 100, 200)
REFINE = (0, 1, 3)
SHOWN = 10
TENFOLD, AT = 10, 50
"""The factor by which refine = 1 should reduce the error, and the S where this is checked."""
LEVEL = 1 / 255
"""One level of 8 bits, for values in [0, 1]: an image within it, root mean square, is back."""


def measure(study: Study) -> dict[str, Any]:
    """The error for each S and refine, and pictures."""
    steps = study.columns(STEPS, study.end)
    images = np.asarray(study.splits.images["holdout"][: study.num_encoded])
    there, back = coders(study)
    pixels = references.pixel_hash(images)
    rows, pictures = [], {}
    number, most = itertools.count(1), len(REFINE) * len(steps)
    for refine in REFINE:
        errors = []
        for s in steps:
            recipe = {"refine": refine, "grid": study.path(s).tolist(), "images": pixels}

            def compute(s: int = s, refine: int = refine) -> Result:
                grid, x0 = study.path(s), images.astype(np.float32) / 127.5 - 1
                again = back(grid, there(refine, grid, x0))
                return Result({"errors": squared(x0, again)}, {"images": to_uint8(again)})

            told = f"cell {next(number)} of {most}"
            found = study.kept(f"table2-{refine}-{s}", recipe, compute, number=told)
            errors.append(found.numbers["errors"])
            pictures[refine, s] = found.arrays["images"]
        rows.append(
            {
                "refine": refine,
                "error": [float(np.mean(e)) for e in errors],
                "worst": [float(np.max(e)) for e in errors],
            }
        )
    about = {"steps": steps, "num": len(images), "grid_end": study.grid_end()}
    record = about | {"rows": rows}
    few = [s for s in (10, AT) if s in steps] or steps[:1]
    shown = {"original": images} | {
        f"S = {s}, refine = {refine}": pictures[refine, s] for s in few for refine in REFINE[:2]
    }
    plots.save_images(
        study.folder / "reconstructions.png",
        np.stack([row[:SHOWN] for row in shown.values()]),
        list(shown),
        gap=1,
    )
    plots.save_reconstruction(study.folder / "table2.png", record)
    return record


def coders(study: Study) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """``there(refine, grid, x0) -> x_T`` and ``back(grid, x_T) -> x0``, compiled once per S."""
    run = study.run

    def encode(refine: int, variables: Any, grid: jax.Array, x0: jax.Array) -> jax.Array:
        denoise_fn = run.denoiser(variables, clip_x0=False)
        return jaxddim.encode(denoise_fn, run.schedule, grid, x0, refine=refine)

    @jaxddim.compiled
    def decode(variables: Any, grid: jax.Array, x_T: jax.Array) -> jax.Array:
        return jaxddim.decode(run.denoiser(variables, clip_x0=False), run.schedule, grid, x_T)

    encoder = jaxddim.compiled(encode, static_argnums=0)
    return (
        lambda refine, grid, x0: encoder(refine, run.variables, grid, x0),
        lambda grid, x_T: decode(run.variables, grid, x_T),
    )


def squared(x0: np.ndarray, again: jax.Array) -> list[float]:
    """The mean squared error of each image in [-1, 1], after scaling to [0, 1]."""
    difference = (np.asarray(again, np.float64) - x0) / 2
    return np.mean(difference**2, axis=(1, 2, 3)).tolist()


def lines(record: dict[str, Any]) -> list[str]:
    """Table 2 and its findings, in Markdown."""
    steps, rows = record["steps"], record["rows"]
    told = texts.table(
        ["refine", *(f"S = {s}" for s in steps)],
        [[row["refine"], *(texts.number(e, 2) for e in row["error"])] for row in rows],
    )
    told += [
        f"Squared error per dimension of {record['num']} held-out images scaled to [0, 1], encoded "
        "to x_T and decoded with the same S. refine = 0 is the paper's encoder; each refinement "
        "costs one more network evaluation per step.",
        "",
    ]
    told += texts.grid_end(record)
    told += texts.picture("table2.png", "Reconstruction error over S. Both axes are logarithmic.")
    told += texts.picture(
        "reconstructions.png", "Originals above their reconstructions. Held-out images."
    )
    told += ["### Findings", ""]
    for row in rows:
        found = "; ".join(findings(steps, row))
        told += [f"* refine = {row['refine']}: {found}."] if found else []
    if AT in steps:
        told += refined(rows, steps.index(AT))
    return [*told, ""]


def findings(steps: list[int], row: dict[str, Any]) -> list[str]:
    """What the error does as S grows, and whether the images come back at the largest S."""
    error, told = row["error"], []
    found = texts.trend(steps, error, 2)
    missing = [s for s, e in zip(steps, error, strict=True) if not texts.known(e)]
    if found and found[0] == "falls":
        first, last = (texts.number(e, 2) for e in (error[0], error[-1]))
        told.append(f"the error falls with every increase of S, from {first} to {last}")
    elif found:
        told.append(f"the error does **not** fall {texts.listed(found[1])}")
    if missing:
        told.append(f"the error is **not** finite at S = {texts.listed(missing)}")
    worst = row["worst"][-1]
    if texts.known(worst):
        levels = worst**0.5 / LEVEL
        back = "come back" if levels <= 1 else "do **not** come back"
        told.append(
            f"at S = {steps[-1]} the images {back} to within one level of 8 bits (root mean "
            f"square of the worst image: {texts.number(levels, 2)} levels)"
        )
    return told


def refined(rows: list[dict[str, Any]], i: int) -> list[str]:
    """Whether refine = 1 reduces the error as expected, in column i."""
    by_refine = {row["refine"]: row for row in rows}
    if not {0, 1} <= by_refine.keys():
        return []
    plain, once = (by_refine[refine]["error"][i] for refine in (0, 1))
    if not (texts.known(plain, once) and once > 0):
        return []
    if plain > once:
        verdict = "at least" if plain >= TENFOLD * once else "**less than**"
        told = f"{plain / once:.1f} times smaller, {verdict} the expected {TENFOLD} times"
    else:
        told = f"**not** smaller, {texts.number(once, 2)} instead of {texts.number(plain, 2)}"
    worst = texts.change(by_refine[0]["worst"][i], by_refine[1]["worst"][i], 2)
    told += f"; the error of the worst image {worst}" if worst else ""
    return [f"* At S = {AT}, refine = 1 makes the error {told}."]
