"""python -m benchmarks.run [--parts steps ddim ...] [--networks unet] [--batches 8] [--out docs]

Measures this project side by side with plain Flax, PyTorch and diffusers: same network, same
weights, same batch, same cores, by turns. Writes OUT/benchmarks.json, .md and .png. A part that is
measured again replaces what the JSON had of it; `--parts report` measures nothing and writes the
report again. Everything takes hours on two cores; leave the machine alone meanwhile.
"""

import contextlib
import datetime
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
from experiments.terminal.errors import UserError

Part = Literal["steps", "ddim", "peak", "growth", "memory", "startup", "data", "report"]


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measure, and write the report."""

    parts: tuple[Part, ...] = ("steps", "ddim", "peak", "growth", "memory", "startup", "data")
    """What is measured; "report" writes the report of what was."""
    networks: tuple[Literal["simple", "unet"], ...] = ("simple", "unet")
    """For steps, peak and memory: SimpleUNet at 64x64, UNet at 32x32."""
    batches: tuple[int, ...] = (8, 32)
    """For steps; peak takes the first."""
    rounds: int = 9
    """How often each contender is timed."""
    turn: float = 1.0
    """Seconds that a contender runs in a round, at least one call."""
    out: str = "docs"
    """Folder of the results."""


def main(config: BenchmarkConfig) -> None:
    """Measures the parts one after another; what is done is kept if a later one is stopped."""
    if config.rounds < 1 or not config.batches or min(config.batches) < 1:
        raise UserError("rounds and batches must be positive")
    out, console = Path(config.out), Console(highlight=False, soft_wrap=True)
    if not out.is_dir():
        raise UserError(f"{out} is not a folder: --out takes one that exists")
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
        raise UserError(f"{path} has no measurements yet: name other parts than report")
    picture = draw(records, out / "benchmarks.png", console)
    (out / "benchmarks.md").write_text(markdown.markdown(records, picture))
    console.print(f"wrote {out / 'benchmarks.md'}")


def draw(records: dict[str, Any], path: Path, console: Console) -> str | None:
    """Draws the plot, and returns its name; None where there is nothing to draw, or with."""
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
    """A line that says what happens now, on a terminal."""
    with console.status("starts") as status:
        yield status.update


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig, computes=False)
