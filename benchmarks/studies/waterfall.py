"""python -m benchmarks.studies.waterfall [--checkouts BEFORE AFTER] --out docs/howto/startup.png

What a user waits for until the first training step is done: `experiments.train` of each checkout,
with a home folder that is empty (cold: the images are drawn or read, everything is compiled) and
the same again (cached: the median of three). The time is that of the command; a probe in its
process tells when modules were imported, and JAX tells when it traced, lowered and compiled. Of
what is compiled while images or weights are made, only the rest counts that was waited for.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.terminal import cli
from experiments.terminal.errors import UserError

STAGES = ("imports", "data", "weights", "lowering", "compiling", "first step", "other")
"""In the order of the picture. Lowering includes tracing; compiling, reading a compiled program."""
WORDS = {"initialising the weights": "weights", "compiling the training step": "step"}
PROBE = """
import builtins, json, runpy, sys, threading, time

file, inner = open(sys.argv.pop(1), "a", buffering=1), builtins.__import__
depth, listening = 0, False


def note(kind, start, end, function=""):
    print(json.dumps([kind, start, end, function]), file=file)


def listener(event, seconds, fun_name="", **_):
    names = {"jaxpr_trace_duration": "lowering", "jaxpr_to_mlir_module_duration": "lowering",
             "backend_compile_duration": "compiling"}
    if kind := names.get(event.rsplit("/", 1)[-1]):
        note(kind, time.time() - seconds, time.time(), fun_name)


def importing(*args, **kwargs):
    global depth, listening
    if threading.current_thread() is not threading.main_thread():
        return inner(*args, **kwargs)
    start, depth = time.time(), depth + 1
    try:
        return inner(*args, **kwargs)
    finally:
        depth -= 1
        if not depth and time.time() - start > 1e-3:
            note("imports", start, time.time())
        if not depth and not listening and "jax.monitoring" in sys.modules:
            listening = True
            sys.modules["jax.monitoring"].register_event_duration_secs_listener(listener)


builtins.__import__ = importing
from experiments import data

load = data.load


def loading(*args, **kwargs):
    start = time.time()
    try:
        return load(*args, **kwargs)
    finally:
        note("data", start, time.time())


data.load = loading
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""
Interval = tuple[float, float]


@dataclass(frozen=True)
class WaterfallConfig:
    """Measure and draw the wait before the first training step."""

    checkouts: tuple[str, ...] = (".",)
    """Folders of versions of this project, oldest first."""
    names: tuple[str, ...] = ()
    """What the picture calls them; the folders' names if not given."""
    config: str = "demo"
    """Named configuration that is trained."""
    cached: int = 3
    """Starts with everything cached; the one of median length is shown."""
    out: str = "startup.png"
    """The picture."""


