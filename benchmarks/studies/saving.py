"""python -m benchmarks.studies.saving [--config demo] [--every 50] [--rounds 7]

Trains with a checkpoint every so many steps, and without, by turns in one process: steps a second
by wall clock, and how long a save keeps the training waiting. What a save does in the background
takes part in the time; validation and samples do not.
"""

import tempfile
import time
from dataclasses import dataclass, replace

import jax
import numpy as np

from benchmarks.report.summary import spread
from experiments import data
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.texts import count
from experiments.trainer.step import compiled_step
from jaxddim import TrainState
from jaxddim.runs import averages, checkpoints
from jaxddim.runs.build import around, build, new_state
from jaxddim.runs.disk.store import Store
from jaxddim.runs.moments import Moments
from jaxddim.runs.presets import PRESETS
from jaxddim.training import meshes


@dataclass(frozen=True)
class SavingConfig:
    """Measure what checkpoints cost a training."""

    config: str = "demo"
    """Named configuration that is trained."""
    every: int = 50
    """Steps between two checkpoints."""
    rounds: int = 7
    """How often each is measured."""
    batch_size: int | None = None
    """Images a step; the configuration's own if not given."""


def main(config: SavingConfig) -> None:
    """Measures by turns, and prints a table."""
    if config.config not in PRESETS:
        raise UserError(f"--config {config.config}: expected one of {', '.join(PRESETS)}")
    if config.every < 1 or config.rounds < 1:
        raise UserError("--every and --rounds must be at least 1")
    preset = PRESETS[config.config]()
    training = replace(preset.train, batch_size=config.batch_size or preset.train.batch_size)
    preset = replace(preset, train=training)
    images = np.random.default_rng(0).integers(0, 256, (256, *preset.data.shape), np.uint8)
    height, width, channels = preset.data.shape
    flat = Moments(
        np.zeros(preset.data.shape, np.float32),
        np.eye(channels, dtype=np.float32),
        np.ones((height, width, channels), np.float32),
    )
    setup = around(build(preset), flat if preset.diffusion.precondition != "none" else None)
    mesh = meshes.make_mesh()
    step_fn = compiled_step(setup, mesh)
    state = meshes.spread(new_state(setup), meshes.everywhere(mesh))
    rows = meshes.by_rows(mesh)
    batches = (
        meshes.spread(batch, rows)
        for batch in data.batches(images, batch_size=training.batch_size, seed=0)
    )
    state, metrics = step_fn(state, next(batches))
    jax.block_until_ready(metrics)
    leaves = jax.tree.leaves(state)
    megabytes = sum(leaf.nbytes for leaf in leaves) / 1e6
    print(
        f"{config.config}: {count(len(leaves), 'array')}, {megabytes:.1f} MB; "
        f"{count(training.batch_size, 'image')} a step on {jax.default_backend()}"
    )
    rates: dict[bool, list[float]] = {False: [], True: []}
    blocked: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        checkpoints.manager(folder) as store,
        averages.manager(folder) as kept,
    ):
        for round_ in range(config.rounds + 1):
            for saves in (False, True) if round_ % 2 else (True, False):
                began = time.perf_counter()
                if saves:
                    save(state, store, kept)
                waited = time.perf_counter() - began
                for _ in range(config.every):
                    state, metrics = step_fn(state, next(batches))
                    np.asarray(metrics["loss"])
                store.wait()
                kept.wait()
                rate = config.every / (time.perf_counter() - began)
                if round_:  # the first fills caches
                    rates[saves].append(rate)
                    blocked += [waited] * saves
                    print("with" if saves else "without", f"{rate:.3f} steps/s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(rates[True], rates[False], strict=True)]
    print("| | median (quartiles) |", "|---|---|", sep="\n")
    print(f"| steps a second, no checkpoint | {spread(rates[False])} |")
    print(f"| steps a second, one in {config.every} | {spread(rates[True])} |")
    print(f"| the second over the first, by rounds | {spread(ratios)} |")
    print(f"| seconds that a save blocks | {spread(blocked)} |")


def save(state: TrainState, store: Store, kept: Store) -> None:
    """Begins to save a state as the trainer does."""
    if state.averages:
        averages.save(kept, state)
    checkpoints.save(store, state, 1.0, wait=False)


if __name__ == "__main__":
    cli.run(main, SavingConfig)
