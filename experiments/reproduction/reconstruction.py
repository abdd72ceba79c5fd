"""Table 2: images encoded to x_T and decoded again.

x_0 is not clipped. Clipping it also changes eps = (x_t - alpha_t x_0) / sigma_t, so decoding would
no longer follow the ODE that encoding followed backwards. The effect grows with the number of
pixels near black and white.
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


def measure(study: Study) -> dict[str, Any]:
    """The error for each S and refine, and pictures."""
    steps = study.columns(STEPS)
    images = np.asarray(study.splits.images["holdout"][: study.num_encoded])
    there, back = coders(study)
    pixels = references.pixel_hash(images)
    rows, pictures = [], {}
    number, most = itertools.count(1), len(REFINE) * len(steps)
    for refine in REFINE:
        errors = []
        for s in steps:
            recipe = {"refine": refine, "grid": study.grid(s).tolist(), "images": pixels}

            def compute(s: int = s, refine: int = refine) -> Result:
                grid, x0 = study.grid(s), images.astype(np.float32) / 127.5 - 1
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
    record = {"steps": steps, "num": len(images), "rows": rows}
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
    told += texts.picture("table2.png", "Reconstruction error over S. Both axes are logarithmic.")
    told += texts.picture(
        "reconstructions.png", "Originals above their reconstructions. Held-out images."
    )
    told += ["### Findings", ""]
    for row in rows:
        error, name = row["error"], f"refine = {row['refine']}"
        if not texts.known(*error):
            told.append(f"* {name}: the error could not be measured at every S.")
        elif texts.falling(error):
            told.append(
                f"* {name}: the error falls with every increase of S, from "
                f"{texts.number(error[0], 2)} to {texts.number(error[-1], 2)}."
            )
        else:
            rises = [
                f"from S = {a} to {b} ({texts.number(x, 2)} to {texts.number(y, 2)})"
                for a, b, x, y in zip(steps, steps[1:], error, error[1:], strict=False)
                if y >= x
            ]
            told.append(f"* {name}: the error does **not** fall {texts.listed(rises)}.")
    if AT in steps:
        i = steps.index(AT)
        plain, once = rows[0]["error"][i], rows[1]["error"][i]
        factor = texts.ratio(plain, once)
        verdict = "at least" if plain >= TENFOLD * once else "**less than**"
        if texts.known(factor):
            told.append(
                f"* At S = {AT}, refine = 1 makes the error {factor:.1f} times smaller, "
                f"{verdict} the expected {TENFOLD} times; the error of the worst image falls from "
                f"{texts.number(rows[0]['worst'][i], 2)} to {texts.number(rows[1]['worst'][i], 2)}."
            )
    return [*told, ""]
