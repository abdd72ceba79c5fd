"""python -m benchmarks.studies.sampling --workdir RUN: what `sample` costs beyond the network.

The command draws a batch, and several, in turns with as many bare forward passes of the same
batches, compiled, in this process. The command's seconds for the images after the first batch are
divided by those of the passes: reading the run, compiling and the first batch are in both commands.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxddim
from benchmarks.report.summary import spread
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from jaxddim.runs.drawing import chunk_size
from jaxddim.runs.opened import load_run


@dataclass(frozen=True)
class SamplingConfig:
    """Measure what the command costs beyond the network."""

    workdir: str = "runs/demo"
    """The run."""
    batches: int = 9
    """Batches that are drawn; the first is not counted."""
    steps: int = 50
    """Steps of DDIM."""
    rounds: int = 5
    """How often each is measured."""


def main(config: SamplingConfig) -> None:
    """Measures by turns, and prints the ratio."""
    if min(config.batches - 1, config.steps, config.rounds) < 1:
        raise UserError("--batches must be at least 2, --steps and --rounds at least 1")
    jaxddim.keep_memory()
    run = load_run(config.workdir)
    size, shape = chunk_size(run), run.config.data.shape
    apply = jax.jit(run.model.apply, compiler_options=jaxddim.compiler_options())
    x, index = jnp.zeros((size, *shape)), jnp.full(size, 500)
    jax.block_until_ready(apply(run.variables, x, index))
    seconds(config, size)  # compiles, unless that is kept
    ratios, bare, command = [], [], []
    for _ in range(config.rounds):
        began = time.perf_counter()
        for _ in range((config.batches - 1) * config.steps):
            jax.block_until_ready(apply(run.variables, x, index))
        bare.append(time.perf_counter() - began)
        command.append(seconds(config, config.batches * size) - seconds(config, size))
        ratios.append(command[-1] / bare[-1])
    images = (config.batches - 1) * size
    print(f"{images} images of {config.steps} steps, {size} at a time, on {jax.default_backend()}")
    for name, values in (("bare passes, s", bare), ("the command, s", command), ("ratio", ratios)):
        median, low, high = spread(values)
        print(f"{name:16} {median:.3f} ({low:.3f} to {high:.3f})")


def seconds(config: SamplingConfig, num: int) -> float:
    """How long the command takes for so many images, as PNG files in a folder."""
    command = [sys.executable, "-m", "experiments.sample", "--workdir", config.workdir]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--num", str(num), "--steps", str(config.steps), "--out", f"{folder}/out"]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
        return time.perf_counter() - began


if __name__ == "__main__":
    cli.run(main, SamplingConfig)
