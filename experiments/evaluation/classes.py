"""Samples of one class or of each, beside the real images of that class."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.evaluation import kid, manifolds
from experiments.evaluation.frechet import frechet, statistics
from experiments.evaluation.metrics import Subject
from experiments.evaluation.references import Splits
from experiments.terminal.texts import count

FEWEST = 4
"""Images of a class that can be measured: enough for a third nearest neighbour."""


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
      metrics: which of `METRICS` were asked for.
    Returns:
      {"by class": {name: ..}}; nothing when no such metric was asked for, or the reference has no
      labels.
    """
    real = subject.splits.labels.get(subject.split)
    asked = [name for name in metrics if name in METRICS]
    if real is None or not asked:
        return {}
    features, reference = subject.features, subject.reference().features
    found: dict[str, Any] = {}
    for number, name in enumerate(names):
        ours, theirs = features[labels == number], reference[real == number]
        numbers = {"num_samples": len(ours), "num_reference": len(theirs)}
        if min(len(ours), len(theirs)) < FEWEST:
            subject.notes.append(
                f"class {name}: {count(len(ours), 'sample')} and "
                f"{count(len(theirs), 'reference image')} are too few to be compared"
            )
        else:
            for metric in asked:
                values = METRICS[metric](ours, theirs, subject.seed)
                numbers |= {subject.network.label(key): value for key, value in values.items()}
        found[name] = numbers
    few = min(len(features), len(reference)) // max(len(names), 1)
    if "frechet" in asked and few <= subject.network.dims:
        subject.notes.append(
            "by class there are few images, so that distances are biased upwards: compare those of "
            "classes with equally many"
        )
    return {"by class": found}


def _precision_recall(ours: np.ndarray, theirs: np.ndarray, seed: int) -> dict[str, float]:
    del seed
    n = min(len(ours), len(theirs))
    return manifolds.precision_recall(theirs[:n], ours[:n])._asdict()


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], dict[str, float]]] = {
    "frechet": lambda a, b, seed: {"FD": frechet(statistics(a), statistics(b)).distance},
    "kid": lambda a, b, seed: {"KID": kid.kid(a, b, seed=seed).mean},
    "precision_recall": _precision_recall,
}
"""What two sets of features are compared by: samples, reference, seed."""
