"""Table 1: sample quality over eta and S; and some of the samples, as in figure 3.

Every cell has the same number of images, drawn from the same x_T and compared with the same
training images. So the small-sample bias of the Frechet distance is about the same in all cells;
KID has no bias.
"""

import functools
import itertools
from typing import Any

import jax
import numpy as np

import jaxddim
from experiments.evaluation import references
from experiments.evaluation.features import networks
from experiments.evaluation.frechet import frechet_distance, statistics
from experiments.evaluation.kid import kid
from experiments.reproduction import plots, texts
from experiments.reproduction.study import SAMPLERS, SHOWN, Result, Sampler, Study
from experiments.terminal.pictures import grid
from experiments.terminal.progress import tracked
from jaxddim import checks
from jaxddim.runs.drawing import drawn, to_uint8

STEPS = (10, 20, 50, 100)
KEPT = 64  # images saved per cell, for pictures


def cell(study: Study, sampler: Sampler, steps: int, number: str = "") -> Result:
    """Quality of the samples of one sampler; the first of them are under "images".

    `number` is which cell of how many it is, as in `Study.kept`.
    """
    real = references.reference(study.network, study.splits, "train")
    config, run, num = study.config(sampler, steps), study.run, study.num
    recipe = {
        "method": sampler.method,
        "eta": sampler.eta,
        "variance": sampler.variance,
        "grid": study.grid(steps).tolist(),
        "num": num,
        "chunk": study.chunk(num),
        "reference": real.recipe,
    }

    def compute() -> Result:
        track = functools.partial(tracked, what="sampling", compiles=True)
        chunks = drawn(config, run, num, study.chunk(num), track=track)
        images = np.concatenate(list(chunks))[:num]
        features = networks.features(study.network, images)
        return Result(distances(features, real, study.seed), {"images": images[:KEPT]})

    return study.kept(f"table1-{sampler.name}-{steps}", recipe, compute, number=number)


def exact_cell(study: Study, steps: int, number: str = "") -> Result:
    """Quality of what the exact denoiser of the training images draws, with eta = 0."""
    real = references.reference(study.network, study.splits, "train")
    run, num = study.run, study.num
    chunk, grid_of = study.chunk(num), study.grid(steps)
    recipe = {
        "exact": True,
        "schedule": run.config.diffusion.schedule,
        "grid": grid_of.tolist(),
        "num": num,
        "chunk": chunk,
        "reference": real.recipe,
    }

    def compute() -> Result:
        data = study.splits.images["train"].astype(np.float32) / 127.5 - 1
        shape = (chunk, *run.config.data.shape)

        @jaxddim.compiled
        def draw(data: jax.Array, first_index: int) -> jax.Array:
            key = checks.new_key(study.seed)
            denoise_fn = jaxddim.exact_denoiser(run.schedule, data)
            return jaxddim.sample(
                key, denoise_fn, run.schedule, grid_of, shape, first_index=first_index
            )

        starts = tracked(range(0, num, chunk), "sampling", compiles=True)
        images = np.concatenate([to_uint8(draw(data, first)) for first in starts])[:num]
        return Result(distances(networks.features(study.network, images), real, study.seed), {})

    return study.kept(f"table1-exact-{steps}", recipe, compute, number=number)


def distances(features: np.ndarray, real: references.Reference, seed: int) -> dict[str, float]:
    """Frechet and kernel distance to real images."""
    kernel = kid(features, real.features, seed=seed)
    return {
        "fd": frechet_distance(statistics(features), real.statistics),
        "kid": kernel.mean,
        "kid_std": kernel.std,
        "kid_block": kernel.size,
    }


def measure(study: Study) -> dict[str, Any]:
    """All cells of the table, and its pictures."""
    columns = study.columns(STEPS)
    cells, squares = [], []
    wanted = list(itertools.product(columns, SAMPLERS))  # the cheap cells first
    for number, (steps, sampler) in enumerate(wanted, 1):
        found = cell(study, sampler, steps, f"cell {number} of {len(wanted)}")
        cells.append({"eta": sampler.name, "steps": steps} | found.numbers)
        squares.append(grid(found.arrays["images"][:SHOWN], SHOWN, 1))
    exact = [
        {"steps": steps} | exact_cell(study, steps, f"exact denoiser, S = {steps}").numbers
        for steps in columns
        if steps <= max(STEPS)
    ]
    images = np.stack(squares).reshape(len(columns), len(SAMPLERS), *squares[0].shape)
    plots.save_images(
        study.folder / "samples.png",
        images.swapaxes(0, 1),
        [texts.eta(sampler.name) for sampler in SAMPLERS],
        [f"S = {steps}" for steps in columns],
        gap=4,
    )
    record = {
        "num": study.num,
        "spacing": study.spacing,
        "clip": study.run.clip,
        "T": study.run.schedule.num_steps,
        "reference": len(study.splits.images["train"]),
        "dims": study.network.dims,
        "labels": {name: study.network.label(name) for name in ("FD", "KID")},
        "cells": cells,
        "exact": exact,
        "held_out": held_out(study),
    }
    plots.save_quality(study.folder / "table1.png", record)
    return record


def held_out(study: Study) -> dict[str, float] | None:
    """The distances of as many held-out images; None if there are fewer."""
    if len(study.splits.images["holdout"]) < study.num:
        return None
    found = references.reference(study.network, study.splits, "holdout").features[: study.num]
    return distances(found, references.reference(study.network, study.splits, "train"), study.seed)
