"""What a user waits for besides the network: python -m benchmarks.overheads

* imports: `import jaxddim`, and each command until its `--help`: medians of three new processes;
* call: the host's share of a training step, which is a function of the same arrays that computes
  nothing, with one device and with eight;
* batches: processor time for an image of 64x64, and how much of it is Grain's;
* features: images a second of EfficientNet-Lite0, and its operations over those of a large
  product, by turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parent.parent
CONFIG = "demo"
SIZE = 64
ROUNDS = 9
COMMANDS = sorted(file.stem for file in (REPOSITORY / "experiments").glob("[!_]*.py"))


def measure() -> dict[str, str]:
    """What was measured, and a figure with its unit."""
    found = imports()
    for devices in (1, 8):
        found |= _apart("call", {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"})
    return found | _apart("batches") | _apart("features")


def imports() -> dict[str, str]:
    """Seconds of `import jaxddim` and of each command's `--help`."""
    python = [sys.executable]
    lines = {"`import jaxddim`": [*python, "-c", "import jaxddim"]}
    lines |= {
        f"`experiments.{name} --help`": [*python, "-m", f"experiments.{name}", "--help"]
        for name in COMMANDS
    }
    return {name: f"{_median(partial(_run, line), 3):.2f} s" for name, line in lines.items()}


def call() -> dict[str, str]:
    """Milliseconds of one call with the arrays of a state, and of the check before it."""
    import jax
    import jax.numpy as jnp

    from jaxddim.runs.build import abstract_state, build
    from jaxddim.runs.presets import PRESETS
    from jaxddim.training import meshes, parallel

    where = meshes.everywhere(meshes.make_mesh())
    abstract = abstract_state(build(PRESETS[CONFIG]()))
    state = jax.tree.map(lambda a: jnp.zeros((1,) * a.ndim, a.dtype), abstract)
    state = meshes.spread(state, where)
    same = parallel.jit_step(lambda state, batch: (state, {}), meshes.make_mesh())
    batch = jnp.zeros(len(jax.devices()))

    def once() -> None:
        nonlocal state
        state, _ = same(state, batch)

    once()
    arrays, devices = len(jax.tree.leaves(state)), len(jax.devices())
    name = f"one call with the {arrays:,} arrays of `{CONFIG}`, {devices} device"
    return {name + "s" * (devices > 1): f"{1000 * _median(once, 30):.1f} ms"}


def batches() -> dict[str, str]:
    """Microseconds of a core for an image; Grain's share is that of images of one value."""
    from experiments import data

    found = {}
    texts = {SIZE: f"an image of {SIZE}x{SIZE} in a batch", 1: "the same without its pixels"}
    for size, text in texts.items():
        images = np.random.default_rng(0).integers(0, 256, (8000, size, size, 3), np.uint8)
        stream = data.batches(images, batch_size=128, seed=0)
        for _ in range(5):
            next(stream)
        began = time.process_time()
        for _ in range(100):
            next(stream)
        found[text] = f"{(time.process_time() - began) / 12_800 * 1e6:.1f} us of a core"
    return found


def features() -> dict[str, str]:
    """Images a second of the feature network, and its share of the rate of large products."""
    import jax
    import jax.numpy as jnp

    import jaxddim
    from benchmarks.contenders import flops
    from experiments.evaluation.features import efficientnet, loading, networks

    jaxddim.keep_memory()
    network = loading.load("efficientnet-lite0")
    images = np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), np.uint8)
    a = jnp.ones((2048, 2048))
    multiply = jax.jit(jnp.matmul)
    turns: dict[str, Callable[[], Any]] = {
        "features": lambda: networks.features(network, images),
        "product": lambda: multiply(a, a).block_until_ready(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(ROUNDS + 1):
        for name, work in turns.items():
            took = _median(work, 1)
            if turn:  # the first compiles
                seconds[name].append(took)
    pooled = jax.make_jaxpr(efficientnet.pooled)(network.params, jnp.zeros((1, 224, 224, 3)))
    operations = flops.count(pooled.jaxpr)
    rates = len(images) / np.array(seconds["features"])
    shares = rates * operations / (2 * len(a) ** 3 / np.array(seconds["product"]))
    return {
        "features of EfficientNet-Lite0": f"{np.median(rates):.0f} images/s",
        "their operations over those of a product of 2048x2048 matrices": (
            f"{np.median(shares):.2f} ({shares.min():.2f} to {shares.max():.2f})"
        ),
    }


def _median(work: Callable[[], Any], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _run(command: list[str], **environment: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment,
    ).stdout


def _apart(name: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    command = [sys.executable, "-m", "benchmarks.overheads", name]
    return json.loads(_run(command, **environment or {}))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps({f.__name__: f for f in (call, batches, features)}[sys.argv[1]]()))
    else:
        for name, figure in measure().items():
            print(f"{name:70} {figure}")
