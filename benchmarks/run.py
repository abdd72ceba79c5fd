"""python -m benchmarks.run [--parts steps ddim ...] [--networks unet] [--batches 8] [--out docs]

Compares this project with plain Flax, PyTorch and diffusers: same network, weights, batch and
cores, in turns. Writes OUT/benchmarks.json, .md and .png. A part that is measured again replaces
its records in the JSON; `--parts report` measures nothing and rewrites the report. All parts take
hours on two cores; run nothing else on the machine meanwhile.
"""

import contextlib
import datetime
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from benchmarks import machine
from benchmarks.parts import PARTS, Setting
from benchmarks.processes import elsewhere
from benchmarks.report import markdown, plot
from experiments.terminal import cli
from experiments.terminal import progress as terminal
from experiments.terminal.errors import UserError

Part = Literal[
    "steps", "ddim", "peak", "growth", "memory", "startup", "overheads", "data", "report"
]


@dataclass(frozen=True)
class BenchmarkConfig:
    """Run the benchmarks and write the report. All parts take hours on two cores."""

    parts: tuple[Part, ...] = (
        "steps", "ddim", "peak", "growth", "memory", "startup", "overheads", "data"
    )  # fmt: skip
    """Parts to measure; "report" alone only rewrites the report."""
    networks: tuple[Literal["simple", "unet"], ...] = ("simple", "unet")
    """Networks for steps, peak and memory: SimpleUNet at 64x64, UNet at 32x32."""
    batches: tuple[int, ...] = (8, 32)
    """Batch sizes for steps and memory; peak takes the first."""
    rounds: int = 9
    """Timed rounds of each contender."""
    turn: float = 1.0
    """Seconds that a contender runs per round (at least one call)."""
    out: str = "docs"
    """Output folder, which must exist."""


def main(config: BenchmarkConfig) -> None:
    """Measures the parts in sequence; an interrupted run keeps its finished records."""
    if config.rounds < 1 or not config.batches or min(config.batches) < 1:
        raise UserError("rounds and batches must be positive")
    out, console = Path(config.out), terminal.console()
    if not out.is_dir():
        raise UserError(f"{out} is not a folder: --out takes an existing one")
    path = out / "benchmarks.json"
    records = read(path)
    parts = [part for part in config.parts if part in PARTS]
    with tempfile.TemporaryDirectory() as folder, progress(console) as show:
        made_with = elsewhere(machine.describe) if parts else {}
        for part in parts:
            setting = Setting(
                networks=config.networks,
                batches=config.batches,
                rounds=config.rounds,
                turn=config.turn,
                folder=Path(folder),
                backend=made_with["backend"],
                show=lambda text, part=part: show(f"{part}: {text}"),
            )
            for name, record in PARTS[part](setting):
                date = datetime.date.today().isoformat()
                records[f"{part}/{name}"] = record | made_with | {"date": date}
                path.write_text(json.dumps(records, indent=1) + "\n")
                console.print(f"{part} {name} done", *record["notes"], sep="\n  ")
    if not records:
        raise UserError(f"{path} has no measurements yet: choose other --parts than report")
    picture = draw(records, out / "benchmarks.png", console)
    (out / "benchmarks.md").write_text(markdown.markdown(records, picture))
    console.print(f"wrote {out / 'benchmarks.md'}")


def draw(records: dict[str, Any], path: Path, console: Console) -> str | None:
    """Draws the plot and returns its name, or None if there is no plot."""
    if not machine.installed("matplotlib"):
        console.print("no plot: matplotlib is not installed (requirements-benchmarks.txt)")
        return path.name if path.exists() else None
    return path.name if plot.draw(records, path) else None


def read(path: Path) -> dict[str, Any]:
    """The records of earlier measurements."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is not the JSON that this command wrote: {error}") from None


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A status line on the terminal; elsewhere lines on stderr, now and then."""
    if not console.is_terminal:
        yield functools.partial(terminal.say, every=terminal.EVERY)
        return
    with terminal.stage("starts", console) as update:
        yield update


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig, computes=False)
