"""Checkpoints of a run in training, and what becomes of it when they cannot be written."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.terminal import processes
from experiments.terminal.errors import UserError
from experiments.trainer import monitor, rollback
from experiments.trainer.rollback import Skip
from jaxddim.runs import checkpoints
from jaxddim.runs.config import Config
from jaxddim.runs.disk.store import Store


class Logged(NamedTuple):
    """What a checkpoint knows of the log.

    Attributes:
      lines: how many there were up to its step.
      since: the metrics of each step since the last line with their means.
    """

    lines: int = 0
    since: Sequence[dict[str, float]] = ()


def logged(store: Store, step: int) -> Logged:
    """What the checkpoint of a step knows of the log; nothing where an older version saved it."""
    found = store.record(step, checkpoints.LOG)
    return Logged(**found) if isinstance(found, dict) else Logged()


def last_good(store: Store) -> str:
    """Where the last good checkpoint is; the one that is being saved is waited for.

    Raises:
      SaveError: when that cannot be saved.
    """
    store.wait()
    latest = store.latest_step()
    return "none was saved" if latest is None else str(store.path(latest))


@contextlib.contextmanager
def room(config: Config, store: Store) -> Iterator[None]:
    """In the block a file that cannot be written, as on a full disk, is the user's to mend.

    Raises:
      UserError: when there is one.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):  # of a pipe or a peer
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise UserError(
            f"{error.filename or config.workdir} cannot be written to ({error.strerror}); the last "
            f"good checkpoint: {last_good(store)}. Free some space or mend the folder, then the "
            "same command goes on"
        ) from None


def skipping(
    config: Config, error: monitor.Diverged, skips: Sequence[Skip], back_to: int
) -> list[Skip]:
    """The batches that are skipped from now on; the list is on the disk when this returns."""
    batch = rollback.number(error.step, skips)
    found = [*skips, Skip(batch, error.step, str(error), back_to)]
    if processes.is_first():
        rollback.write(config.workdir, found)
    return found


def check_may_skip(
    config: Config,
    error: monitor.Diverged,
    store: Store,
    skips: Sequence[Skip],
    stopped: Sequence[int],
) -> None:
    """Raises a UserError about a step that diverged, unless its batch is to be skipped now."""
    many, skip = len(skips) >= rollback.MOST, config.train.on_nan == "rollback"
    if skip and not many and not stopped:
        return
    raise UserError(
        f"{error}"
        + f" after {rollback.MOST} batches were skipped" * many
        + f"; the last good checkpoint: {last_good(store)}. Try a lower --optim.learning-rate, "
        "--optim.clip 1 or a longer --optim.warmup-steps, in a new --workdir"
        + ", or --train.on-nan rollback to skip such a batch"
        * (not skip)
    )
