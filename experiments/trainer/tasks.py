"""What a run does between its steps: log, validation, samples and checkpoints, each when due."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console

import jaxddim
from experiments.terminal import processes
from experiments.terminal.errors import UserError
from experiments.terminal.progress import heard, stage
from experiments.trainer import monitor, previews, saving
from experiments.trainer.log import Log
from jaxddim import TrainState
from jaxddim.runs import averages, checkpoints
from jaxddim.runs.build import Setup
from jaxddim.runs.disk.store import Store
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


def write_line(loop: Loop, step: int) -> None:
    """Logs and prints the mean metrics since the last line."""
    values = loop.window.flush()
    memory = monitor.peak_memory()
    loop.log.write(step, epoch=loop.epochs(step), **values, peak_memory_gib=memory)
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
