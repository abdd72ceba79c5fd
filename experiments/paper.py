"""python -m experiments.paper --workdir DIR [--out DIR] [--num N] [--max-steps S] ...

Reproduces the DDIM paper's tables and figures for a trained run: DIR/paper/report.md with its
pictures, and all numbers in DIR/paper/report.json. Every cell of table 1, and every other result,
is saved as soon as it is done, so the same command resumes where it was stopped.

With the defaults, the `demo` run takes about 30 minutes on two CPU cores, two thirds of it for
S = T; with --max-steps 100 it takes about 10. The paper's own setting is --num 50000
--network inception --network-weights FILE, with --spacing quadratic for CIFAR10.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from experiments.evaluation import images
from experiments.evaluation.features import loading
from experiments.reproduction import (
    consistency,
    findings,
    interpolation,
    ode,
    quality,
    reconstruction,
    texts,
    timing,
)
from experiments.reproduction.study import Spacing, Study
from experiments.terminal import checks, cli
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, save_json, save_text
from experiments.terminal.progress import stage
from jaxddim.runs import record as records
from jaxddim.runs.config import Clip
from jaxddim.runs.flat import finite
from jaxddim.runs.opened import load_run

FEWEST = 4  # samples: enough for two blocks of KID


class Part(NamedTuple):
    """A part of the report.

    Attributes:
      title: its heading.
      measure: ``measure(study)`` returns its numbers and draws its pictures.
      lines: ``lines(numbers)`` returns its lines of Markdown.
    """

    title: str
    measure: Callable[[Study], dict[str, Any]]
    lines: Callable[[dict[str, Any]], list[str]]


PARTS = {
    "table1": Part("Table 1: quality over eta and S", quality.measure, findings.lines),
    "figure4": Part("Figure 4: time, and what DDIM saves", timing.measure, timing.lines),
    "figure5": Part("Figure 5: consistency", consistency.measure, consistency.lines),
    "figure6": Part(
        "Figures 6 and 11-13: interpolation", interpolation.measure, interpolation.lines
    ),
    "table2": Part("Table 2: reconstruction", reconstruction.measure, reconstruction.lines),
    "ode": Part("Equations 13-14: the ODE", ode.measure, ode.lines),
}
"""Every part, in the order of the report."""


@dataclass(frozen=True)
class PaperConfig:
    """Reproduce the DDIM paper's tables and figures for a trained run.

    For a run of demo it takes about 30 minutes on two cores, and 10 with --max-steps 100.
    """

    workdir: str = ""
    """Folder of the run."""
    out: str | None = None
    """DIR for the report and its saved results; by default paper in the run's folder."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Parts of the report: table1, figure4, figure5, figure6, table2, ode."""
    num: int = 64
    """Samples for each cell of table 1; the paper uses 50000."""
    num_encoded: int = 4
    """Largest number of held-out images to encode and decode for table 2."""
    max_steps: int | None = None
    """Largest S; by default T."""
    spacing: Spacing = "linear"
    """How the sampling times are spread over the training times."""
    seed: int = 0
    """Seed of all noise and of the KID blocks."""
    checkpoint: str = "latest"
    """latest, best or a step."""
    weights: Literal["ema", "raw"] = "ema"
    """Averaged or last weights."""
    ema: float | None = None
    """Length of the average of the weights, as a share of the training, for runs that keep them."""
    clip: Clip = "rederive"
    """x_0 clipped with eps derived anew, or with the network's eps; thresholded; or as it is."""
    network: Literal["efficientnet-lite0", "inception"] = "efficientnet-lite0"
    """The feature network."""
    network_weights: str | None = None
    """FILE.pth or FILE.safetensors with the weights of inception."""
    data: images.Places = field(default_factory=images.Places)


def paper(config: PaperConfig) -> None:
    """Measures what has not been saved yet, and writes the report.

    Raises:
      RunError: for a folder without a run, or one whose images are others now.
      UserError: for missing images, invalid settings, missing weights, or a folder that cannot be
        written to.
    """
    began = time.perf_counter()
    check(config)
    study = open_study(config)
    try:
        parts = {name: PARTS[name].measure(study) for name in config.parts}
        record = describe(config, study) | {"parts": parts}
        record["seconds"] = round(time.perf_counter() - began, 1)
        save_json(study.folder / "report.json", record)
        save_text(study.folder / "report.md", markdown(record))
    except OSError as error:
        raise UserError(f"--out {study.folder} cannot be written to ({error.strerror})") from None
    print(f"{study.folder / 'report.md'}: {', '.join(parts)}")