def main(config: WaterfallConfig) -> None:
    """Measures, prints a table, and draws the picture."""
    for checkout in config.checkouts:
        if not (Path(checkout) / "experiments").is_dir():
            raise UserError(f"--checkouts {checkout}: no checkout of this project is there")
    if config.cached < 1:
        raise UserError("--cached must be at least 1")
    names = config.names or tuple(Path(c).resolve().name for c in config.checkouts)
    if len(names) != len(config.checkouts):
        raise UserError("--names: one for each of --checkouts")
    found: dict[str, dict[str, list[Interval]]] = {}
    for name, checkout in zip(names, config.checkouts, strict=True):
        with tempfile.TemporaryDirectory() as home:
            starts = [start(checkout, home, config.config) for _ in range(1 + config.cached)]
        found[f"{name}, cold"] = starts[0]
        found[f"{name}, cached"] = sorted(starts[1:], key=length)[config.cached // 2]
        others = ", ".join(f"{length(s):.1f}" for s in starts[1:])
        print(f"{name}: {length(starts[0]):.1f} s cold; {others} s cached")
    width = max(map(len, found))
    print("seconds".ljust(width), *(f"{stage:>10}" for stage in STAGES))
    for name, spans in found.items():
        print(name.ljust(width), *(f"{seconds(spans[stage]):10.2f}" for stage in STAGES))
    draw(found, Path(config.out))


def seconds(spans: list[Interval]) -> float:
    """The length of all intervals."""
    return sum(end - start for start, end in spans)


def length(spans: dict[str, list[Interval]]) -> float:
    """Seconds until the first step was done."""
    return sum(map(seconds, spans.values()))


def start(checkout: str, home: str, config: str) -> dict[str, list[Interval]]:
    """Starts a run and ends it after its first step: when it was in which stage, in seconds."""
    ours = ("XDG_CACHE_HOME", "TFDS_DATA_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in ours and k[:4] != "JAX_"}
    workdir, notes = tempfile.mkdtemp(dir=home), Path(home) / "notes"
    notes.unlink(missing_ok=True)
    command = [sys.executable, "-c", PROBE, str(notes), "--config", config, "--workdir", workdir]
    lines: list[tuple[float, str]] = []
    began = time.time()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"HOME": home, "PYTHONUNBUFFERED": "1"},
        cwd=checkout,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append((time.time() - began, line))
                if "first step after" in line:
                    break
            else:
                raise RuntimeError(f"{config} of {checkout} ended before its first step")
        finally:
            process.kill()
    told = {kind: at for at, line in lines for words, kind in WORDS.items() if words in line}
    spans = [("weights", told["weights"], told["step"])]
    for line in notes.read_text().splitlines():
        kind, first, last, function = json.loads(line)
        of_step = "_step" in function or first - began > told["step"]
        if of_step or kind in ("imports", "data"):
            spans.append((kind, first - began, last - began))
    end = lines[-1][0]
    spans += [("first step", told["step"], end), ("other", 0.0, end)]
    return dict(apart(spans))


def apart(spans: list[tuple[str, float, float]]) -> Iterator[tuple[str, list[Interval]]]:
    """The intervals of each stage without those of the stages before it: none is counted twice."""
    order = ("imports", "lowering", "data", "weights", "compiling", "first step", "other")
    cuts = sorted({at for _, start, end in spans for at in (start, end)})
    owners = []
    for start, end in itertools.pairwise(cuts):
        inside = {kind for kind, first, last in spans if first <= start and end <= last}
        owners.append(min(inside, key=order.index))
    for stage in STAGES:
        merged: list[Interval] = []
        for owner, (start, end) in zip(owners, itertools.pairwise(cuts), strict=True):
            if owner == stage and merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            elif owner == stage:
                merged.append((start, end))
        yield stage, merged


def draw(found: dict[str, dict[str, list[Interval]]], path: Path) -> None:
    """A panel for each start: its stages from top to bottom, time from left to right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = len(found) // 2
    figure, axes = pyplot.subplots(
        rows, 2, figsize=(10, 0.4 + 2.2 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    longest = max(map(length, found.values()))
    for axis, (name, spans) in zip(axes.flat, found.items(), strict=True):
        for row, stage in enumerate(STAGES):
            bars = [(start, end - start) for start, end in spans[stage]]
            axis.broken_barh(bars, (row - 0.35, 0.7), color=f"C{row}")
            last = max((end for _, end in spans[stage]), default=0.0)
            axis.text(
                last + 0.01 * longest, row, f"{seconds(spans[stage]):.1f}", va="center", size=8
            )
        axis.set_title(f"{name}: {length(spans):.1f} s", fontsize=10)
        axis.set_yticks(range(len(STAGES)), STAGES, fontsize=8)
        axis.set_ylim(len(STAGES) - 0.5, -0.5)
        axis.set_xlim(0, 1.06 * longest)
        axis.tick_params(labelsize=8, length=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("seconds from the command to the end of the first training step", fontsize=9)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    cli.run(main, WaterfallConfig)
