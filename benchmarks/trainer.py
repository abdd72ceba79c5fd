"""python -m benchmarks.trainer --checkouts BEFORE AFTER [--config demo] [--rounds 7]

Trains through `experiments.train` in checkouts of this project by turns: images a second from the
lines that it prints, and page faults a step from the kernel's count for its process. A process is
stopped before its last step, so that validation and sampling take no part.
"""

import contextlib
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report.summary import spread
from experiments.terminal import cli
from experiments.terminal.errors import UserError


@dataclass(frozen=True)
class TrainerConfig:
    """Race checkouts of this project as trainers."""

    checkouts: tuple[str, ...] = (".",)
    """Folders with a checkout each."""
    config: str = "demo"
    """Named configuration that is trained."""
    rounds: int = 7
    """How often each checkout trains."""
    line: int = 10
    """Steps between two lines of the log."""
    lines: int = 5
    """Lines that are waited for; the first does not count."""


class Line(NamedTuple):
    """What is known when the trainer prints a line.

    Attributes:
      step: that was taken.
      rate: images a second since the line before.
      faults: page faults since the process started.
    """

    step: int
    rate: float
    faults: int


def lines(command: list[str], **options: Any) -> Generator[Line, None, None]:
    """Starts a trainer, yields its lines, and stops it when closed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                told = re.search(r"step (\d+) \| loss .* ([\d.]+) images/s", text)
                if told:
                    yield Line(int(told[1]), float(told[2]), page_faults(process.pid))
        finally:
            process.kill()


def page_faults(pid: int) -> int:
    """Page faults of a process that needed no disk, since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])  # the tenth of all, see proc(5)


def measure(checkout: str, home: Path, config: TrainerConfig) -> tuple[float, float]:
    """Images a second, and page faults a step, in a process of its own."""
    loop = ["--train.log-every", str(config.line), "--train.steps", "100000"]
    never = ["--train.checkpoint-every", "100000", "--train.sample-every", "100000"]
    with tempfile.TemporaryDirectory(dir=home) as workdir:
        command = [sys.executable, "-m", "experiments.train", "--config", config.config]
        environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
        trainer = lines(
            [*command, "--workdir", workdir, *loop, *never],
            cwd=checkout,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.closing(trainer):
            found = list(itertools.islice(trainer, config.lines))
        if len(found) < 2:
            raise UserError(f"{checkout}: the trainer ended after {len(found)} lines")
    first, last = found[0], found[-1]
    faults = (last.faults - first.faults) / (last.step - first.step)
    return statistics.median(line.rate for line in found[1:]), faults


def main(config: TrainerConfig) -> None:
    """Measures by turns, and prints a row for each checkout."""
    if config.rounds < 1 or config.lines < 2 or config.line < 1:
        raise UserError("--rounds and --line must be at least 1, --lines at least 2")
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in config.checkouts}
    with tempfile.TemporaryDirectory() as folder:
        homes = {name: Path(folder) / str(i) for i, name in enumerate(results)}
        for name, home in homes.items():
            home.mkdir()
            measure(name, home, config)  # fills its caches
        for round_ in range(config.rounds):
            for name in results if round_ % 2 == 0 else reversed(results):
                results[name].append(measure(name, homes[name], config))
                print(name, *results[name][-1], flush=True)
    first = results[config.checkouts[0]]
    print("| checkout | images/s | of the first, by rounds | page faults a step |")
    print("|---|---|---|---|")
    for name, rounds in results.items():
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(rounds, first, strict=True)]
        columns = [r[0] for r in rounds], ratios, [r[1] for r in rounds]
        print(f"| {name} |", " | ".join(f"{spread(list(c))}" for c in columns), "|")


if __name__ == "__main__":
    cli.run(main, TrainerConfig, computes=False)
