"""Where a new run starts: from the averaged weights of another run, instead of new ones.

The optimizer, the running average and the number of steps start anew.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments.terminal.progress import stage
from jaxddim import TrainState
from jaxddim.runs import record
from jaxddim.runs.build import abstract_state, build
from jaxddim.runs.config import Config
from jaxddim.runs.errors import RunError
from jaxddim.runs.flat import flatten
from jaxddim.runs.opened import Run, load_run

FREE = {"model.remat", "model.labels"}
"""Fields of the network in which both runs may differ: its layers follow from num_classes."""
SHAPING = ("data.image_size", "data.channels", "diffusion.variance")
"""Fields outside of it that its layers depend on."""


class Start(NamedTuple):
    """The weights that a run starts from, as in config.json.

    Attributes:
      run: folder of the other run.
      step: step of its checkpoint.
      weights: which of its weights.
    """

    run: str
    step: int
    weights: str = "ema"


def chosen(config: Config, console: Console) -> Start | None:
    """The start of a new run by --train.init-from: the latest checkpoint of that run.

    Args:
      config: configuration of the new run.
      console: where differences are told that change what the weights mean.
    Raises:
      RunError: when there is no such run, or its network is another.
    """
    folder = config.train.init_from
    if folder is None:
        return None
    with _flag_named():
        theirs = record.load(folder)
    old, new = flatten(theirs), flatten(config)
    names = [name for name in new if name not in FREE and new[name] != old[name]]
    model = [name for name in names if name.startswith("model.")]
    if model:
        changes = ", ".join(f"{name} was {old[name]}, is {new[name]}" for name in model)
        raise RunError(f"--train.init-from {folder}: another network ({changes}): give its values")
    start = Start(folder, -1)
    with stage("restoring the network of --train.init-from", console, wait=True):
        run = _restored(start, "latest")
    abstract = abstract_state(build(config))
    sizes = jax.tree.map(lambda leaf: leaf.shape, run.variables["params"])
    if sizes != jax.tree.map(lambda leaf: leaf.shape, abstract.params):
        shapes = [name for name in names if name in SHAPING]
        changes = ", ".join(f"{name} was {old[name]}, is {new[name]}" for name in shapes)
        raise RunError(
            f"--train.init-from {folder}: its network has other layers, as {changes}: give its "
            + " and ".join(f"--{name.replace('_', '-')}" for name in shapes)
        )
    for name in names:
        if name.startswith("diffusion."):
            console.print(f"note: the weights were trained with {name} {old[name]}", style="yellow")
    return start._replace(step=run.step)


def recorded(config: Config, found: dict[str, Any]) -> Start | None:
    """The start of a run that was recorded before.

    Raises:
      RunError: when it is missing or damaged.
    """
    if config.train.init_from is None:
        return None
    init = found.get("init")
    if not isinstance(init, dict) or not isinstance(init.get("step"), int):
        raise RunError(
            f"{config.workdir}/config.json: the field init is missing: restore the file, or name "
            "another --workdir"
        )
    return Start(config.train.init_from, init["step"])


def started(state: TrainState, start: Start) -> TrainState:
    """A new state with the weights and statistics of another run.

    Raises:
      RunError: when its checkpoint is gone.
    """
    variables = _restored(start, str(start.step)).variables
    statistics = {name: variables[name.removeprefix("ema_")] for name in state.model_state}
    return state._replace(
        params=variables["params"],
        ema_params=jax.tree.map(jnp.copy, variables["params"]),  # a step reuses both buffers
        model_state=jax.tree.map(jnp.copy, statistics),
        averages=jax.tree.map(jnp.copy, (variables["params"],) * len(state.averages)),
    )


def _restored(start: Start, checkpoint: str) -> Run:
    with _flag_named():
        return load_run(start.run, checkpoint, start.weights)


@contextlib.contextmanager
def _flag_named() -> Iterator[None]:
    """Names the flag in an error about the other run."""
    try:
        yield
    except RunError as error:
        raise RunError(f"--train.init-from: {error}") from None
