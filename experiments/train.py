"""python -m experiments.train --workdir DIR [--config cars] [--train.steps N] ...

Trains a network and writes to DIR: config.json, metrics.jsonl and TensorBoard events,
samples/ (a grid, and one sample on its way from noise to image), checkpoints/ (the latest
and the best). The same command resumes the run, and so does --workdir DIR alone. Ctrl-C saves a
checkpoint first.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console

import jaxddim
from experiments import data
from experiments.terminal import cli, processes, progress
from experiments.terminal.errors import UserError
from experiments.terminal.progress import stage
from experiments.terminal.texts import count
from experiments.trainer import lock, loop, settings, starts
from experiments.trainer.starts import Start
from experiments.trainer.step import Step
from jaxddim.runs import averages, checkpoints, moments, record
from jaxddim.runs.build import abstract_state, around, build
from jaxddim.runs.config import Config
from jaxddim.runs.flat import flatten
from jaxddim.runs.presets import PRESETS
from jaxddim.training import meshes


def train(config: Config) -> int:
    """Trains a run, or resumes it. Returns the exit code: 0, or 128 + n after signal n."""
    with contextlib.ExitStack() as stack:
        return _train(config, stack)


def _train(config: Config, stack: contextlib.ExitStack) -> int:
    """The same; what the stack holds is given back at the end: the folder's lock, and threads."""
    console = progress.console()
    console.quiet = not processes.is_first()
    with stage("starting", wait=True):
        settings.check(config)
        mesh = meshes.make_mesh()
        setup = build(config)
        abstract = abstract_state(setup)
    step_fn = Step(mesh)
    known = config.diffusion.precondition == "none" and not config.model.labels
    meanwhile = functools.partial(step_fn.begin, setup, abstract) if known else lambda: None
    train_set, held_out, config, start = open_run(config, console, stack, meanwhile)
    if config.model != setup.config.model:  # now the number of its labels is known
        setup = build(config)
        abstract = abstract_state(setup)
    setup = around(setup._replace(config=config), moments.read(config.workdir, config))
    batch_size, num_images = config.train.batch_size, len(train_set.images)
    total = config.train.steps or math.ceil((config.train.epochs or 1) * num_images / batch_size)
    height, width, channels = config.data.shape
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    console.print(
        f"{config.config}: {config.model.name} with {count(parameters, 'parameter')}; "
        f"{count(num_images, 'image')} of {train_set.source} at "
        f"{height}x{width}{' in grey' if channels == 1 else ''}; {count(total, 'step')} of "
        f"{count(batch_size, 'image')} ({total * batch_size / num_images:.1f} epochs) "
        f"on {mesh.size} {jax.default_backend()} device(s)"
        + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    )
    if batch_size > num_images:
        console.print(
            f"note: a batch of {batch_size} is larger than the data set of "
            f"{count(num_images, 'training image')}: every step takes some of them more than once",
            style="yellow",
        )
    store = stack.enter_context(checkpoints.manager(config.workdir, config.train.keep))
    for leftovers in (store, averages.manager(config.workdir)):
        leftovers.tidy()
    if max(store.all_steps(), default=0) < total:
        step_fn.begin(setup, abstract)
    if jax.default_backend() != "cpu":
        step_fn.wait()  # XLA times kernels on the device, which must do nothing else then
    begin = functools.partial(loop.first_state, setup, abstract, mesh, store, console, start)
    state = begin()
    processes.check_equal("checkpoint", {"step": int(state.step)})
    if int(state.step) >= total:
        console.print(
            f"nothing to do: {int(state.step)} of {total} steps are done; raise --train.steps"
        )
        return 0
    step_fn.begin(setup, abstract)  # unless it has begun: the last checkpoint may be damaged
    batches = functools.partial(
        data.batches,
        train_set.images,
        batch_size=batch_size // jax.process_count(),
        seed=config.seed,
        flip=config.data.flip,
        labels=train_set.labels if config.model.labels else None,
        shard=(jax.process_index(), jax.process_count()),
    )
    labels = held_out.labels if config.model.labels else None
    return loop.train(
        setup, mesh, step_fn, state, batches, total, num_images, held_out.images, labels, store,
        console, begin,
    )  # fmt: skip


