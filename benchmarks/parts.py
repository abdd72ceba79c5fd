"""The parts of the benchmark; each yields records, one for each race or list of figures."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders import flops
from benchmarks.contenders.networks import save_weights
from benchmarks.machine import installed
from benchmarks.processes import Died, elsewhere, process
from benchmarks.race import Entry, race
from benchmarks.report.summary import NAMES, NETWORKS

PYTORCH = ("eager", "channels_last", "compile")
GROWTH_BATCHES, GROWTH_SIZES, GROWTH_STEPS = (1, 2, 4, 8, 16, 32), (16, 32, 64), (10, 20, 50, 100)
GROWTH_BATCH = 8
DDIM_BATCH = 8
LIBRARIES = {"numpy": "NumPy", "jax": "JAX", "bfloat16": "JAX, bfloat16", "torch": "PyTorch"}
MEMORY = (("unet", 32), ("simple", 8), ("simple", 32))
TRAIN = ("forward", "train")


@dataclasses.dataclass(frozen=True)
class Setting:
    """The options of a benchmark, and its environment."""

    networks: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int
    turn: float
    folder: Path
    backend: str
    show: Callable[[str], None]

    @property
    def cpu(self) -> bool:
        return self.backend == "cpu"

    @property
    def torch(self) -> bool:
        return self.cpu and installed("torch")

    @property
    def without(self) -> list[str]:
        """What cannot be compared here, and why."""
        if not self.cpu:
            return [f"PyTorch was not compared: on a {self.backend} only JAX's rows are measured"]
        missing = [name for name in ("torch", "diffusers") if not installed(name)]
        hint = "pip install -r requirements-benchmarks.txt"
        return [f"{name} is not installed, so its rows are missing ({hint})" for name in missing]

    def weights(self, network: str) -> Path:
        path = self.folder / f"{network}.npz"
        if not path.exists():
            self.show(f"draws weights for {network}")
            elsewhere(save_weights, network, str(path))
        return path

    def entry(self, name: str, network: str, batch: int, *ops: str, **options: Any) -> Entry:
        args = (name, network, batch, self.weights(network))
        args += (options.get("size", 0), options.get("steps", 50))
        return Entry(options.get("label", name), ops, args)

    def run(self, where: str, entries: list[Entry], **options: Any) -> dict[str, Any]:
        rest = {"rounds": self.rounds, "turn": self.turn, "folder": self.folder}
        cells, notes = race(entries, **rest, show=self.show, **options)
        notes = self.without + [f"{where}: {note}" for note in notes]
        return {"rounds": self.rounds, "cells": cells, "notes": notes}


Records = Iterator[tuple[str, dict[str, Any]]]
"""Pairs of a name and a record; a later record of the same name replaces it."""


def steps(setting: Setting) -> Records:
    """Training steps and forward passes, for each network and batch."""
    names = ("jax", "xla", "flax") if setting.cpu else ("jax", "bfloat16", "flax")
    names += PYTORCH if setting.torch else ()
    for network in setting.networks:
        for batch in setting.batches:
            entries = [setting.entry(name, network, batch, *TRAIN) for name in names]
            where = f"{NETWORKS[network]}, batch {batch}"
            record = setting.run(where, entries, same={"forward"})
            yield f"{network}/{batch}", record | {"network": network, "batch": batch}


def ddim(setting: Setting) -> Records:
    """50 steps of DDIM against other loops, and against as many bare forward passes."""
    names = () if setting.cpu else ("bfloat16",)
    entries = [setting.entry("jax", "unet", DDIM_BATCH, "ddim", "forwards")]
    entries += [setting.entry(name, "unet", DDIM_BATCH, "ddim") for name in names]
    if setting.torch:
        entries.append(setting.entry("eager", "unet", DDIM_BATCH, "ddim"))
        if installed("diffusers"):
            diffusers = {"label": "diffusers"}
            entries.append(setting.entry("eager", "unet", DDIM_BATCH, "diffusers", **diffusers))
    record = setting.run("DDIM", entries, same={"ddim", "diffusers"})
    yield f"unet/{DDIM_BATCH}", record | {"network": "unet", "batch": DDIM_BATCH}


def growth(setting: Setting) -> Records:
    """This project's times against batch size, image size, and number of steps S."""
    for axis, values, op in (
        ("batch", GROWTH_BATCHES, "train"),
        ("size", GROWTH_SIZES, "train"),
        ("steps", GROWTH_STEPS, "ddim"),
    ):
        entries = []
        for value in values:
            options = {"batch": GROWTH_BATCH, axis: value, "label": str(value)}
            batch = options.pop("batch")
            entries.append(setting.entry("jax", "unet", batch, op, **options))
        yield axis, setting.run(f"growth with {axis}", entries) | {"axis": axis}


def memory(setting: Setting) -> Records:
    """Peak memory of a process that only trains."""
    if not setting.cpu:
        note = "GPU memory was not measured: the memory of a process says nothing about it"
        yield "processes", {"rows": [], "notes": [note]}
        return
    for network, batch in MEMORY:
        if network not in setting.networks or batch not in setting.batches:
            continue
        where, rows, notes = f"{NETWORKS[network]}, batch {batch}", [], setting.without
        names = ("jax", *(("remat",) if network == "unet" else ()), "flax")
        for name in names + (PYTORCH if setting.torch else ()):
            setting.show(f"{NAMES[name]} trains {where}")
            args = setting.entry(name, network, batch).args
            try:
                with process("benchmarks.contenders", *args) as contender:
                    peak = contender.ask("train", 3)["peak_gb"]
            except Died as death:
                notes.append(f"{where}: {NAMES[name]} was left out: {death}")
                continue
            rows.append({"contender": name, "peak_gb": peak})
        found = {"network": network, "batch": batch, "rows": rows, "notes": notes}
        yield f"{network}/{batch}", found


def peak(setting: Setting) -> Records:
    """Large matrix products against this project's steps, in the same rounds."""
    size = 2048 if setting.cpu else 8192
    libraries = ("numpy", "jax") if setting.cpu else ("jax", "bfloat16")
    libraries += ("torch",) if setting.torch else ()
    batch, operations, entries = setting.batches[0], {}, []
    for library in libraries:
        label = f"product in {LIBRARIES[library]}"
        operations[label] = {"product": 2 * size**3}
        entries.append(Entry(label, ("product",), (library, size), "benchmarks.products"))
    for network in setting.networks:
        forward = elsewhere(flops.forward, network) * batch
        operations[network] = {"forward": forward, "train": flops.TRAINING * forward}
        entries.append(setting.entry("jax", network, batch, *TRAIN, label=network))
    record = setting.run("peak", entries)
    for cell in record["cells"]:
        cell["operations"] = operations[cell["contender"]][cell["op"]]
    yield "products", record | {"batch": batch, "size": size}


def _figures(part: str) -> Callable[[Setting], Records]:
    def measure(setting: Setting) -> Records:
        setting.show(f"measures {part}")
        rows, notes = {}, []
        try:
            rows = elsewhere(_measure, f"benchmarks.{part}")
        except Exception as error:  # a failure must not stop the other parts
            notes.append(f"{part} could not be measured: {type(error).__name__}: {error}")
        yield "figures", {"rows": rows, "notes": notes}

    return measure


def _measure(module: str) -> dict[str, Any]:
    return importlib.import_module(module).measure()


PARTS: dict[str, Callable[[Setting], Records]] = {
    "steps": steps,
    "ddim": ddim,
    "peak": peak,
    "growth": growth,
    "memory": memory,
    "startup": _figures("startup"),
    "overheads": _figures("overheads"),
    "data": _figures("data"),
}
