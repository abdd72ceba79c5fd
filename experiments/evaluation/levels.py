"""The validation loss at each noise level.

The training loss averages over all levels, which hides what happens at a few of them. Here every
held-out image is evaluated at every level, always with the same noise. So two checkpoints, or two
networks of the same kind, can be compared level by level.
"""

from typing import NamedTuple

import numpy as np

from experiments.terminal.progress import tracked
from experiments.trainer import validation
from jaxddim.runs.trained import Trained


class Level(NamedTuple):
    """The loss at one noise level.

    Attributes:
      t: the time, in 1..T.
      log_snr: log(alpha_bar / (1 - alpha_bar)).
      loss: mean over the images, in the run's kind and norm, unweighted.
      std_error: standard error of the loss.
    """

    t: int
    log_snr: float
    loss: float
    std_error: float


def loss_per_level(
    run: Trained, images: np.ndarray, labels: np.ndarray | None = None, *, count: int = 21
) -> list[Level]:
    """The loss at evenly spaced times from 1 to T.

    Args:
      run: from `load_run`.
      images: uint8 [n, h, w, c], not seen in training.
      labels: theirs, int32 [n], -1 where unknown, for a run that has learned labels.
      count: number of levels.
    Returns:
      The levels in order of t; fewer than `count` if T is smaller.
    """
    losses = validation.make_losses(run.config, run.model, run.schedule)
    eps, n = validation.fixed_noise(images), len(images)
    null = run.config.model.num_classes
    if labels is not None and null is not None:
        labels = np.where(labels < 0, null, labels).astype(np.int32)
    times = np.unique(np.linspace(1, run.schedule.num_steps, count).round().astype(np.int32))
    levels = []
    for t in tracked(list(times), "validation loss", "noise level", compiles=True):
        at = np.full(n, t, np.int32)
        values = losses(run.variables, images, at, eps, labels).astype(np.float64)
        error = values.std(ddof=1) / n**0.5 if n > 1 else 0.0
        log_snr = float(run.schedule.log_snr[t])
        levels.append(Level(int(t), log_snr, float(values.mean()), float(error)))
    return levels
