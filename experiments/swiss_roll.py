"""python -m experiments.swiss_roll --workdir DIR

Diffusion that can be plotted and measured. Trains networks on the swiss roll, and writes to
DIR: forward.png, reverse.png, methods.png, trajectories.png, animation.gif, results.json and
table.md (distances to the data for each method and number of evaluations, for the networks and for
the exact denoiser), and a checkpoint.
Run again, the same command restores the networks from the checkpoint and writes the same files.
"""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.points import report, roll
from experiments.points.distances import BANDWIDTHS, DIRECTIONS
from experiments.terminal import cli, progress
from experiments.terminal.errors import UserError
from experiments.terminal.files import save_text
from experiments.terminal.progress import stage, tracked
from experiments.terminal.texts import count
from experiments.trainer import lock, monitor
from jaxddim import TrainState, checks
from jaxddim.runs import checkpoints
from jaxddim.runs import record as records
from jaxddim.runs.flat import finite, flatten

WEIGHTS, TRAINING, SAMPLING, DATA, PICTURES = range(5)
"""Purposes of random numbers; each is folded into the key of the seed."""


@dataclass(frozen=True)
class SwissRollConfig:
    """Train on the swiss roll, measure how well it is sampled, and plot it.

    It takes minutes on two cores.
    """

    workdir: str = ""
    """Folder of the run."""
    seed: int = 0
    """Seed of all random numbers."""
    networks: int = 6
    """How many networks are trained, at the same time; standard errors are over them."""
    train_steps: int = 4000
    """Training steps."""
    batch_size: int = 512
    """Points per step, for each network."""
    learning_rate: float = 3e-3
    """Learning rate after a warm-up of 100 steps."""
    ema: float = 0.999
    """Decay of the weights' moving average, after its warm-up."""
    num_points: int = 2048
    """Points in each of the clouds that are compared."""
    evaluations: tuple[int, ...] = (5, 10, 20, 50, 100, 1000)
    """Network evaluations per sample: the rows of the table."""


def swiss_roll(config: SwissRollConfig) -> None:
    """Trains, measures and plots.

    Raises:
      RunError: for a workdir that holds another run.
      UserError: for invalid settings.
    """
    check(config)
    console = progress.console()
    records.read(config.workdir, "swiss_roll")  # nothing is written to the folder of another run
    with lock.held(config.workdir, console):
        _swiss_roll(config, console)


def _swiss_roll(config: SwissRollConfig, console: Console) -> None:
    record = records.read(config.workdir, "swiss_roll")
    if record:
        records.check_same_config(config.workdir, flatten(config), record["config"])
    else:
        records.write(config.workdir, {"command": "swiss_roll", "config": flatten(config)})
    state = train(config, console)
    results, samples = measure(config, state, console)
    workdir = Path(config.workdir)
    save_text(
        workdir / "results.json", json.dumps(finite(results), indent=1, allow_nan=False) + "\n"
    )
    save_text(workdir / "table.md", report.table(results))
    with stage("drawing the pictures", console):
        from experiments.points import pictures  # Matplotlib takes a third of a second to import

        network = jax.tree.map(lambda leaf: leaf[0], state.ema_params)
        key = key_of(config, PICTURES)
        pictures.draw_all(workdir, key, network, samples, results)
    console.print(f"done: pictures, table.md and results.json are in {workdir}")


def key_of(config: SwissRollConfig, purpose: int) -> jax.Array:
    """The random key of a purpose."""
    return jax.random.fold_in(checks.new_key(config.seed), purpose)


