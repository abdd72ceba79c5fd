"""python -m benchmarks.convs [--rounds 7]: which form is best for a layer on CPU.

For the layers of both networks at batch 8, and some at batch 32: GFLOP/s (counting the operations
of the direct sum) of the forward pass, the input's gradient and the kernel's, alternating between
the direct form and the one that `jaxddim.cpu.forms` chooses; then the float32 error of both against
float64. A star marks results more than a tenth slower than the direct form.
"""

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxddim
from experiments.terminal import cli
from jaxddim.cpu import forms

ONE = ((1, 1), (1, 1))
LAYERS = [  # batch, height and width, channels in and out, window, stride, transposed
    (8, 64, 64, 128, 3, 1, False),
    (8, 64, 128, 128, 3, 1, False),
    (8, 32, 64, 64, 3, 1, False),
    (8, 32, 192, 64, 3, 1, False),
    (8, 32, 256, 256, 3, 1, False),
    (8, 16, 128, 128, 3, 1, False),
    (8, 16, 256, 128, 3, 1, False),
    (8, 16, 512, 512, 3, 1, False),
    (8, 8, 128, 128, 3, 1, False),
    (8, 8, 1024, 1024, 3, 1, False),
    (8, 4, 128, 128, 3, 1, False),
    (8, 4, 2048, 512, 3, 1, False),
    (32, 32, 64, 64, 3, 1, False),
    (32, 16, 128, 128, 3, 1, False),
    (32, 8, 256, 256, 3, 1, False),
    (8, 64, 128, 128, 4, 2, False),
    (8, 32, 256, 256, 4, 2, False),
    (8, 16, 512, 512, 4, 2, False),
    (8, 8, 1024, 1024, 4, 2, False),
    (8, 32, 64, 64, 4, 2, True),
    (8, 16, 128, 128, 4, 2, True),
    (8, 8, 256, 256, 4, 2, True),
    (8, 4, 512, 512, 4, 2, True),
]


@dataclass(frozen=True)
class ConvsConfig:
    """Compare the forms of convolutions."""

    rounds: int = 7
    """Timed runs of each function."""


def functions(layer: forms.Layer, form: forms.Form) -> list[Any]:
    """Forward pass, input's gradient and kernel's gradient, compiled."""

    def of(name: str, operand: int) -> Any:
        return getattr(form, name) or (
            lambda layer, a, b: forms.gradient(form.forward, operand, layer, a, b)
        )

    three = form.forward, of("input_gradient", 0), of("kernel_gradient", 1)
    options = jaxddim.compiler_options()
    return [jax.jit(f, static_argnums=0, compiler_options=options) for f in three]


def measure(config: ConvsConfig) -> list[list[str]]:
    """One row per layer."""
    rows = []
    for b, size, c, d, window, stride, transposed in LAYERS:
        padding = "SAME" if transposed else ONE
        shapes = (b, size, size, c), (window, window, c, d)
        layer = forms.Layer(*shapes, (stride, stride), padding, transposed, precise=True)
        rng = np.random.default_rng(0)
        x, k, y = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (*shapes, layer.y))
        operands = (x, k), (y, k), (x, y)
        pixels = math.prod(layer.x[:3] if transposed else layer.y[:3])
        operations = 2 * pixels * math.prod(layer.kernel)
        chosen = forms.choose(layer)
        pair = functions(layer, forms.PLAIN), functions(layer, chosen)
        name = chosen.forward if chosen.forward is not forms.direct else chosen.kernel_gradient
        row = [f"{b}x{size}x{size}, {c} to {d}, {window}x{window}"]
        row[0] += f", stride {stride}" * (stride > 1) + ", transposed" * transposed
        row.append(getattr(name, "__name__", "direct").strip("_"))
        for direct, ours, args in zip(*pair, operands, strict=True):
            speeds, errors = [], []
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(config.rounds + 1):
                for f, seconds in zip((direct, ours), times, strict=True):
                    started = time.perf_counter()
                    jax.block_until_ready(f(layer, *args))
                    seconds.append(time.perf_counter() - started)
            speeds = [operations / statistics.median(t[1:]) / 1e9 for t in times]
            with jax.enable_x64(True):
                exact = np.asarray(direct(layer, *(jnp.asarray(a, jnp.float64) for a in args)))
            for f in (direct, ours):
                off = np.asarray(f(layer, *args), np.float64) - exact
                errors.append(np.sqrt(np.mean(off**2) / np.mean(exact**2)))
            slower = "*" if speeds[1] < 0.9 * speeds[0] else ""
            row.append(f"{speeds[0]:.0f} / {speeds[1]:.0f}{slower} ({errors[1] / errors[0]:.1f})")
        rows.append(row)
        print("| " + " | ".join(row) + " |", flush=True)
    return rows


def main(config: ConvsConfig) -> None:
    """Prints a Markdown table."""
    print("GFLOP/s direct / chosen (error of chosen over that of direct)\n")
    print("| layer | form | forward | input's gradient | kernel's gradient |")
    print("|---|---|---|---|---|", flush=True)
    measure(config)


if __name__ == "__main__":
    cli.run(main, ConvsConfig)
