"""Checkpoints of a run: the latest few and the one with the best validation loss (Orbax)."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxddim.runs.errors import RunError
from jaxddim.training.state import TrainState


class _Plain(NamedTuple):
    """A state without averages as it is stored: the fields of every checkpoint so far."""

    step: Any
    params: Any
    model_state: Any
    ema_params: Any
    opt_state: Any


def _stored(state: TrainState) -> Any:
    return state if state.averages else _Plain(*state[: len(_Plain._fields)])


def _loss(metrics: Any) -> float:
    return metrics["validation_loss"]


def manager(workdir: str | Path, keep: int = 2) -> ocp.CheckpointManager:
    """The checkpoints in ``workdir/checkpoints``: the latest `keep`, and the best.

    Each is written under a temporary name and renamed when complete, so a run that is killed while
    saving leaves the previous one intact. Saving is synchronous, since the next step reuses the
    buffers of the state.
    """
    policy = preservation_policy.AnyPreservationPolicy(
        [
            preservation_policy.LatestN(keep),
            preservation_policy.BestN(
                get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=_loss,
        best_mode="min",
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager((Path(workdir) / "checkpoints").absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, state: TrainState, loss: float | None) -> None:
    """Saves a state under its step, with its validation loss if known."""
    step = int(state.step)
    if step in checkpoints.all_steps():
        return
    metrics = None if loss is None else {"validation_loss": loss}
    verbosity = logging.get_verbosity()
    if metrics is None:
        logging.set_verbosity(logging.ERROR)  # else Orbax warns that there are no metrics
    checkpoints.save(step, args=ocp.args.StandardSave(_stored(state)), metrics=metrics)
    logging.set_verbosity(verbosity)


def restore(
    checkpoints: ocp.CheckpointManager,
    abstract: TrainState,
    which: str = "latest",
    where: Any = None,
) -> TrainState:
    """A saved state.

    Args:
      checkpoints: from `manager`.
      abstract: shapes and types of the state, from jax.eval_shape.
      which: "latest", "best" (lowest validation loss), or a step.
      where: a tree of shardings, on which devices the arrays are put; None for one local device.
    Raises:
      RunError: when there is no such checkpoint, or it is of another network.
    """
    steps = checkpoints.all_steps()
    if not steps:
        raise RunError(f"{checkpoints.directory} holds no checkpoint: train the run first")
    if which == "latest":
        step = checkpoints.latest_step()
    elif which == "best":
        step = checkpoints.best_step()
        if step is None:
            step = checkpoints.latest_step()
    elif which.isdigit() and int(which) in steps:
        step = int(which)
    else:
        raise RunError(
            f"no checkpoint {which!r} in {checkpoints.directory}: expected latest, best or one of "
            + ", ".join(map(str, sorted(steps)))
        )
    if where is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        where = jax.tree.map(lambda _: device, abstract)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        where,
    )
    saved, wanted = _saved_shapes(checkpoints, step), _shapes(abstract.params)
    if saved is not None and saved != wanted:
        name = min(name for name in saved | wanted if saved.get(name) != wanted.get(name))
        raise RunError(
            f"checkpoint {step} in {checkpoints.directory} is of another network than config.json "
            f"describes (the shape of {name} is {saved.get(name)} in the one, {wanted.get(name)} "
            "in the other): restore either file"
        )
    restored: Any = checkpoints.restore(step, args=ocp.args.StandardRestore(_stored(abstract)))
    return TrainState(*restored)


def _saved_shapes(checkpoints: ocp.CheckpointManager, step: int | None) -> dict[str, Any] | None:
    """The shapes of the saved parameters by name; None where Orbax does not tell them."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with ocp.StandardCheckpointer() as reader:
            found: Any = reader.metadata(checkpoints.directory / str(step) / "default")
        return _shapes(found.item_metadata.tree["params"])
    except Exception:  # damaged files may raise anything: restoring tells
        return None
    finally:
        logging.set_verbosity(verbosity)


def _shapes(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