def train(config: SwissRollConfig, console: Console) -> TrainState:
    """The trained networks, from the checkpoint if there is one.

    Raises:
      UserError: when the loss is no longer finite.
    """
    tx = roll.optimizer(config.learning_rate)
    abstract = jax.eval_shape(lambda: roll.new_state(key_of(config, WEIGHTS), config.networks, tx))
    store = checkpoints.manager(config.workdir)
    if store.all_steps():
        console.print(f"the networks were trained before: restored from {store.directory}")
        with stage("restoring the networks", console):
            return checkpoints.restore(store, abstract)
    total, batch = config.train_steps, config.batch_size
    size = sum(leaf.size for leaf in jax.tree.leaves(abstract.params)) // config.networks
    console.print(
        f"{config.networks} networks with {size:,} parameters each, {count(total, 'step')} of "
        f"{count(batch, 'point')}, on {jax.default_backend()}"
    )
    with stage("initialising the weights", console):
        state = roll.new_state(key_of(config, WEIGHTS), config.networks, tx)
    step = roll.make_train_step(key_of(config, TRAINING), config.networks, batch, tx, config.ema)
    try:
        with stage("compiling the training step, then the first step", console):
            state, metrics = step(state)
            jax.block_until_ready(metrics)
        window = monitor.Window(batch * config.networks)
        window.begin(1, metrics)
        with monitor.progress(console, 1, total, "points") as show:
            for done in range(2, total + 1):
                state, metrics = step(state)
                window.add(done, metrics)
                show(done, window.loss, window.rate)
            window.wait()
    except monitor.Diverged as error:
        raise UserError(f"{error}: try a lower --learning-rate, in a new --workdir") from None
    with stage("saving the networks", console):
        checkpoints.save(store, state, None)
    return state


def measure(
    config: SwissRollConfig, state: TrainState, console: Console
) -> tuple[dict[str, Any], dict[tuple[str, int], np.ndarray]]:
    """The contents of results.json, and the first network's samples with averaged weights.

    Network i is compared with the i-th set of new data points, the same for every method.
    """
    networks, num = config.networks, config.num_points
    keys = jax.random.split(key_of(config, DATA), (2, networks))
    reference, other = np.asarray(jax.vmap(jax.vmap(lambda k: roll.swiss_roll(k, num)))(keys))
    params = jax.tree.map(lambda *both: jnp.concatenate(both), state.ema_params, state.params)
    keys = jax.random.split(key_of(config, SAMPLING), networks)
    keys = jnp.concatenate([keys, keys])  # averaged and raw weights start from the same noise
    rows, samples = [], {}
    cells = list(itertools.product(roll.METHODS, config.evaluations))
    for name, evaluations in tracked(cells, "measuring", "cell", every=0):
        method = roll.METHODS[name]
        draw = roll.make_sampler(method, num)
        x = np.asarray(draw(params, keys, method.grid(evaluations)))
        samples[name, evaluations] = x[0]
        clouds = {"ema": x[:networks], "raw": x[networks:]}
        if evaluations <= roll.EXACT_UP_TO:
            clouds["exact"] = np.asarray(draw(None, keys[:networks], method.grid(evaluations)))
        for weights, cloud in clouds.items():
            row = {"method": name, "evaluations": evaluations, "weights": weights}
            rows.append(row | report.distances(cloud, reference))
    settings = {name: value for name, value in flatten(config).items() if name != "workdir"}
    settings |= {"directions": DIRECTIONS, "bandwidths": BANDWIDTHS, "snr": roll.SNR}
    floor = report.distances(other, reference)
    return {"settings": settings, "floor": floor, "rows": rows}, samples


def check(config: SwissRollConfig) -> None:
    """Raises a UserError for invalid settings."""
    if not config.workdir:
        raise UserError("--workdir is missing: name the folder of the run, e.g. runs/swiss_roll")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must lie in [0, 2^32), got {config.seed}")
    for name, least in (("networks", 2), ("num_points", 2), ("train_steps", 1), ("batch_size", 1)):
        value = getattr(config, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if not 0 < config.learning_rate < math.inf:
        raise UserError(f"--learning-rate must be positive, got {config.learning_rate}")
    if not 0 <= config.ema < 1:
        raise UserError(f"--ema must lie in [0, 1), got {config.ema}")
    most, asked = roll.NUM_STEPS, config.evaluations
    if not asked or len(set(asked)) < len(asked) or not all(2 <= n <= most for n in asked):
        raise UserError(
            f"--evaluations must be different numbers in 2..{most}, got {' '.join(map(str, asked))}"
        )


if __name__ == "__main__":
    cli.run(swiss_roll, SwissRollConfig)
