"""The metrics of `experiments.evaluate`, by name.

A metric takes a `Subject` and returns named results for the record. Samples, features and
references are computed once, when a metric first needs them.
"""

import copy
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation import (
    appearance,
    kid,
    levels,
    likelihoods,
    manifolds,
    pictures,
    references,
)
from experiments.evaluation.features import networks
from experiments.evaluation.frechet import Statistics, frechet, statistics
from experiments.terminal.progress import stage
from jaxddim.runs.trained import Trained

FEWEST = 4
"""Images: enough for a third nearest neighbour and for two blocks of KID."""
NEIGHBOURS = 5
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Subject:
    """A run, its images and samples, and what has been computed from them.

    Attributes:
      run: the trained network.
      splits: the run's images.
      network: the feature network; loaded on first use.
      split: the split that the samples are compared with.
      seed: the seed of all random draws.
      notes: caveats on the results.
      files: paths of the pictures, by name.
      seconds: time spent, by task.
    """

    def __init__(
        self,
        run: Trained,
        splits: references.Splits,
        *,
        samples: Callable[[], np.ndarray],
        network: Callable[[], networks.FeatureNetwork],
        split: str,
        stem: Path,
        seed: int,
    ):
        self.run, self.splits, self.seed = run, splits, seed
        self.notes: list[str] = []
        self.files: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._samples, self._network, self.split, self._stem = samples, network, split, stem
        self._references: dict[str, references.Reference] = {}
        self._inner = 0.0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `seconds`, without that of nested `timed` blocks."""
        outer, self._inner, began = self._inner, 0.0, time.perf_counter()
        yield
        spent = time.perf_counter() - began
        self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inner
        self._inner = outer + spent

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """The samples, uint8 [n, h, w, c]."""
        with self.timed("samples"):
            return self._samples()

    @functools.cached_property
    def network(self) -> networks.FeatureNetwork:
        return self._network()

    @functools.cached_property
    def features(self) -> np.ndarray:
        """Features of the samples, float32 [n, dims]."""
        samples, network = self.samples, self.network
        with self.timed("features of samples"):
            return networks.features(network, samples, what="features of samples")

    @functools.cached_property
    def statistics(self) -> Statistics:
        return statistics(self.features)

    def reference(self, split: str | None = None) -> references.Reference:
        """Features of real images, by default of the evaluation's reference split."""
        split = split or self.split
        if split not in self._references:
            with self.timed("features of reference"):
                self._references[split] = references.reference(self.network, self.splits, split)
        return self._references[split]

    def narrowed(self, samples: np.ndarray, real: np.ndarray) -> "Subject":
        """Some samples and reference images, for metrics that compare their features.

        Args:
          samples, real: which of them, boolean [n]. What is noted of them is not of the whole.
        """
        part, whole = copy.copy(self), self.reference()
        chosen = whole.features[real]
        part.notes, part.features = [], self.features[samples]
        part.statistics = statistics(part.features)
        found = references.Reference(chosen, statistics(chosen), whole.recipe)
        part._references = {self.split: found}
        return part

    def file(self, name: str) -> Path:
        """The path of a picture, which is added to `files`."""
        path = self._stem.with_name(f"{self._stem.name}-{name}.png")
        self.files[name] = str(path)
        return path


def frechet_metric(subject: Subject) -> dict[str, Any]:
    """The Frechet distance between samples and reference."""
    ours, theirs = subject.statistics, subject.reference().statistics
    found, dims = frechet(ours, theirs), subject.network.dims
    label = subject.network.label("FD")
    for name, count, rank in (
        ("samples", ours.count, found.ranks[0]),
        ("reference images", theirs.count, found.ranks[1]),
    ):
        if rank < dims:
            note = f"{label}: the covariance of {count} {name} is singular, rank {rank} of {dims}"
            few = "; with so few images the distance is biased upwards"
            subject.notes.append(note + (few if count <= dims else ""))
    return {
        label: {
            "value": found.distance,
            "num_samples": ours.count,
            "num_reference": theirs.count,
            "rank_samples": found.ranks[0],
            "rank_reference": found.ranks[1],
        }
    }


def kid_metric(subject: Subject) -> dict[str, Any]:
    """The kernel distance (KID) between samples and reference."""
    found = kid.kid(subject.features, subject.reference().features, seed=subject.seed)
    numbers = {"value": found.mean, "std": found.std, "blocks": found.blocks}
    return {subject.network.label("KID"): numbers | {"block_size": found.size}}


