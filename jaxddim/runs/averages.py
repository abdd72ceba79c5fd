"""The stored averages of a run, in ``workdir/averages`` (Orbax): a pair for each of some steps."""

import sys
from pathlib import Path
from typing import Any

import jax

from jaxddim.runs.disk.store import Damaged, Store
from jaxddim.runs.errors import RunError, run_errors
from jaxddim.training import averages
from jaxddim.training.state import TrainState

CLOSEST = 20
"""Steps between stored pairs, at least."""


def manager(workdir: str | Path) -> Store:
    """The stored pairs of averages, each under its step; those too old to count are forgotten."""

    def kept(steps: list[int]) -> set[int]:
        return {step for step in steps if step >= averages.OLDEST * steps[-1]}

    return Store(Path(workdir) / "averages", kept)


def last(store: Store) -> int:
    """The step of the last pair that was stored, or is being stored; 0 if there is none."""
    return max(store.latest_step() or 0, store.saving or 0)


def due(step: int, last: int) -> bool:
    """Whether a pair is stored at this step, after the last one that was."""
    return step >= max(last * averages.RATIO, last + CLOSEST)


def save(store: Store, state: TrainState) -> None:
    """Stores the averages of a state under its step, unless sound ones are there.

    Its arrays may be reused as soon as this returns.

    Raises:
      SaveError: when they, or those before, cannot be saved.
    """
    step = int(state.step)
    store.wait()
    if step not in store.all_steps() or store.damage(step) is not None:
        store.save(step, state.averages)


def forget_from(store: Store, step: int) -> None:
    """Deletes pairs of this step and later ones, which a run that goes on makes again."""
    store.delete({later for later in store.all_steps() if later >= step})


def params(workdir: str, length: float, step: int, abstract: TrainState) -> Any:
    """The averaged parameters of this length at this step.

    Args:
      workdir: folder of the run.
      length: relative deviation of the average's profile, a share of the training.
      step: the step of a checkpoint.
      abstract: shapes and types of the run's state.
    Raises:
      RunError: when the run keeps no averages, or the length is impossible.
    """
    with run_errors(f"--ema {length:g}"):
        averages.exponent(length)
    if not abstract.averages:
        raise RunError(
            f"--ema {length:g}: {workdir} kept no averages to make one of this length from: train "
            "with --optim.averages, or leave out --ema for the average of --optim.ema"
        )
    store = manager(workdir)
    steps = sorted(s for s in store.all_steps() if s <= step)
    if not steps:
        raise RunError(f"{store.directory} holds no averages up to step {step}: restore the folder")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        abstract.averages,
    )
    stored: dict[int, Any] = {}
    for s in steps:
        try:
            store.check(s)
            stored[s] = store.restore(s, wanted)
        except Damaged as error:
            print(f"warning: {error}; the others are taken", file=sys.stderr)
    if not stored:
        raise RunError(f"no averages in {store.directory} can be read: restore the folder")
    weights = averages.coefficients(list(stored), length, step)
    return averages.combined(list(stored.values()), weights)
