"""python -m experiments.evaluate --workdir DIR [--num N] [--steps S] [--eta E] ...

Measures the sample quality of a trained run: Frechet and kernel distances to the training images,
precision and recall, the nearest training images, and the validation loss at each noise level.
With --label samples are of one class, and compared with its images; with --label all of each, and
compared class by class as well. Prints one JSON record with everything needed to repeat the call,
and saves it with its pictures in DIR/evaluations, or at the path given by --out.
"""

import dataclasses
import datetime
import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import cache
from experiments.evaluation import classes, files, images, references
from experiments.evaluation.features import loading
from experiments.evaluation.metrics import DEFAULT, FEWEST, METRICS, Subject
from experiments.terminal import checks, cli
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, save_json, to_json
from experiments.terminal.progress import stage, tracked
from experiments.terminal.texts import count
from jaxddim.checks import new_key
from jaxddim.runs import drawing, methods
from jaxddim.runs import record as records
from jaxddim.runs.opened import load_run
from jaxddim.runs.trained import Trained

NUM = 2000
OTHER = "other"
"""The name of a reference that is not of the run."""
OTHER_NAMES = {
    "fid": "frechet with --network inception",
    "fd": "frechet",
    "mmd": "kid",
    "precision": "precision_recall",
    "recall": "precision_recall",
    "nearest": "neighbours",
    "neighbors": "neighbours",
    "loss": "validation_loss",
    "elbo": "variational_bound",
    "vlb": "variational_bound",
    "nll": "ode_likelihood",
    "likelihood": "ode_likelihood",
    "bpd": "variational_bound or ode_likelihood",
}
"""What metrics are also called."""


@dataclass(frozen=True)
class EvaluateConfig(methods.DrawConfig):
    """Measure the sample quality of a trained run.

    For a run of demo it takes minutes on two cores, most of it for 2000 samples.
    """

    seed: int = 0
    """Seed of the noise and of the KID blocks."""
    num: int | None = None
    """Number of samples; by default 2000, or all of --samples."""
    samples: str | None = None
    """Measure these images instead of sampling: FILE.npz (uint8 "images") or DIR of pictures."""
    metrics: tuple[str, ...] = DEFAULT
    """Metrics; also available: variational_bound and ode_likelihood, minutes each on a CPU."""
    reference: str = "train"
    """What the samples are compared with: train, holdout or all of the run's images, or DIR."""
    network: Literal["efficientnet-lite0", "inception"] = "efficientnet-lite0"
    """The feature network."""
    network_weights: str | None = None
    """FILE.pth or FILE.safetensors with the weights of inception."""
    out: str | None = None
    """FILE.json for the record; pictures are saved next to it."""
    data: images.Places = field(default_factory=images.Places)


def evaluate(config: EvaluateConfig) -> None:
    """Measures the samples, saves the record and prints it.

    Raises:
      RunError: for a folder without a run, or one whose images are others now.
      UserError: for missing images, invalid settings, missing weights, or an output that cannot be
        written.
    """
    began = time.perf_counter()
    check(config)
    with stage("restoring the network", wait=True):
        run = load_run(config.workdir, config.checkpoint, config.weights, config.clip, config.ema)
    for name in config.metrics:
        if run.schedule.num_steps < METRICS[name].steps:
            raise UserError(
                f"{name} needs a run with --diffusion.num-steps {METRICS[name].steps} or more, and "
                f"this one has T = {run.schedule.num_steps}: leave it out of --metrics"
            )
    notes: list[str] = []
    labels = None
    if config.samples is None:
        grid = np.asarray(methods.time_grid(config, run.schedule))
        draw = functools.partial(drawn, config, run)
        labels = labels_drawn(config, run)
    else:
        grid, draw = None, functools.partial(read, config, run, notes)
    network = functools.cache(lambda: loading.load(config.network, config.network_weights))
    needs_network = any(METRICS[name].features for name in config.metrics)
    if needs_network:  # report problems with its weights before hours of sampling
        with stage("loading the feature network", wait=True):
            network()
    with stage("finding the images", wait=True, spinner=False):
        splits = images.splits(config.workdir, config.data)
    split = config.reference
    if split not in splits.images:
        if not located(split).exists():
            raise UserError(
                f"--reference {split!r} is no folder of pictures, nor one of the run's sets of "
                f"images{cli.nearest(split, splits.images)}"
            )
        with stage("reading --reference", wait=True):
            splits.images[OTHER] = files.pictures_at(
                "--reference", split, run.config.data.shape, notes
            )
        split = OTHER
    if labels is not None and config.label not in (None, methods.ALL):
        split = classes.restricted(splits, split, int(labels[0]))
    if len(splits.images[split]) < FEWEST:
        which = "" if split in (config.reference, OTHER) else f" of --label {config.label}"
        raise UserError(f"--reference {config.reference} has fewer than {FEWEST} images{which}")
    out = located(config.out) if config.out else default_out(config, run)
    checks.make_folder(out.parent)
    subject = Subject(
        run,
        splits,
        samples=draw,
        network=network,
        split=split,
        stem=out.with_suffix(""),
        seed=config.seed,
    )
    if needs_network and config.samples is not None:  # and problems with these
        with stage("reading --samples", wait=True):
            _ = subject.samples
    results: dict[str, Any] = {}
    try:
        for number, name in enumerate(config.metrics, 1):
            told = f"metric {number} of {len(config.metrics)}: {name}"
            with stage(told), subject.timed(name):
                results |= METRICS[name].measure(subject)
        if labels is not None and config.label == methods.ALL:
            with stage("comparing class by class"), subject.timed("by class"):
                results |= classes.by_class(subject, labels, run.class_names, config.metrics)
        subject.seconds["total"] = time.perf_counter() - began
        subject.notes[:0] = notes
        record = describe(config, subject, grid, results, out)
        save_json(out, record)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror})") from None
    print(to_json(record), end="")


