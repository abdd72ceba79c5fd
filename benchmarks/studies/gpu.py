"""python -m benchmarks.studies.gpu [--network cars_unet] [--batch 128]: a training step on a GPU.

In bfloat16 this project, PyTorch as it comes and torch.compile train the same network on the same
GPU, by turns, and a large matrix product says what the GPU can do. A contender's line is printed as
soon as it has compiled, so something is known when the machine is taken away early. Writes
results.json. Without a GPU it measures the processor.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import machine
from benchmarks.contenders import flops
from benchmarks.contenders.networks import NETWORKS, save_weights
from benchmarks.processes import Died, Process, elsewhere, process
from benchmarks.report.summary import NAMES, spread
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, save_json


@dataclass(frozen=True)
class GpuConfig:
    """Measure training steps in bfloat16 against PyTorch's and the GPU's own rate."""

    network: Literal["cars_unet", "cifar10", "unet"] = "cars_unet"
    """Which UNet."""
    batch: int = 128
    """Images of a step."""
    contenders: tuple[Literal["bfloat16", "autocast", "autocast_compile"], ...] = (
        "bfloat16",
        "autocast",
        "autocast_compile",
    )
    """This project, PyTorch as it comes, torch.compile."""
    steps: int = 20
    """Steps of a turn."""
    rounds: int = 5
    """Turns of each."""
    product: int = 8192
    """Side of the matrices of the product."""
    out: str = "build/gpu"
    """Folder for results.json."""


def main(config: GpuConfig) -> None:
    """Measures, and prints as it goes."""
    if min(config.batch, config.steps, config.rounds, config.product) < 1:
        raise UserError("batch, steps, rounds and product must be positive")
    out = located(config.out)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = elsewhere(machine.describe)
    print(found["machine"].get("device", "no GPU: the processor"), flush=True)
    step_flops = flops.TRAINING * elsewhere(flops.forward, config.network) * config.batch
    weights = out / f"{config.network}.npz"
    elsewhere(save_weights, config.network, str(weights))
    with contextlib.ExitStack() as stack:
        runners: dict[str, tuple[Process, str]] = {}
        for name, runner, op, first in started(config, weights, stack):
            runners[name] = runner, op
            print(line(config, name, runner.ask(op, config.steps)["seconds"], step_flops, first))
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(config.rounds):
            for name, (runner, op) in runners.items():
                seconds[name].append(runner.ask(op, config.steps)["seconds"])
    weights.unlink()
    print(f"medians of {config.rounds} turns, with quartiles:")
    for name, values in seconds.items():
        print(line(config, name, spread(values).median, step_flops), f"[{spread(values)} s]")
    found |= {"network": config.network, "batch": config.batch, "seconds": seconds}
    save_json(out / "results.json", found | {"flops": step_flops})


def started(
    config: GpuConfig, weights: Path, stack: contextlib.ExitStack
) -> Iterator[tuple[str, Process, str, float]]:
    """Each contender that works: name, process, method, seconds until its first call was done."""
    product = ("product", "benchmarks.products", ("bfloat16", config.product))
    rest = (config.network, config.batch, weights)
    trainers = [("train", "benchmarks.contenders", (name, *rest)) for name in config.contenders]
    for op, module, args in (product, *trainers):
        name = "product" if op == "product" else str(args[0])
        runner = stack.enter_context(process(module, *args))
        try:
            first = runner.ask(op)["seconds"]
            runner.ask(op)
        except Died as death:
            print(f"{NAMES.get(name, name)} was left out: {death}", flush=True)
            continue
        yield name, runner, op, (runner.start_seconds or 0.0) + first


def line(
    config: GpuConfig, name: str, seconds: float, step_flops: float, first: float | None = None
) -> str:
    """What one contender did, in words."""
    product = name == "product"
    rate = (2 * config.product**3 if product else step_flops) / seconds / 1e12
    said = f"{NAMES.get(name, name)}: {1e3 * seconds:.2f} ms, {rate:.0f} TFLOP/s"
    if not product:
        said += f", {config.batch / seconds:,.0f} images/s of {NETWORKS[config.network][0]}"
    return said + ("" if first is None else f"; first one after {first:.1f} s")


if __name__ == "__main__":
    cli.run(main, GpuConfig, computes=False)
