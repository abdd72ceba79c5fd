"""What the folder of a run holds: numbers, pictures and evaluations, read within bounds."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from experiments.terminal.files import content
from experiments.terminal.files import record as read_record
from jaxddim.runs import record
from jaxddim.runs.config import Config

MOST_LOG, MOST_PICTURE = 1 << 28, 1 << 23
"""Bytes of metrics.jsonl and of a picture that are read."""
MOST_GRIDS, MOST_EVALUATIONS = 8, 20
"""Grids over time, the first and the last among them, and the latest evaluations."""


class Picture(NamedTuple):
    """A PNG.

    Attributes:
      title: what it shows.
      png: its bytes.
    """

    title: str
    png: bytes


class Evaluation(NamedTuple):
    """A record of `experiments.evaluate`.

    Attributes:
      title: checkpoint and method.
      metrics: (name, value, details) of each single number.
      pictures: those that belong to it.
      notes: its own.
      date: when it was made.
    """

    title: str
    metrics: list[tuple[str, float, str]]
    pictures: list[Picture]
    notes: list[str]
    date: str


class Contents(NamedTuple):
    """What is known of a run.

    Attributes:
      name: of its folder.
      record: config.json.
      config: the configuration in it.
      lines: metrics.jsonl.
      pictures: grids of samples over time, then the last strip.
      evaluations: the latest ones, in the order of their dates.
      notes: what could not be read.
    """

    name: str
    record: dict[str, Any]
    config: Config
    lines: list[dict[str, float]]
    pictures: list[Picture]
    evaluations: list[Evaluation]
    notes: list[str]

    @property
    def step(self) -> int:
        """The last step that the log knows."""
        return max((int(line["step"]) for line in self.lines), default=0)

    @property
    def total(self) -> int | None:
        """Steps of the whole training, where the record says."""
        train, num_images = self.config.train, (self.record.get("data") or {}).get("num_images")
        if train.steps:
            return train.steps
        return num_images and -(-(train.epochs or 1) * num_images // train.batch_size)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps and the values of a number of the log."""
        known = [line for line in self.lines if isinstance(line.get(name), (int, float))]
        return [int(line["step"]) for line in known], [float(line[name]) for line in known]


def read(workdir: str) -> Contents:
    """Reads a run.

    Raises:
      RunError: when the folder holds no run, or one that this version cannot open.
    """
    config = record.load(workdir)
    folder, notes = Path(workdir), list[str]()
    return Contents(
        name=folder.absolute().name,
        record=record.read(workdir) or {},
        config=config,
        lines=_lines(folder / "metrics.jsonl", notes),
        pictures=_samples(folder / "samples", notes),
        evaluations=_evaluations(folder / "evaluations", notes),
        notes=notes,
    )


def _lines(path: Path, notes: list[str]) -> list[dict[str, float]]:
    if not path.exists():
        return []
    try:
        raw = content(path, MOST_LOG).splitlines()
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be read ({error})")
        return []
    lines, damaged = [], 0
    for line in raw:
        try:
            found = json.loads(line)
            damaged += not (isinstance(found, dict) and type(found.get("step")) is int)
        except (ValueError, RecursionError):
            found = None
            damaged += 1
        if isinstance(found, dict) and type(found.get("step")) is int:
            lines.append(found)
    if damaged:
        notes.append(f"{path}: {damaged} lines cannot be read")
    return lines


def _samples(folder: Path, notes: list[str]) -> list[Picture]:
    named = {path: re.fullmatch(r"(\d+)(_strip)?", path.stem) for path in folder.glob("*.png")}
    steps = {path: (int(found[1]), bool(found[2])) for path, found in named.items() if found}
    grids = sorted((step, path) for path, (step, strip) in steps.items() if not strip)
    strips = sorted((step, path) for path, (step, strip) in steps.items() if strip)
    if len(grids) > MOST_GRIDS:
        last = len(grids) - 1
        grids = [grids[round(i * last / (MOST_GRIDS - 1))] for i in range(MOST_GRIDS)]
    titles = [(path, f"Samples of step {step:,}") for step, path in grids]
    titles += [(path, f"From noise to image, step {step:,}") for step, path in strips[-1:]]
    return [one for path, title in titles if (one := _picture(path, title, notes))]


def _picture(path: Path, title: str, notes: list[str]) -> Picture | None:
    try:
        png = content(path, MOST_PICTURE)
        if not png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("it is no PNG")
    except (OSError, ValueError) as error:
        notes.append(f"{path} cannot be shown ({error})")
        return None
    return Picture(title, png)


def _evaluations(folder: Path, notes: list[str]) -> list[Evaluation]:
    found = []
    for path in folder.glob("*.json"):
        try:
            found.append(_evaluation(path, read_record(path), notes))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            notes.append(f"{path} is no record of an evaluation ({error})")
    return sorted(found, key=lambda one: one.date)[-MOST_EVALUATIONS:]


def _evaluation(path: Path, found: dict[str, Any], notes: list[str]) -> Evaluation:
    run, sampler, samples = found["run"], found.get("sampler"), found.get("samples") or {}
    title = f"step {run['checkpoint']}, {run['weights']} weights"
    if sampler:
        eta = f", eta = {sampler['eta']:g}" if sampler["method"] == "ddim" else ""
        title += f": {sampler['method']}, {sampler['steps']} steps{eta}"
    elif samples:
        title += f": {samples['from']}"
    if samples:
        title += f"; {samples['num']:,} images"
    metrics = []
    for name, metric in found["metrics"].items():
        if isinstance(metric, dict) and isinstance(metric.get("value"), (int, float)):
            details = [f"{k}: {v:.4g}" for k, v in metric.items() if _is_number(k, v)]
            metrics.append((name, float(metric["value"]), ", ".join(details)))
    named = {one.stem.removeprefix(path.stem + "-"): one for one in _beside(path)}
    pictures = [_picture(one, name, notes) for name, one in sorted(named.items())]
    shown = [picture for picture in pictures if picture]
    told = [str(note) for note in found.get("notes") or []]
    return Evaluation(title, metrics, shown, told, str(found.get("date", "")))


def _beside(path: Path) -> list[Path]:
    """The pictures of a record."""
    return [one for one in path.parent.glob("*.png") if one.stem.startswith(path.stem + "-")]


def _is_number(name: str, value: Any) -> bool:
    return name != "value" and type(value) in (int, float)