def check(config: EvaluateConfig) -> None:
    """Raises a UserError for invalid settings."""
    checks.check_numbers(config, "num", "steps")
    if config.samples is None:
        checks.check_step(config)
    if config.num is not None and config.num < FEWEST:
        raise UserError(f"--num must be at least {FEWEST}, got {config.num}")
    if not config.metrics:
        raise UserError(f"--metrics is empty; expected some of {', '.join(METRICS)}")
    for name in config.metrics:
        if name not in METRICS:
            known = OTHER_NAMES.get(name.lower())
            hint = f"; did you mean {known}?" if known else cli.nearest(name, METRICS)
            raise UserError(f"unknown metric {name!r} in --metrics{hint}")
    if config.out is not None and Path(config.out).suffix.lower() != ".json":
        raise UserError(f"--out {config.out}: expected a FILE.json")


def drawn(config: EvaluateConfig, run: Trained) -> np.ndarray:
    """The images that `experiments.sample` would draw, uint8 [num, h, w, c]."""
    num = NUM if config.num is None else config.num
    track = functools.partial(tracked, what="sampling", compiles=True)
    return np.concatenate(list(drawing.drawn(config, run, num, track=track)))[:num]


def labels_drawn(config: EvaluateConfig, run: Trained) -> np.ndarray | None:
    """The labels of these images, int32 [num]; None when they follow none.

    Raises:
      RunError: for a label that there is not.
    """
    label_of = methods.labeller(config, run.config.model.num_classes, run.classes)
    if label_of is None:
        return None
    index = jnp.arange(NUM if config.num is None else config.num)
    return np.asarray(label_of(new_key(config.seed), index))


def read(config: EvaluateConfig, run: Trained, notes: list[str]) -> np.ndarray:
    """The images of --samples, uint8 [num, h, w, c]; appends messages for the record to `notes`.

    Raises:
      UserError: when they cannot be read, are too few, or differ in size from the run's images.
    """
    path = str(config.samples)
    found = files.pictures_at("--samples", path, run.config.data.shape, notes)
    num = len(found) if config.num is None else config.num
    if not FEWEST <= num <= len(found):
        raise UserError(
            f"--samples {path} holds {count(len(found), 'image')}: expected "
            f"{max(num, FEWEST)} or more"
        )
    if num < len(found):
        notes.append(f"--samples {path}: the first {num} of {len(found)} images are measured")
    return found[:num]


def default_out(config: EvaluateConfig, run: Trained) -> Path:
    """DIR/evaluations/STEP-METHOD-KEY.json; KEY is a hash of the settings."""
    how = f"{config.method}{config.steps}" if config.samples is None else "files"
    key = cache.key(dataclasses.replace(config, workdir=""))
    return Path(config.workdir) / "evaluations" / f"{run.step:07d}-{how}-{key}.json"


def describe(
    config: EvaluateConfig,
    subject: Subject,
    grid: np.ndarray | None,
    results: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """The record of a call."""
    run, measured = subject.run, "samples" in vars(subject)
    record: dict[str, Any] = {
        "metrics": results,
        "notes": subject.notes,
        "config": dataclasses.asdict(config) | {"data": images.absolute_places(config.data)},
        "run": {
            "workdir": config.workdir,
            "checkpoint": run.step,
            "weights": config.weights if config.ema is None else f"ema {config.ema:g}",
            "image_size": run.config.data.image_size,
            "channels": run.config.data.channels,
        },
    }
    if measured:
        record["samples"] = {
            "num": len(subject.samples),
            "sha256": references.pixel_hash(subject.samples),
            "from": config.samples or "the run",
        }
    if measured and grid is not None:
        record["sampler"] = {
            "method": config.method,
            "eta": methods.noise(config),
            "variance": config.variance if config.method == "ddpm" else None,
            "steps": config.steps,
            "spacing": config.spacing,
            "seed": config.seed,
            "clip": config.clip,
            "kind": run.config.diffusion.kind,
            "grid": grid.tolist(),
        }
        if run.config.model.num_classes is not None:
            record["sampler"] |= {"label": config.label, "guidance": config.guidance}
        if config.method in methods.SOLVERS:
            record["sampler"]["evaluations"] = methods.evaluations(config)
    if "features" in vars(subject):
        network = subject.network
        record["network"] = {
            "name": network.name,
            "features": network.dims,
            "resize": network.resize,
            "weights_sha256": network.weights,
        }
        record["reference"] = subject.reference().recipe
    return record | {
        "files": {"record": str(out)} | subject.files,
        "seconds": {name: round(value, 2) for name, value in subject.seconds.items()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": records.versions(),
        "device": f"{jax.default_backend()}: {jax.local_devices()[0].device_kind}",
    }


DRAWING = ("--steps", "--method", "--eta", "--variance", "--spacing", "--label", "--guidance")
EXCLUSIVE = [("--samples", flag) for flag in DRAWING]

if __name__ == "__main__":
    cli.run(evaluate, EvaluateConfig, exclusive=EXCLUSIVE)