def open_run(
    config: Config, console: Console, stack: contextlib.ExitStack, meanwhile: Callable[[], None]
) -> tuple[data.Dataset, data.Dataset, Config, Start | None]:
    """Training images, held-out images, the configuration with their source, and where to start.

    Records a new run; a resumed run must match its record. Of several processes the first writes,
    once all have read and have the same command and images. It takes the folder's lock before that,
    which the stack gives back. What `meanwhile` begins goes on while images are made for a new run.

    Raises:
      UserError: when there are no images, or another process trains in the folder.
      RunError: when the folder holds another run, or cannot be written to, or --train.init-from
        names none that can be started from.
    """
    found = record.read(config.workdir)
    if found:
        locked(config, stack, console)
        old = record.configuration(config.workdir, found)
        if config.data.source == "auto":
            config = settings.with_data(config, source=old.data.source)
        if config.data.path is None:
            config = settings.with_data(config, path=old.data.path)
        if record.is_without_images(found):
            kept = {"image_size": old.data.image_size, "channels": old.data.channels}
            labels = config.model.labels and old.model.num_classes is not None
            old = dataclasses.replace(
                old,
                seed=config.seed,
                model=dataclasses.replace(old.model, labels=labels),
                data=dataclasses.replace(config.data, **kept),
                train=config.train,
            )
        if config.model.labels and config.model.num_classes is None:
            config = settings.with_classes(config, old.model.num_classes)
        record.check_same_config(config.workdir, flatten(config), flatten(old))
    elif config.model.num_classes is not None:
        raise UserError(
            "--model.num-classes is found out from the images, or comes with a network that "
            "experiments.convert imports: leave it out, and give --model.labels to learn labels"
        )
    with stage("finding the images", wait=True, spinner=False):
        if found:
            dataset = data.load(config.data, record.read_names(config.workdir))
        else:
            dataset = data.load(config.data, meanwhile=meanwhile)
    config = settings.with_absolute_paths(settings.with_data(config, source=dataset.source))
    if config.model.labels:
        dataset = labelled(dataset)
        known = len(dataset.class_names)
        if config.model.num_classes not in (None, known):
            raise UserError(
                f"--model.labels: the network in {config.workdir} has "
                f"{config.model.num_classes:,} classes, and the images have {known:,}: give it "
                "images of its own classes"
            )
        config = settings.with_classes(config, known)
    for note in dataset.notes:
        console.print(note, style="yellow")
    train_set, held_out = data.split(dataset, config.data.holdout)
    images = len(dataset.images)
    limited = images == config.data.num_images and images < dataset.total
    console.print(
        f"{images:,} of {count(dataset.total, 'image')} (--data.num-images)"
        if limited
        else count(images, "image"),
        f"{len(held_out.images):,} held out",
        sep=", ",
    )
    settings.agree(config, found, dataset.fingerprint)
    if found and not record.is_without_images(found):
        record.check_images(config.workdir, dataset.fingerprint, images, found)
        return train_set, held_out, config, starts.recorded(config, found)
    start = None if found else starts.chosen(config, console)
    if not found and processes.is_first():
        locked(config, stack, console)
        if record.read(config.workdir):
            raise UserError(
                f"another process has just begun a run in {config.workdir}: the same command "
                "resumes it once that has ended"
            )
    about = {
        "source": dataset.source,
        "num_images": images,
        "fingerprint": dataset.fingerprint,
        "notes": list(dataset.notes),
    }
    origin: dict[str, Any] = {"init": start._asdict()} if start else {}
    if config.model.labels:
        counts = np.bincount(train_set.labels, minlength=len(dataset.class_names) + 1)
        names = list(dataset.class_names)
        origin["classes"] = {"names": names, "counts": counts[: len(names)].tolist()}
    if found:
        origin["imported"] = found["imported"] | {
            "images": "those that it was first trained on here"
        }
    if processes.is_first():
        if dataset.names:
            record.write_names(config.workdir, dataset.names)
        if config.diffusion.precondition != "none":
            found_moments = jaxddim.moments(train_set.images, flip=config.data.flip)
            moments.write(config.workdir, found_moments)
        record.write(config.workdir, {"config": flatten(config), "data": about} | origin)
    processes.gather("recorded")
    return train_set, held_out, config, start


def labelled(dataset: data.Dataset) -> data.Dataset:
    """The images with labels of 0 to the number of classes, which stands for an unknown one.

    Raises:
      UserError: when there are no classes to tell apart.
    """
    known = len(dataset.class_names)
    if known < 2 or not (dataset.labels >= 0).any():
        raise UserError(
            f"--model.labels: the images of {dataset.source} have "
            + ("no classes" if known < 1 else "one class")
            + ": a folder's are its sub-folders; cars196, cifar10 and rendered have classes"
        )
    return dataset._replace(labels=np.where(dataset.labels < 0, known, dataset.labels))


def locked(config: Config, stack: contextlib.ExitStack, console: Console) -> None:
    """Takes the folder's lock, of several processes the first for all."""
    if processes.is_first():
        stack.enter_context(lock.held(config.workdir, console))


def recorded(workdir: str) -> Config | None:
    """The configuration of the run in a folder, from which the flags start; None without a run."""
    found = record.read(workdir)
    return record.configuration(workdir, found) if found else None


if __name__ == "__main__":
    exclusive = [("--train.steps", "--train.epochs")]
    cli.run(train, Config, presets=PRESETS, recorded=recorded, exclusive=exclusive)
