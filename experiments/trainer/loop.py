"""The training loop: steps, with the tasks between them, and what becomes of those that diverge."""

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from experiments.terminal import processes
from experiments.terminal.progress import stage
from experiments.terminal.texts import count
from experiments.trainer import monitor, previews, rollback, saving, starts, tasks, validation
from experiments.trainer.log import Log, Silent
from experiments.trainer.starts import Start
from experiments.trainer.tasks import Loop
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
    step_fn: Callable[..., Any],
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
      step_fn: the training step.
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
    spread = functools.partial(jax.make_array_from_process_local_data, meshes.by_rows(mesh))

    def place(batch: Any) -> Any:
        return jax.block_until_ready(jax.tree.map(spread, batch))  # see keep_memory

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
        # a new run's later: the first step does not wait for TensorBoard's writer
        loop = opened(first, kept) if first else None
        if loop:
            tasks.make_up(loop, first, state)
        placed = map(place, rollback.stream(batches, first, skips))
        with stage("compiling the training step, then the first step", console):
            started = time.perf_counter()
            state, metrics = step_fn(state, next(placed))
            jax.block_until_ready(metrics)
        console.print(f"compiled; first step after {time.perf_counter() - started:.1f} s")
        with monitor.stop_signals() as stopped, monitor.settled():
            loop = loop or opened(first, kept)
            while True:
                with contextlib.closing(loop.log):
                    try:
                        last = follow(loop, step_fn, state, metrics, placed, first, stopped)
                        tasks.finish(loop)
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
                tasks.make_up(loop, first, state)
                placed = map(place, rollback.stream(batches, first, skips))
                state, metrics = step_fn(state, next(placed))
    if stopped and last < total:
        console.print(f"stopped by a signal: step {last} is saved; the same command resumes")
        return 128 + stopped[0]
    console.print(
        f"done: {count(total, 'step')}; pictures are in {Path(config.workdir) / 'samples'}"
    )
    return 0


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
            tasks.announce(loop)
            if processes.stop_agreed(step):
                stopped.append(signal.SIGTERM)
            hurries = bool(stopped) and step < loop.total
            if loop.is_due(step, config.log_every):
                tasks.write_line(loop, step)
            if state.averages and averages.due(step, averages.last(loop.kept)):
                averages.save(loop.kept, state)
            # a checkpoint comes last: whoever goes on from it finds all that was due up to it
            due = loop.is_due(step, config.checkpoint_every) and not hurries
            loss = tasks.validated(loop, step, state) if due else None
            if loop.is_due(step, config.sample_every) and not hurries:
                with loop.window.paused():
                    tasks.draw(loop, step, loop.variables(state))
            if hurries:
                check_weights(loop, step_fn, state, batches, step)
            if due or hurries:
                tasks.save(loop, step, state, loss)
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
