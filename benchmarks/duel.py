"""python -m benchmarks.duel --path DIR --workdir DIR [--minutes 60] [--config cars64]

For as many minutes by the clock on the same machine and images: this project's trainer against
diffusers' own example of unconditional training. They train by turns, so that both see the same
noise of the machine; a turn is a process that starts, goes on from its last save and saves again,
all of it on its clock. Then each draws samples with its averaged weights by 50 steps of DDIM, and
`experiments.evaluate --samples` measures both against the same training images.

Before, each trains for a minute that does not count, which tells how many steps will fit: both
lower the learning rate to the end. The same command goes on where it was stopped. The result is in
WORKDIR/duel.json.
"""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import data
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from experiments.terminal.files import save_json
from jaxddim.runs.config import DataConfig

OURS, PEER = "jaxddim", "diffusers"
MARGIN = 0.96
"""Of the steps that the trial promises: starts, saves and validation take their part."""


@dataclass(frozen=True)
class DuelConfig:
    """Train this project and diffusers' example for the same minutes, and compare their samples."""

    path: str = ""
    """Folder of the images."""
    workdir: str = ""
    """Folder of the duel."""
    minutes: float = 60.0
    """Minutes that each trains."""
    turn: float = 10.0
    """Minutes of a turn."""
    trial: float = 1.0
    """Minutes of the trial that tells how many steps fit."""
    config: str = "cars64"
    """This project's configuration."""
    image_size: int = 32
    """Side of the images in pixels."""
    widths: str = "32,64,128,128"
    """Channels of diffusers' UNet2DModel at each size, multiples of 32."""
    batch: int = 16
    """Images per step of diffusers; 16 is the example's."""
    num: int = 2000
    """Samples that are compared."""
    steps: int = 50
    """DDIM steps."""


def main(config: DuelConfig) -> None:
    """Trains, draws and compares; whatever is done is kept."""
    if not config.path or not config.workdir:
        raise UserError("--path (the images) and --workdir (for the duel) are needed")
    folder = Path(config.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    images = training_images(config, folder)
    progress = read(folder)
    for name in (OURS, PEER):
        if name not in progress["steps"]:
            progress["steps"][name] = fitting(config, folder, images, name)
            write(folder, progress)
    while True:
        used = progress["seconds"]
        name = min((OURS, PEER), key=lambda name: used[name])
        left = 60 * config.minutes - used[name]
        if left < 5:
            break
        command = training(config, folder, images, name, progress["steps"][name])
        spent, last, ended = turn(command, min(left, 60 * config.turn))
        used[name] += spent
        if ended:  # all its steps are done: it has no use for what is left
            progress["finished"][name] = used[name]
            used[name] = max(used[name], 60 * config.minutes)
        print(f"{name}: {used[name] / 60:.1f} minutes, {last}", flush=True)
        write(folder, progress)
    progress["results"] = {name: score(config, folder, name) for name in (OURS, PEER)}
    ours, theirs = (fd(progress["results"][name]) for name in (OURS, PEER))
    progress["ratio"] = ours / theirs
    write(folder, progress)
    print(f"FD {ours:.1f} against {theirs:.1f}: a ratio of {ours / theirs:.2f}")


def training_images(config: DuelConfig, folder: Path) -> Path:
    """The images that this project trains on, as an array for the peer."""
    path = folder / "images.npy"
    if not path.exists():
        found = DataConfig(source="folder", path=config.path, image_size=config.image_size)
        train_set, _ = data.split(data.load(found), found.holdout)
        np.save(path, np.asarray(train_set.images))
    return path


def training(
    config: DuelConfig, folder: Path, images: Path, name: str, steps: int, where: str = ""
) -> list[str]:
    """The command that trains a contender to this step."""
    own = folder / f"{name}{where}"
    if name == PEER:
        module = "benchmarks.contenders.diffusers_training"
        told = ["train", images, f"{own}.pt", steps, config.batch, config.widths]
    else:
        module = "experiments.train"
        told = ["--workdir", own, "--config", config.config, "--data.source", "folder"]
        told += ["--data.path", config.path, "--data.image-size", config.image_size]
        if config.config == "cars64":  # its own levels are for 64x64
            told += ["--diffusion.levels-mean", -0.6, "--diffusion.levels-std", 0.8]
        told += ["--train.steps", steps, "--optim.decay-steps", steps]
        told += ["--train.checkpoint-every", steps, "--train.sample-every", steps]
        told += ["--train.log-every", 10]
    return [sys.executable, "-m", module, *map(str, told)]


def turn(command: list[str], seconds: float) -> tuple[float, str, bool]:
    """Runs a trainer for a while: seconds until it has saved, its last line, whether it ended."""
    began = time.perf_counter()
    last = "nothing said"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = False
        for line in process.stdout:
            last = line.strip() if re.search(r"step \d+ \|", line) else last
            if time.perf_counter() - began > seconds and not told:
                process.send_signal(signal.SIGTERM)
                told = True
    if process.returncode not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
        raise UserError(f"{' '.join(command)} ended with code {process.returncode}")
    return time.perf_counter() - began, last, not told


def fitting(config: DuelConfig, folder: Path, images: Path, name: str) -> int:
    """Steps that fit into the minutes, from a trial that does not count."""
    command = training(config, folder, images, name, 10**6, where="-trial")
    rates = []
    batch = config.batch
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        began = None
        for line in process.stdout:
            if found := re.search(r"steps of (\d+) images", line):
                batch = int(found[1])
            if found := re.search(r"step \d+ \| .* ([\d.]+) images/s", line):
                began = began or time.perf_counter()
                rates.append(float(found[1]))
            if began and time.perf_counter() - began > 60 * config.trial:
                process.kill()
                break
    rate = float(np.median(rates[1:] or rates))
    steps = int(60 * config.minutes * MARGIN * rate / batch)
    print(f"{name}: {rate:.1f} images/s in the trial: {steps} steps of {batch}", flush=True)
    return steps


def score(config: DuelConfig, folder: Path, name: str) -> dict[str, Any]:
    """The metrics of a contender's samples."""
    samples, record = folder / f"{name}.npz", folder / f"{name}.json"
    if not samples.exists():
        if name == PEER:
            module = "benchmarks.contenders.diffusers_training"
            told = ["sample", folder / f"{name}.pt", config.num, config.steps, samples]
        else:
            module = "experiments.sample"
            told = ["--workdir", folder / name, "--num", config.num, "--steps", config.steps]
            told += ["--out", samples]
        subprocess.run([sys.executable, "-m", module, *map(str, told)], check=True)
    told = ["--workdir", folder / OURS, "--samples", samples, "--out", record]
    told += ["--metrics", "frechet", "kid", "precision_recall", "appearance"]
    command = [sys.executable, "-m", "experiments.evaluate", *map(str, told)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(record.read_text())["metrics"]


def fd(metrics: dict[str, Any]) -> float:
    """The Frechet distance of a record."""
    return next(found["value"] for name, found in metrics.items() if name.startswith("FD"))


def read(folder: Path) -> dict[str, Any]:
    """How far the duel is."""
    path = folder / "duel.json"
    if path.exists():
        return json.loads(path.read_text())
    return {"steps": {}, "seconds": {OURS: 0.0, PEER: 0.0}, "finished": {}}


def write(folder: Path, progress: dict[str, Any]) -> None:
    save_json(folder / "duel.json", progress)


if __name__ == "__main__":
    cli.run(main, DuelConfig)