def check(config: PaperConfig) -> None:
    """Raises a UserError for invalid settings."""
    checks.check_numbers(config, "num", "num_encoded", "max_steps")
    if config.num < FEWEST:
        raise UserError(f"--num must be at least {FEWEST}, got {config.num}")
    if not config.parts:
        raise UserError(f"--parts is empty; expected some of {', '.join(PARTS)}")
    for name in config.parts:
        if name not in PARTS:
            raise UserError(f"unknown part {name!r} in --parts{cli.nearest(name, PARTS)}")


def open_study(config: PaperConfig) -> Study:
    """The run with everything that the parts need."""
    with stage("restoring the network", wait=True):
        run = load_run(config.workdir, config.checkpoint, config.weights, config.clip, config.ema)
    T = run.schedule.num_steps
    if (config.max_steps or 1) > T:
        raise UserError(f"--max-steps must be at most T = {T}, got {config.max_steps}")
    with stage("loading the feature network", wait=True):
        network = loading.load(config.network, config.network_weights)
    with stage("finding the images", wait=True, spinner=False):
        splits = images.splits(config.workdir, config.data)
    if "table2" in config.parts and not len(splits.images["holdout"]):
        raise UserError(
            "the run has no held-out images for table2 to reconstruct: leave table2 out of --parts"
        )
    folder = located(config.out) if config.out else Path(config.workdir) / "paper"
    checks.make_folder(folder)
    return Study(
        run,
        splits,
        network,
        num=config.num,
        num_encoded=config.num_encoded,
        max_steps=config.max_steps or T,
        spacing=config.spacing,
        seed=config.seed,
        folder=folder,
    )


def describe(config: PaperConfig, study: Study) -> dict[str, Any]:
    """The settings, run, images and versions that the report is about."""
    run = study.run
    return {
        "config": dataclasses.asdict(config) | {"data": images.absolute_places(config.data)},
        "run": {"name": run.config.config, "T": run.schedule.num_steps} | study.model,
        "data": {
            "source": study.splits.source,
            **{name: len(study.splits.images[name]) for name in ("train", "holdout")},
        },
        "features": study.features_recipe,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": records.versions(),
        "device": f"{jax.default_backend()}: {jax.local_devices()[0].device_kind}",
    }


def markdown(record: dict[str, Any]) -> str:
    """The whole report, from its record alone."""
    run, data, versions = record["run"], record["data"], record["versions"]
    schedule, kind = run["diffusion.schedule"], run["diffusion.kind"]
    features = record["features"]
    sha256 = run["weights_sha256"]
    told = [
        "# The DDIM paper on this run",
        "",
        "Written by `python -m experiments.paper`; every number and every sentence that judges one "
        "comes from `report.json`. The paper is [arXiv 2010.02502]"
        "(https://arxiv.org/abs/2010.02502).",
        "",
    ]
    told += texts.table(
        ["run", ""],
        [
            ["configuration", f"`{run['name']}`, {run['model.name']}, {data['source']} images"],
            ["images", f"{data['train']} for training, {data['holdout']} held out"],
            [
                "weights",
                f"{record['config']['weights']} of step {run['checkpoint']}, {sha256[:12]}",
            ],
            ["diffusion", f"{schedule} schedule, T = {run['T']}, {kind}-prediction"],
            ["features", f"{features['network']}, {features['resize']}"],
            ["noise", f"seed {record['config']['seed']}"],
            ["made with", f"jaxddim {versions['jaxddim']}, jax {versions['jax']}"],
            ["on", f"{record['device']}, {record['date'][:10]}"],
        ],
    )
    for name, numbers in texts.numbers(finite(record["parts"])).items():
        told += [f"## {PARTS[name].title}", "", *PARTS[name].lines(numbers)]
    return "\n".join(told).rstrip() + "\n"


if __name__ == "__main__":
    cli.run(paper, PaperConfig)
