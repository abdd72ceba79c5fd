"""python -m benchmarks.equality --checkouts BEFORE AFTER: do both compute the same, bit for bit?

Each checkout trains a `tiny` run, samples from it, evaluates it, makes the paper's report and the
swiss roll, all by its own commands, with caches of its own. What they left is compared: parameters
and optimizer states, losses, pixels, and every number of the records but times.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.terminal import cli
from experiments.terminal.errors import UserError

RUN = ["--workdir", "runs/tiny"]
POINTS = ["--networks", "2", "--train-steps", "40", "--num-points", "128"]
COMMANDS = [
    ["train", *RUN, "--config", "tiny", "--data.data-dir", "tfds"],
    ["sample", *RUN, "--num", "6", "--steps", "7", "--out", "ddim.npz"],
    ["sample", *RUN, "--num", "3", "--steps", "7", "--eta", "0.5", "--out", "eta.npz"],
    ["sample", *RUN, "--num", "3", "--method", "ddpm", "--variance", "large", "--out", "ddpm.npz"],
    ["sample", *RUN, "--num", "4", "--weights", "raw", "--out", "grid.png"],
    ["evaluate", *RUN, "--num", "32", "--steps", "5", "--out", "evaluation.json"],
    ["paper", *RUN, "--num", "8", "--max-steps", "20", "--out", "paper"],
    ["swiss_roll", "--workdir", "runs/roll", *POINTS, "--evaluations", "5", "10"],
]
VARYING = {"seconds", "date", "versions", "rounds", "compiling", "ddpm_seconds", "line", "recipe"}
VARYING |= {"images_per_second", "peak_memory_gib", "files", "cache_dir"}
"""Names in records whose values are times, or follow from them."""


@dataclass(frozen=True)
class EqualityConfig:
    """Compare what two checkouts of this project compute, bit for bit."""

    checkouts: tuple[str, str] = ("", "")
    """Folders of the two checkouts."""


def compute(checkout: Path, home: Path) -> None:
    """Runs every command of a checkout in a folder of its own.

    Raises:
      UserError: when a command fails.
    """
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    environment = os.environ | places | {"PYTHONPATH": str(checkout)}
    for name, *flags in COMMANDS:
        command = [sys.executable, "-m", f"experiments.{name}", *flags]
        code = subprocess.run(command, cwd=home, env=environment, stdout=subprocess.DEVNULL)
        if code.returncode:
            raise UserError(f"{checkout}: experiments.{name} ended with {code.returncode}")


def found(home: Path) -> Iterator[tuple[str, Any]]:
    """Everything that the commands left, as named arrays and records."""
    import orbax.checkpoint as ocp

    for folder in sorted(home.glob("runs/*/checkpoints/*/default")):
        restored = ocp.StandardCheckpointer().restore(folder.absolute())
        yield str(folder.relative_to(home)), flat(restored)
    for path in sorted(home.rglob("*.npz")):
        if "cache" not in path.parts:
            with np.load(path) as arrays:
                yield without_hash(path, home), dict(arrays)
    for pattern in ("runs/tiny/samples/*.png", "grid.png", "runs/roll/forward.png", "paper/*.png"):
        for path in sorted(home.glob(pattern)):
            if path.name != "figure4.png":  # it shows times
                yield str(path.relative_to(home)), {"bytes": path.read_bytes()}
    for path in (*home.rglob("evaluation.json"), *home.rglob("re*.json"), *home.rglob("*.jsonl")):
        if "cache" not in path.parts and "tfds" not in path.parts:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            yield str(path.relative_to(home)), flat([steady(json.loads(line)) for line in lines])


def without_hash(path: Path, home: Path) -> str:
    """A file's name; kept cells have the hash of their recipe in it."""
    name = path.relative_to(home)
    return str(name.with_name(name.stem.rpartition("-")[0]) if "cells" in name.parts else name)


def steady(record: Any) -> Any:
    """A record without what differs from run to run."""
    if isinstance(record, dict):
        return {k: steady(v) for k, v in record.items() if k not in VARYING}
    return [steady(v) for v in record] if isinstance(record, list) else record


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """{"a.b.0": leaf, ...} of nested dictionaries and lists."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        parts = [flat(value, f"{name}.{key}") for key, value in items]
        return {k: v for part in parts for k, v in part.items()}
    return {name: tree}


def difference(a: Any, b: Any) -> str:
    """How two results differ; empty where they do not."""
    if a.keys() != b.keys():
        return f"other names: {sorted(a.keys() ^ b.keys())[:4]}"
    unequal = [name for name in a if not same(a[name], b[name])]
    if not unequal:
        return ""
    worst = [gap(a[name], b[name]) for name in unequal]
    return f"{len(unequal)} of {len(a)} differ, by at most {max(worst):.2e}: {unequal[:3]}"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, str | bytes | bool) or a is None:
        return a == b
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def gap(a: Any, b: Any) -> float:
    try:
        return float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))))
    except (TypeError, ValueError):
        return float("inf")


def main(config: EqualityConfig) -> int:
    """Computes and compares; the exit code is 1 if anything differs."""
    for checkout in config.checkouts:
        if not (Path(checkout) / "experiments" / "train.py").exists():
            raise UserError(f"--checkouts: {checkout or 'nothing'} is not a checkout of jaxddim")
    results = []
    with tempfile.TemporaryDirectory() as root:
        for i, checkout in enumerate(config.checkouts):
            home = Path(root) / str(i)
            home.mkdir()
            compute(Path(checkout).resolve(), home)
            results.append(dict(found(home)))
    names = results[0].keys() | results[1].keys()
    unequal = 0
    for name in sorted(names):
        a, b = (result.get(name) for result in results)
        what = "only in one" if a is None or b is None else difference(a, b)
        unequal += bool(what)
        print(f"{name}: {what or f'the same ({len(a or ())} values)'}")
    print(f"{len(names) - unequal} of {len(names)} the same")
    return int(bool(unequal))


if __name__ == "__main__":
    cli.run(main, EqualityConfig, computes=False)
