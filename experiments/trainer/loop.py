"""The training loop: steps, with logging, checkpoints and samples between them."""

import functools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

import jaxddim
from experiments.terminal import processes
from experiments.terminal.errors import UserError
from experiments.terminal.progress import heard, stage
from experiments.terminal.texts import count
from experiments.trainer import monitor, previews, starts, validation
from experiments.trainer.log import Log, Silent
from experiments.trainer.starts import Start
from jaxddim import TrainState
from jaxddim.runs import averages, checkpoints
from jaxddim.runs.build import Setup, new_state
from jaxddim.training import meshes

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
      store: the checkpoint manager.
      log: where numbers and pictures are written.
      window: metrics since the last line of the log.
      console: where messages are printed.
      kept: the manager of the stored averages; None for runs without them.
    """

    setup: Setup
    total: int
    num_images: int
    validate: Callable[[Any], float]
    draw: Callable[[Any], tuple[jax.Array, jax.Array]]
    mesh: Mesh
    store: Any
    log: Log
    window: monitor.Window
    console: Console
    kept: Any = None

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
    store: Any,
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


def tell_where(store: Any) -> None:
    """Leaves word of the last good checkpoint, should another process of the run end."""
    latest = store.latest_step()
    where = "none was saved" if latest is None else f"{store.directory / str(latest)}"
    processes.last_words(
        f"a process of this run has ended, so this one ends too; the last good checkpoint: {where}."
        " The same command resumes, with any number of processes"
    )


def train(
    setup: Setup,
    mesh: Mesh,
    state: TrainState,
    batches: Iterator[np.ndarray],
    total: int,
    num_images: int,
    held_out: np.ndarray,
    store: Any,
    console: Console,
) -> int:
    """Trains from this state on.

    Args:
      setup: the run's setup.
      mesh: the devices.
      state: the state to start from.
      batches: float32 [batch, h, w, c], from the state's step on; of several processes, this one's
        rows.
      total: steps of the whole training.
      num_images: images in an epoch.
      held_out: uint8 [n, h, w, c], for the validation loss.
      store: the checkpoint manager.
      console: where messages are printed.
    Returns:
      The exit code: 0, or 128 + n after signal n.
    Raises:
      UserError: when the loss is no longer finite.
    """
    config, first = setup.config, int(state.step)
    tell_where(store)
    step_fn = compiled_step(setup, mesh)
    validate = validation.make_validation(
        config,
        setup.model,
        setup.schedule,
        held_out,
        weighting=None if config.diffusion.precondition == "none" else setup.weighting,
        times=setup.times,
        mesh=mesh,
    )
    draw = previews.make_sampler(config, setup.model, setup.schedule, mesh)
    rows = meshes.by_rows(mesh)
    placed = (jax.make_array_from_process_local_data(rows, batch) for batch in batches)
    with monitor.stop_signals() as stopped:
        with stage("compiling the training step, then the first step", console):
            started = time.perf_counter()
            state, metrics = step_fn(state, next(placed))
            jax.block_until_ready(metrics)
        console.print(f"compiled; first step after {time.perf_counter() - started:.1f} s")
        # not earlier: TensorBoard's writer imports PyTorch, if installed, which takes two seconds
        log = Log(config.workdir, first) if processes.is_first() else Silent()
        window = monitor.Window(config.train.batch_size)
        kept = averages.manager(config.workdir) if state.averages else None
        loop = Loop(
            setup, total, num_images, validate, draw, mesh, store, log, window, console, kept
        )
        try:
            last = follow(loop, step_fn, state, metrics, placed, first, stopped)
        except monitor.Diverged as error:
            latest = store.latest_step()
            where = "none was saved" if latest is None else store.directory / str(latest)
            raise UserError(
                f"{error}; the last good checkpoint: {where}. Try a lower "
                "--optim.learning-rate, --optim.clip 1 or a longer --optim.warmup-steps, "
                "in a new --workdir"
            ) from None
        finally:
            log.close()
    if stopped:
        console.print(f"stopped by a signal: step {last} is saved; the same command resumes")
        return 128 + stopped[0]
    console.print(
        f"done: {count(total, 'step')}; pictures are in {Path(config.workdir) / 'samples'}"
    )
    return 0


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
    """
    config = loop.setup.config.train
    with monitor.progress(loop.console, step, loop.total) as show:
        step += 1
        loop.window.begin(step, metrics)
        while True:
            show(step, loop.window.loss, loop.window.rate)
            if loop.is_due(step, config.log_every):
                write_line(loop, step)
            if state.averages and averages.due(step, loop.kept.latest_step() or 0):
                averages.save(loop.kept, state)
            if processes.stop_agreed(step):
                stopped.append(signal.SIGTERM)
            if loop.is_due(step, config.checkpoint_every) or stopped:
                save(loop, step, state, validated=not stopped)
            if stopped:
                return step
            if loop.is_due(step, config.sample_every):
                with loop.window.paused(), stage(f"drawing samples of step {step}", loop.console):
                    images = loop.draw(meshes.gathered(jaxddim.variables(state), loop.mesh))
                    if processes.is_first():
                        previews.write_samples(loop.setup.config.workdir, loop.log, step, *images)
            if step == loop.total:
                return step
            state, metrics = step_fn(state, next(batches))
            step += 1
            loop.window.add(step, metrics)


def write_line(loop: Loop, step: int) -> None:
    """Logs and prints the mean metrics since the last line."""
    values = loop.window.flush()
    loop.log.write(step, epoch=loop.epochs(step), **values)
    shown = monitor.numbers(values["loss"], values.get("images_per_second"), digits=5)
    loop.console.print(f"epoch {int(loop.epochs(step))} | step {step}{shown}")
    heard()


def save(loop: Loop, step: int, state: TrainState, *, validated: bool) -> None:
    """Saves a checkpoint, with its validation loss unless a signal is stopping the run.

    Raises:
      Diverged: when that loss is not finite; nothing is saved then.
    """
    told = f"validating and saving step {step}" if validated else f"saving step {step}"
    with loop.window.paused(), stage(told, loop.console):
        loss = None
        if validated:
            loss = loop.validate(meshes.gathered(jaxddim.variables(state), loop.mesh))
        if loss is not None and not math.isfinite(loss):
            raise monitor.Diverged(step, loss)
        checkpoints.save(loop.store, state, loss)
        if state.averages:
            averages.save(loop.kept, state)
        tell_where(loop.store)
        if loss is not None:
            loop.log.write(step, validation_loss=loss)
            loop.console.print(f"step {step} saved | validation loss {loss:.5f}")
