"""Samples of one class or of each, beside the real images of that class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.evaluation.metrics import FEWEST, METRICS, Subject
from experiments.evaluation.references import Splits
from experiments.terminal.texts import count

COMPARED = ("frechet", "kid", "precision_recall")
"""The metrics that compare features of samples and reference, and nothing else."""


def restricted(splits: Splits, split: str, number: int) -> str:
    """Adds the images of one class in a split as a split, and returns its name.

    A split without labels is returned as it is.
    """
    if split not in splits.labels:
        return split
    name = f"{split}-{number}"
    splits.images[name] = splits.images[split][splits.labels[split] == number]
    return name


def by_class(
    subject: Subject, labels: np.ndarray, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """The metrics that compare features, for the samples and the reference images of each class.

    Args:
      subject: the samples, and the reference they are compared with.
      labels: of the samples, int32 [n].
      names: of the classes.
      metrics: those that were asked for.
    Returns:
      {"by class": {name: results}}; nothing when no such metric was asked for, or the reference has
      no labels.
    """
    real = subject.splits.labels.get(subject.split)
    asked = [name for name in metrics if name in COMPARED]
    if real is None or not asked:
        return {}
    found: dict[str, Any] = {}
    for number, name in enumerate(names):
        ours, theirs = labels == number, real == number
        drawn, known = int(ours.sum()), int(theirs.sum())
        found[name] = {"num_samples": drawn, "num_reference": known}
        if min(drawn, known) < FEWEST:
            subject.notes.append(
                f"class {name}: {count(drawn, 'sample')} and {count(known, 'reference image')} are "
                "too few to be compared"
            )
            continue
        part = subject.narrowed(ours, theirs)
        for metric in asked:
            found[name] |= METRICS[metric].measure(part)
    smallest = min(min(np.sum(labels == n), np.sum(real == n)) for n in range(len(names)))
    if "frechet" in asked and smallest <= subject.network.dims:
        subject.notes.append(
            "by class there are few images, so Frechet distances are biased upwards: compare those "
            "of equally many"
        )
    return {"by class": found}
