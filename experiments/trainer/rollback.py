"""What --train.on-nan rollback does: back to the last checkpoint, and on without that batch.

    batch of step s = the s-th of the stream that is not skipped

skipped.json of a run lists the skipped ones. They are skipped for good, so a run that is resumed,
from whichever checkpoint, trains on the same batches.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.terminal.files import save_json
from jaxddim.runs.errors import RunError

NAME = "skipped.json"
MOST = 10
"""Batches that a run may skip: where more of them diverge, it is not the batches."""


class Skip(NamedTuple):
    """A batch that is left out.

    Attributes:
      batch: its number in the stream, from 0.
      step: the step that it was taken for.
      why: what was seen.
      back_to: the step that training went back to.
    """

    batch: int
    step: int
    why: str
    back_to: int


def read(workdir: str) -> list[Skip]:
    """The batches that a run skips.

    Raises:
      RunError: when the list cannot be read.
    """
    path = Path(workdir) / NAME
    if not path.exists():
        return []
    try:
        skips = [Skip(**found) for found in json.loads(path.read_bytes())["skipped"]]
        if any(type(skip.batch) is not int or skip.batch < 0 for skip in skips):
            raise ValueError("a batch is no number")
        return skips
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is not the list of a run's skipped batches ({error}), without which it would "
            "go on with others: restore it, or name another --workdir"
        ) from None


def write(workdir: str, skips: Sequence[Skip]) -> None:
    """Writes the list of skipped batches."""
    save_json(Path(workdir) / NAME, {"skipped": [skip._asdict() for skip in skips]})


def number(step: int, skips: Sequence[Skip]) -> int:
    """The number in the stream of the batch of a step, both from 1 on and from 0 on.

    Example:
      >>> skips = [Skip(2, 3, "", 0), Skip(3, 3, "", 0)]
      >>> [number(step, skips) for step in (1, 2, 3, 4)]
      [0, 1, 4, 5]
    """
    found = step - 1
    for skipped in sorted({skip.batch for skip in skips}):
        found += skipped <= found
    return found


def stream(
    batches: Callable[..., Iterator[np.ndarray]], step: int, skips: Sequence[Skip]
) -> Iterator[np.ndarray]:
    """The batches of the steps after this one.

    Args:
      batches: ``batches(first_step=n)``, the stream from its n-th batch on.
      step: steps taken so far.
      skips: what is left out.
    """
    first, skipped = number(step + 1, skips), {skip.batch for skip in skips}
    for index, batch in enumerate(batches(first_step=first), first):
        if index not in skipped:
            yield batch
