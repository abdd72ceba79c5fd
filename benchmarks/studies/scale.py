"""python -m benchmarks.studies.scale [--config cars_unet]: memory and time by number of devices.

A model on paper, from what can be counted here: parameters, operations, the arrays that JAX keeps
for the backward pass, and the temporary memory of the compiled step. Rates of the devices and links
are their makers' figures (the H100's products were measured); what share of them a step reaches is
an assumption (`SHARE`), so a time is an estimate. Nothing runs: the step is traced, and compiled
for this machine's CPU.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.contenders import flops
from benchmarks.contenders.networks import plain_layers
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.texts import count
from experiments.trainer.step import compiled_step
from jaxddim.runs.build import abstract_state, build, build_model
from jaxddim.runs.config import Config
from jaxddim.runs.presets import PRESETS
from jaxddim.training import meshes

SHARE = 0.4
"""Of a device's rate on large products that a step's products reach."""
PASSES = 3
"""Forward passes that a step costs; 4 with --model.remat."""
LAYOUTS = ((1, 128), (8, 128), (256, 256), (256, 10240))
"""Devices, and images of a batch."""


class Machine(NamedTuple):
    """A kind of device.

    Attributes:
      name: of the device.
      products: operations a second of large products in bfloat16.
      memory: bytes a second of its memory.
      link: bytes a second between devices of a node.
      node: devices of a node.
      network: bytes a second of a node's network.
    """

    name: str
    products: float
    memory: float
    link: float
    node: int
    network: float


MACHINES = (
    Machine("A100", 312e12, 2.0e12, 230e9, 8, 10e9),
    Machine("H100", 790e12, 3.3e12, 370e9, 8, 10e9),
    Machine("TPU v5e", 197e12, 0.8e12, 100e9, 256, 100e9),
)


class Costs(NamedTuple):
    """What is counted of a training step.

    Attributes:
      parameters: numbers in the network.
      leaves: arrays in the state.
      operations: of an image's forward pass.
      kept: bytes of an image that JAX keeps for the backward pass, by type and remat.
      fixed, image: bytes of the compiled step's temporary memory: fixed, and for an image.
    """

    parameters: int
    leaves: int
    operations: float
    kept: dict[str, float]
    fixed: float
    image: float


@dataclass(frozen=True)
class ScaleConfig:
    """Memory and time of a training step on 1, 8 and 256 devices, on paper."""

    config: str = "cars_unet"
    """Named configuration."""
    compile: bool = True
    """Compile the step for the temporary memory, which takes minutes."""


def counted(config: Config, compiles: bool) -> Costs:
    """Counts what a step of a configuration costs."""
    setup = build(config)
    state = abstract_state(setup)
    height, width, channels = config.data.shape
    x = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    index = jax.ShapeDtypeStruct((1,), jnp.int32)
    with plain_layers():
        jaxpr = jax.make_jaxpr(lambda *args: _forward(setup.model, *args))(state.params, x, index)
    kept = {}
    for dtype in ("float32", "bfloat16"):
        for remat in (False, True):
            model = build_model(dataclasses.replace(config.model, dtype=dtype, remat=remat))
            name = dtype + ", remat" * remat
            kept[name] = _kept(model, state.params, x, index)
    fixed, image = _temporary(setup, state, x.shape[1:]) if compiles else (0.0, 0.0)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    leaves = len(jax.tree.leaves(state))
    return Costs(parameters, leaves, flops.count(jaxpr.jaxpr), kept, fixed, image)


def _forward(model: Any, params: Any, x: jax.Array, index: jax.Array) -> jax.Array:
    key = jax.random.key(0)
    variables = {"params": params}
    output, _ = model.apply(
        variables, x, index, train=True, mutable=["batch_stats"], rngs={"dropout": key}
    )
    return output


def _kept(model: Any, params: Any, x: Any, index: Any) -> float:
    """Bytes of the arrays that the backward pass of one image needs, besides the parameters."""

    def backward(params: Any, x: jax.Array, index: jax.Array) -> Any:
        return jax.vjp(lambda params: _forward(model, params, x, index), params)[1]

    with plain_layers():
        residuals = jax.tree.leaves(jax.eval_shape(backward, params, x, index))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)
    known = {leaf.shape for leaf in jax.tree.leaves(params)}
    return float(total - sum(a.size * a.dtype.itemsize for a in residuals if a.shape in known))


def _temporary(setup: Any, state: Any, shape: tuple[int, ...]) -> tuple[float, float]:
    """Temporary memory of the compiled step: fixed, and for an image."""
    mesh = meshes.make_mesh(1)
    step, sizes = compiled_step(setup, mesh), {}
    for images in (2, 4):
        batch = jax.ShapeDtypeStruct((images, *shape), jnp.float32)
        analysis: Any = step.lower(state, batch).compile().memory_analysis()
        sizes[images] = analysis.temp_size_in_bytes
    slope = (sizes[4] - sizes[2]) / 2
    return sizes[2] - 2 * slope, slope


def memory(costs: Costs, devices: int, images: int, kind: str, split: bool) -> float:
    """Bytes of a device: state, gradients and what is kept of its images."""
    parameters = 4.0 * costs.parameters
    state = 4 * parameters / devices + parameters if split else 4 * parameters
    return state + parameters + images / devices * costs.kept[kind]


def seconds(costs: Costs, machine: Machine, devices: int, images: int) -> tuple[float, float]:
    """Seconds of a step in bfloat16: computing, and summing the gradients over the devices."""
    each = images / devices
    products = PASSES * costs.operations / (SHARE * machine.products)
    traffic = 3 * costs.kept["bfloat16"] / machine.memory  # written, read, and their gradients
    nodes = -(-devices // machine.node)
    ring = lambda n, rate: 2 * (n - 1) / n * 4 * costs.parameters / rate  # noqa: E731
    inside = ring(min(devices, machine.node), machine.link)
    return each * (products + traffic), inside + ring(nodes, machine.network)


def row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def report(name: str, costs: Costs) -> list[str]:
    """The tables, in Markdown."""
    gigabytes = lambda b: f"{b / 1e9:.1f}"  # noqa: E731
    lines = [
        f"`{name}`: {costs.parameters / 1e6:.1f} million parameters, {costs.leaves:,} arrays in "
        f"the state, {costs.operations / 1e9:.1f} GFLOP an image forward, "
        f"{PASSES * costs.operations / 1e9:.0f} a step. Kept of an image for the backward pass: "
        + ", ".join(f"{b / 1e6:.0f} MB ({kind})" for kind, b in costs.kept.items())
        + ".",
    ]
    if costs.image:
        lines.append(
            f"Temporary memory of the step that XLA compiles for CPU: {costs.fixed / 1e6:.0f} MB "
            f"and {costs.image / 1e6:.0f} MB an image."
        )
    kinds = [(kind, False) for kind in costs.kept] + [("bfloat16", True)]
    heads = [kind + ", split state" * split for kind, split in kinds]
    lines += ["", row("GB of a device", *heads), row(*["---"] * (len(kinds) + 1))]
    for devices, images in LAYOUTS:
        cells = [gigabytes(memory(costs, devices, images, *kind)) for kind in kinds]
        lines.append(
            f"| {count(devices, 'device')}, batch {images:,} | " + " | ".join(cells) + " |"
        )
    heads = [f"{machine.name}: computing, summing, images/s" for machine in MACHINES]
    rule = row(*["---"] * (len(MACHINES) + 1))
    lines += ["", row("a step, bfloat16", *heads), rule]
    for devices, images in LAYOUTS:
        cells = []
        for machine in MACHINES:
            computing, summing = seconds(costs, machine, devices, images)
            rate = images / (computing + summing)
            cells.append(f"{1e3 * computing:.1f} ms, {1e3 * summing:.1f} ms, {rate:,.0f}")
        lines.append(
            f"| {count(devices, 'device')}, batch {images:,} | " + " | ".join(cells) + " |"
        )
    what = "images a device from which summing takes less than half, than a tenth"
    lines += ["", row(what, *(machine.name for machine in MACHINES)), rule]
    for devices in (8, 16, 256):
        cells = []
        for machine in MACHINES:
            computing, summing = seconds(costs, machine, devices, devices)
            ratio = summing / computing
            cells.append(f"{math.ceil(ratio):,}, {math.ceil(9 * ratio):,}")
        lines.append(f"| {count(devices, 'device')} | " + " | ".join(cells) + " |")
    return lines


def main(config: ScaleConfig) -> None:
    """Prints the tables of a configuration."""
    if config.config not in PRESETS:
        raise UserError(f"--config {config.config}{cli.nearest(config.config, PRESETS)}")
    print("\n".join(report(config.config, counted(PRESETS[config.config](), config.compile))))


if __name__ == "__main__":
    cli.run(main, ScaleConfig)
