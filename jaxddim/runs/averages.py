"""The stored averages of a run, in ``workdir/averages`` (Orbax): a pair for each of some steps."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxddim.runs.errors import RunError, run_errors
from jaxddim.training import averages
from jaxddim.training.state import TrainState

CLOSEST = 20
"""Steps between stored pairs, at least."""


def manager(workdir: str | Path) -> ocp.CheckpointManager:
    """The stored pairs of averages, each under its step."""
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    return ocp.CheckpointManager((Path(workdir) / "averages").absolute(), options=options)


def due(step: int, last: int) -> bool:
    """Whether a pair is stored at this step, after the last one that was."""
    return step >= max(last * averages.RATIO, last + CLOSEST)


def save(store: ocp.CheckpointManager, state: TrainState) -> None:
    """Stores the averages of a state under its step, and forgets those too old to count."""
    step = int(state.step)
    if step in store.all_steps():
        return
    store.save(step, args=ocp.args.StandardSave(state.averages))
    for old in store.all_steps():
        if old < averages.OLDEST * step:
            store.delete(old)


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
    stored: list[Any] = [store.restore(s, args=ocp.args.StandardRestore(wanted)) for s in steps]
    return averages.combined(stored, averages.coefficients(steps, length, step))
