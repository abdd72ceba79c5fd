"""The training loop: steps, with logging, checkpoints and samples between them."""

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

import jaxddim
from experiments.terminal import processes
from experiments.terminal.errors import UserError
from experiments.terminal.progress import heard, stage
from experiments.terminal.texts import count
from experiments.trainer import monitor, previews, rollback, saving, starts, validation
from experiments.trainer.log import Log, Silent
from experiments.trainer.starts import Start
from jaxddim import TrainState
from jaxddim.runs import averages, checkpoints
from jaxddim.runs.build import Setup, new_state
from jaxddim.runs.disk.store import Store
from jaxddim.training import meshes

ENDED = (
    "a process of this run has ended, so this one ends too; the last good checkpoint: CHECKPOINT. "
    "The same command resumes, with any number of processes"
)
"""The last words of a process when another one of the run ends."""
SHORT = 50
"""Steps that count as an epoch where an epoch takes fewer than 2."""


class Loop(NamedTuple):
    """What the loop uses between steps.

    Attributes:
      setup: the run's setup.
      total: steps of the whole training.
      num_images: images in an epoch.
      validate: ``validate(variables) -> loss``.
      draw: ``draw(variables) -> (samples, strip)``.
      mesh: the devices.
      store: the checkpoints.
      log: where numbers and pictures are written.
      window: metrics since the last line of the log.
      console: where messages are printed.
      kept: the stored averages; empty for runs without them.
      told: what is printed once the checkpoint that is being saved is on the disk.
    """

    setup: Setup
    total: int
    num_images: int
    validate: Callable[[Any], float]
    draw: Callable[[Any], tuple[jax.Array, jax.Array]]
    mesh: Mesh
    store: Store
    log: Log
    window: monitor.Window
    console: Console
    kept: Any = None
    told: Any = None

    def variables(self, state: TrainState) -> Any:
        """The averaged weights of a state, whole on every device."""
        return meshes.gathered(jaxddim.variables(state), self.mesh)

    def epochs(self, step: int) -> float:
        """Epochs trained after this many steps."""
        return step * self.setup.config.train.batch_size / self.num_images

    def is_due(self, step: int, every: int | None) -> bool:
        """Whether a task done every `every` steps (None: every epoch) is due at this step."""
        if every is None:
            return step == self.total or self.ends_epoch(step)
        return step == self.total or step % every == 0

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ended with this step; `SHORT` steps count as one that takes below 2."""
        if self.num_images < 2 * self.setup.config.train.batch_size:
            return step % SHORT == 0
        return int(self.epochs(step)) > int(self.epochs(step - 1))


def first_state(
    setup: Setup,
    abstract: TrainState,
    mesh: Mesh,
    store: Store,
    console: Console,
    start: Start | None = None,
) -> TrainState:
    """The state of the latest checkpoint, or a new one, with the weights to start from."""
    where = meshes.shardings(abstract, mesh, split=setup.config.train.split_state)
    if store.all_steps():
        with stage("restoring the latest checkpoint", console):
            state = checkpoints.restore(store, abstract, where=where)
        console.print(f"resumed at step {int(state.step)}")
        return state
    with stage("initialising the weights", console):
        state = new_state(setup)
        if start is not None:
            state = starts.started(state, start)
            console.print(
                f"starts from the {start.weights} weights of step {start.step} of {start.run}"
            )
        # placed like a restored state, so that both use the same compiled step
        return meshes.spread(state, where)


def train(
    setup: Setup,
    mesh: Mesh,
    state: TrainState,
    batches: Callable[..., Iterator[np.ndarray]],
    total: int,
    num_images: int,
    held_out: np.ndarray,
    labels: np.ndarray | None,
    store: Store,
    console: Console,
    begin: Callable[[], TrainState],
) -> int:
    """Trains from this state on.

    Args:
      setup: the run's setup.
      mesh: the devices.
      state: the state to start from.
      batches: ``batches(first_step=n)``, float32 [batch, h, w, c], the stream from its n-th on; of
        several processes, this one's rows.
      total: steps of the whole training.
      num_images: images in an epoch.
      held_out: uint8 [n, h, w, c], for the validation loss.
      labels: theirs, int32 [n], for a network that takes labels.
      store: the checkpoints.
      console: where messages are printed.
      begin: ``begin()``, the state to go on from after a step has diverged.
    Returns:
      The exit code: 0, or 128 + n after signal n.
    Raises:
      UserError: when a metric is no longer finite, or a file cannot be written.
      SaveError: when a checkpoint cannot be written.
    """
    config, first = setup.config, int(state.step)
    processes.last_words(ENDED, store.directory)
    skips = rollback.read(config.workdir)
    step_fn = compiled_step(setup, mesh)
    place = functools.partial(
        jax.tree.map,
        functools.partial(jax.make_array_from_process_local_data, meshes.by_rows(mesh)),
    )
    validate = validation.make_validation(
        config,
        setup.model,
        setup.schedule,
        held_out,
        labels,
        weighting=None if config.diffusion.precondition == "none" else setup.weighting,
        times=setup.times,
        mesh=mesh,
    )
    draw = previews.make_sampler(config, setup.model, setup.schedule, mesh)

    def opened(step: int, kept: Store) -> Loop:
        known = saving.logged(store, step)
        first = processes.is_first()
        log = Log(config.workdir, step, known.lines) if first else Silent(config.workdir, step)
        for note in log.notes:
            console.print(f"warning: {note}", style="yellow")
        window = monitor.Window(config.train.batch_size, known.since)
        return Loop(
            setup, total, num_images, validate, draw, mesh, store, log, window, console, kept, []
        )

    with saving.room(config, store), averages.manager(config.workdir) as kept:
        # a new run's later: TensorBoard's writer imports PyTorch, if installed, for two seconds
        loop = opened(first, kept) if first else None
        if loop:
            make_up(loop, first, state)
        placed = map(place, rollback.stream(batches, first, skips))
        with stage("compiling the training step, then the first step", console):
            started = time.perf_counter()
            state, metrics = step_fn(state, next(placed))
            jax.block_until_ready(metrics)
        console.print(f"compiled; first step after {time.perf_counter() - started:.1f} s")
        with monitor.stop_signals() as stopped:
            loop = loop or opened(first, kept)
            while True:
                with contextlib.closing(loop.log):
                    try:
                        last = follow(loop, step_fn, state, metrics, placed, first, stopped)
                        finish(loop)
                        break
                    except monitor.Diverged as error:
                        trouble = error.with_traceback(None)  # which holds the states
                del state, metrics
                saving.check_may_skip(config, trouble, store, skips, stopped)
                state = begin()
                first = int(state.step)
                skips = saving.skipping(config, trouble, skips, first)
                console.print(f"{trouble}: back to step {first}, and on without its batch")
                loop = opened(first, kept)
                make_up(loop, first, state)
                placed = map(place, rollback.stream(batches, first, skips))
                state, metrics = step_fn(state, next(placed))
    if stopped and last < total:
        console.print(f"stopped by a signal: step {last} is saved; the same command resumes")
        return 128 + stopped[0]
    console.print(
        f"done: {count(total, 'step')}; pictures are in {Path(config.workdir) / 'samples'}"
    )
    return 0


def make_up(loop: Loop, step: int, state: TrainState) -> None:
    """Does what was due at the checkpoint that a run goes on from, and left nothing.

    A signal or a kill has come first then. What came of later steps is forgotten.

    Raises:
      UserError: when the weights are those of a training that diverged.
    """
    config = loop.setup.config.train
    variables = loop.variables(state)
    if state.averages:
        averages.forget_from(loop.kept, step + 1)
        earlier = max((s for s in loop.kept.all_steps() if s < step), default=0)
        if loop.is_due(step, config.checkpoint_every) or averages.due(step, earlier):
            averages.save(loop.kept, state)
        else:  # a signal has stored them
            averages.forget_from(loop.kept, step)
    if loop.is_due(step, config.checkpoint_every) and "validation_loss" not in loop.log.names:
        with stage(f"validating step {step}", loop.console):
            loss = loop.validate(variables)
        if not math.isfinite(loss):
            raise UserError(
                f"the validation loss of checkpoint {step} is {loss}, as its training had diverged:"
                f" delete {loop.store.path(step)} to go on from the one before"
            )
        loop.log.write(step, validation_loss=loss)
    picture = previews.path(loop.setup.config.workdir, step, "_strip")
    if loop.is_due(step, config.sample_every) and not picture.exists():
        draw(loop, step, variables)


def compiled_step(setup: Setup, mesh: Mesh) -> Callable[..., Any]:
    """The training step for the devices of a mesh."""
    config = setup.config
    step_fn = functools.partial(
        jaxddim.train_step,
        apply_fn=setup.model.apply,
        tx=setup.tx,
        schedule=setup.schedule,
        seed=config.seed,
        ema=config.optim.ema,
        kind=config.diffusion.kind,
        norm=config.diffusion.norm,
        weighting=setup.weighting,
        times=setup.times,
        accumulate=config.train.accumulate,
        null_label=config.model.num_classes if config.model.labels else None,
    )
    return jaxddim.jit_step(step_fn, mesh, split_state=config.train.split_state)


def follow(
    loop: Loop,
    step_fn: Callable[..., Any],
    state: TrainState,
    metrics: dict[str, jax.Array],
    batches: Iterator[Any],
    step: int,
    stopped: list[int],
) -> int:
    """Trains until all steps are done or a signal arrives; returns the last step.

    The first step has already been taken; `metrics` are its metrics.

    Raises:
      Diverged: when a metric is not finite, or the validation loss.
    """
    config = loop.setup.config.train
    with monitor.progress(loop.console, step, loop.total) as show:
        step += 1
        loop.window.begin(step, metrics)
        while True:
            show(step, loop.window.loss, loop.window.rate)
            announce(loop)
            if processes.stop_agreed(step):
                stopped.append(signal.SIGTERM)
            hurries = bool(stopped) and step < loop.total
            if loop.is_due(step, config.log_every):
                write_line(loop, step)
            if state.averages and averages.due(step, averages.last(loop.kept)):
                averages.save(loop.kept, state)
            # a checkpoint comes last: whoever goes on from it finds all that was due up to it
            due = loop.is_due(step, config.checkpoint_every) and not hurries
            loss = validated(loop, step, state) if due else None
            if loop.is_due(step, config.sample_every) and not hurries:
                with loop.window.paused():
                    draw(loop, step, loop.variables(state))
            if hurries:
                check_weights(loop, step_fn, state, batches, step)
            if due or hurries:
                save(loop, step, state, loss)
            if hurries or step == loop.total:
                return step
            state, metrics = step_fn(state, next(batches))
            step += 1
            loop.window.add(step, metrics)


def check_weights(
    loop: Loop, step_fn: Callable[..., Any], state: TrainState, batches: Iterator[Any], step: int
) -> None:
    """Takes the next step from a copy: the loss tells whether these weights are worth saving.

    A validation would, too, but may have to be compiled first, for which a signal leaves no time.

    Raises:
      Diverged: when they are not.
    """
    with loop.window.paused():
        _, metrics = step_fn(jax.tree.map(jnp.copy, state), next(batches))
        monitor.read(step + 1, metrics)


def write_line(loop: Loop, step: int) -> None:
    """Logs and prints the mean metrics since the last line."""
    values = loop.window.flush()
    loop.log.write(step, epoch=loop.epochs(step), **values)
    shown = monitor.numbers(values["loss"], values.get("images_per_second"), digits=5)
    loop.console.print(f"epoch {int(loop.epochs(step))} | step {step}{shown}")
    heard()


def draw(loop: Loop, step: int, variables: Any) -> None:
    """Draws and writes the samples of a step."""
    with stage(f"drawing samples of step {step}", loop.console):
        images = loop.draw(variables)
        if processes.is_first():
            previews.write_samples(loop.setup.config, loop.log, step, *images)


def validated(loop: Loop, step: int, state: TrainState) -> float:
    """The validation loss of a step.

    Raises:
      Diverged: when it is not finite.
    """
    with loop.window.paused(), stage(f"validating and saving step {step}", loop.console):
        loss = loop.validate(loop.variables(state))
    if not math.isfinite(loss):
        raise monitor.Diverged(step, loss)
    return loss


def save(loop: Loop, step: int, state: TrainState, loss: float | None) -> None:
    """Begins to save a checkpoint, with its validation loss unless a signal is stopping the run.

    Raises:
      SaveError: when the checkpoint before could not be saved.
    """
    told = stage(f"saving step {step}", loop.console) if loss is None else contextlib.nullcontext()
    with loop.window.paused(), told:
        finish(loop)
        if loss is not None:
            loop.log.write(step, validation_loss=loss)
        loop.log.sync()
        if state.averages:
            averages.save(loop.kept, state)
        log = saving.Logged(loop.log.count, loop.window.since)._asdict()
        checkpoints.save(loop.store, state, loss, log=log, wait=False)
        if loss is not None:
            loop.told.append(f"step {step} saved | validation loss {loss:.5f}")


def announce(loop: Loop) -> None:
    """Prints that a checkpoint is on the disk, once it is.

    Raises:
      SaveError: when it could not be saved.
    """
    if loop.store.finished() is not None:
        finish(loop)


def finish(loop: Loop) -> None:
    """Waits until the last checkpoint is on the disk, and prints that it is.

    Raises:
      SaveError: when it could not be saved.
    """
    loop.store.wait()
    while loop.told:
        loop.console.print(loop.told.pop())
