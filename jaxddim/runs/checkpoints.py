"""Checkpoints of a run: the latest few and the one with the best validation loss (Orbax)."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxddim.runs.disk.store import Damaged, Store
from jaxddim.runs.errors import RunError
from jaxddim.training.state import TrainState

METRICS, LOG = "metrics/metrics", "log.json"
"""Records of a checkpoint: its validation loss, and what is known of the log of its training."""
TRIES = 3
"""How often the latest checkpoint is looked up while a training deletes older ones."""


class _Plain(NamedTuple):
    """A state without averages as it is stored: the fields of every checkpoint so far."""

    step: Any
    params: Any
    model_state: Any
    ema_params: Any
    opt_state: Any


def _stored(state: TrainState) -> Any:
    return state if state.averages else _Plain(*state[: len(_Plain._fields)])


def manager(workdir: str | Path, keep: int = 2) -> Store:
    """The checkpoints in ``workdir/checkpoints``: the latest `keep`, and the best."""

    def kept(steps: list[int]) -> set[int]:
        return set(steps[-keep:]) | set(_by_loss(store, steps)[:1])

    store = Store(Path(workdir) / "checkpoints", kept)
    return store


def loss(checkpoints: Store, step: int) -> float | None:
    """The validation loss of a checkpoint, if it has one."""
    found = checkpoints.record(step, METRICS)
    value = found.get("validation_loss") if isinstance(found, dict) else None
    return value if isinstance(value, float) else None


def _by_loss(checkpoints: Store, steps: list[int]) -> list[int]:
    """Those of some steps that have a validation loss, the best first, the later of two equals."""
    known = {step: value for step in steps if (value := loss(checkpoints, step)) is not None}
    return sorted(known, key=lambda step: (known[step], -step))


def save(
    checkpoints: Store,
    state: TrainState,
    loss: float | None,
    *,
    log: Any = None,
    wait: bool = True,
) -> None:
    """Saves a state under its step, unless a sound one is there.

    Args:
      checkpoints: from `manager`.
      state: the state.
      loss: its validation loss, if known.
      log: a record of the log of its training.
      wait: whether to wait until it is on the disk. If not, the state may be given to the next
        step meanwhile, and `finished` or `close` of the checkpoints tell how it ended.
    Raises:
      SaveError: when it cannot be saved.
    """
    step = int(state.step)
    checkpoints.wait()
    if step in checkpoints.all_steps() and checkpoints.damage(step) is None:
        return
    records: dict[str, Any] = {} if log is None else {LOG: log}
    if loss is not None:
        records[METRICS] = {"validation_loss": loss}
    checkpoints.save(step, _stored(state), records)
    if wait:
        checkpoints.wait()


def restore(
    checkpoints: Store, abstract: TrainState, which: str = "latest", where: Any = None
) -> TrainState:
    """A saved state.

    A damaged checkpoint is told on stderr, and the one before is taken, unless it was named by its
    step.

    Args:
      checkpoints: from `manager`.
      abstract: shapes and types of the state, from jax.eval_shape.
      which: "latest", "best" (lowest validation loss), or a step.
      where: a tree of shardings, on which devices the arrays are put; None for one local device.
    Raises:
      RunError: when there is no such checkpoint, it is damaged, or it is of another network.
    """
    if where is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        where = jax.tree.map(lambda _: device, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        where,
    )
    told: dict[int, str] = {}
    for _ in range(TRIES):
        for step in candidates(checkpoints, which):
            if step in told:
                continue
            try:
                found = _restored(checkpoints, placed, step)
            except Damaged as error:
                if not checkpoints.path(step).exists():
                    break  # a training has just deleted it, and saved a later one
                told[step] = str(error)
                if which.isdigit():
                    raise
                continue
            for message in told.values():
                print(f"warning: {message}; taken is the one of step {step}", file=sys.stderr)
            return found
        else:
            break
    raise RunError(
        f"no checkpoint in {checkpoints.directory} can be read ({'; '.join(told.values())}); "
        "nothing was deleted: restore the folder from a copy, or name another --workdir"
    )


def candidates(checkpoints: Store, which: str) -> list[int]:
    """The steps of "latest", "best" or a step, the first choice first.

    Raises:
      RunError: when there is none.
    """
    steps = checkpoints.all_steps()
    if not steps:
        raise RunError(f"{checkpoints.directory} holds no checkpoint: train the run first")
    if which == "latest":
        return steps[::-1]
    if which == "best":
        best = _by_loss(checkpoints, steps)
        if not best:
            raise RunError(
                f"no checkpoint in {checkpoints.directory} has a validation loss, so none is known "
                f"to be the best: expected latest or one of {', '.join(map(str, steps))}"
            )
        return best
    if which.isascii() and which.isdigit() and int(which) in steps:
        return [int(which)]
    raise RunError(
        f"no checkpoint {which!r} in {checkpoints.directory}: expected latest, best or one of "
        + ", ".join(map(str, steps))
    )


def _restored(checkpoints: Store, abstract: TrainState, step: int) -> TrainState:
    """The state of a step.

    Raises:
      Damaged: when it cannot be read.
      RunError: when it is of another network.
    """
    checkpoints.check(step)
    saved, wanted = _saved_shapes(checkpoints, step), _shapes(abstract.params)
    if saved is not None and saved != wanted:
        name = min(name for name in saved | wanted if saved.get(name) != wanted.get(name))
        raise RunError(
            f"checkpoint {step} in {checkpoints.directory} is of another network than config.json "
            f"describes (the shape of {name} is {saved.get(name)} in the one, {wanted.get(name)} "
            "in the other): restore either file"
        )
    return TrainState(*checkpoints.restore(step, _stored(abstract)))


def _saved_shapes(checkpoints: Store, step: int) -> dict[str, Any] | None:
    """The shapes of the saved parameters by name; None where Orbax does not tell them."""
    try:
        return _shapes(checkpoints.shapes(step)["params"])
    except Exception:  # damaged files may raise anything: restoring tells
        return None


def _shapes(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in leaves}