def precision_recall_metric(subject: Subject, k: int = 3) -> dict[str, Any]:
    """Precision and recall of equally many samples and reference images."""
    ours, theirs = subject.features, subject.reference().features
    # The order of both is arbitrary, so the first n are a fair subset.
    n = min(len(ours), len(theirs))
    found = manifolds.precision_recall(theirs[:n], ours[:n], k=k)
    about = {"k": k, "num_samples": n, "num_reference": n}
    label = subject.network.label
    return {label(name): {"value": value} | about for name, value in found._asdict().items()}


def neighbours_metric(subject: Subject) -> dict[str, Any]:
    """Distances to the nearest training images, of samples and of held-out images."""
    training, images = subject.reference("train").features, subject.splits.images["train"]
    k = min(NEIGHBOURS, len(training))
    found = manifolds.nearest(subject.features, training, k)
    real = manifolds.nearest(subject.reference("holdout").features, training, 1)
    label = subject.network.label("distance to the nearest training image")
    ours, theirs = found.distances[:, 0], real.distances[:, 0]
    with stage("drawing the pictures"):
        picture = subject.file("neighbours")
        shown = pictures.save_neighbours(picture, subject.samples, images, found)
        pictures.save_histogram(subject.file("distances"), ours, theirs, label)
    return {
        label: {
            "quantiles": list(QUANTILES),
            "samples": np.quantile(ours, QUANTILES).tolist(),
            "held_out": np.quantile(theirs, QUANTILES).tolist(),
            "num_samples": len(ours),
            "num_held_out": len(theirs),
            "num_training": len(training),
            "shown_samples": shown,
            "shown_training": found.indices[shown].tolist(),
        }
    }


def appearance_metric(subject: Subject) -> dict[str, Any]:
    """Brightness, saturation and power spectrum of the samples beside those of the reference."""
    ours = appearance.measure(subject.samples)
    real = appearance.measure(subject.splits.images[subject.split])
    f, power = appearance.rings(ours, real)
    with stage("drawing the pictures"):
        pictures.save_spectrum(subject.file("spectrum"), f, power)

    def compared(name: str) -> dict[str, float]:
        values = getattr(ours, name), getattr(real, name)
        return {"value": appearance.ratio(*values), "samples": values[0], "reference": values[1]}

    return {
        "spread of mean brightness, over the reference's": compared("brightness"),
        "values beyond 0.98, minus the reference's": {
            "value": ours.beyond - real.beyond,
            "samples": ours.beyond,
            "reference": real.beyond,
        },
        "power at 0.2 <= f < 0.5, over the reference's": compared("detail"),
        "power at the corner (1/2, 1/2), over the reference's": compared("corner"),
        "power by frequency, over the reference's": {"f": f, "value": power},
    }


def validation_loss_metric(subject: Subject) -> dict[str, Any]:
    """The loss on held-out images at each noise level."""
    run, images = subject.run, subject.splits.images["holdout"]
    labels = subject.splits.labels["holdout"] if run.config.model.labels else None
    found = levels.loss_per_level(run, images, labels)
    columns = {name: [getattr(level, name) for level in found] for name in levels.Level._fields}
    about = {"kind": run.config.diffusion.kind, "norm": run.config.diffusion.norm}
    return {"validation loss per noise level": about | {"num_images": len(images)} | columns}


def bound_metric(subject: Subject) -> dict[str, Any]:
    """The variational bound on held-out images."""
    return likelihoods.bound(subject.run, subject.splits.images["holdout"], subject.seed)


def ode_metric(subject: Subject) -> dict[str, Any]:
    """The likelihood of held-out images by DDIM's ODE."""
    return likelihoods.ode(subject.run, subject.splits.images["holdout"], subject.seed)


class Metric(NamedTuple):
    """A metric.

    Attributes:
      measure: ``measure(subject)`` returns named results for the record.
      features: whether it needs the feature network.
      default: whether it is measured by default.
      steps: the smallest T of a run that it can be measured for.
    """

    measure: Callable[[Subject], dict[str, Any]]
    features: bool = True
    default: bool = True
    steps: int = 1


METRICS: dict[str, Metric] = {
    "frechet": Metric(frechet_metric),
    "kid": Metric(kid_metric),
    "precision_recall": Metric(precision_recall_metric),
    "neighbours": Metric(neighbours_metric),
    "appearance": Metric(appearance_metric, features=False),
    "validation_loss": Metric(validation_loss_metric, features=False),
    "variational_bound": Metric(bound_metric, features=False, default=False, steps=2),
    "ode_likelihood": Metric(ode_metric, features=False, default=False, steps=2),
}
"""Every metric, in the order of the record."""
DEFAULT = tuple(name for name, metric in METRICS.items() if metric.default)
