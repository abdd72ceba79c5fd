"""python -m experiments.export --workdir DIR --out FILE [--steps 50] [--batch N|any] ...

Writes a run's whole sampler, weights included, as one file that needs jax and flatbuffers alone, on
CPU, GPU and TPU. The file is `jax.export`'s: a function of a seed and the index of the first image
that returns uint8 images, the same as those of experiments.sample.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.terminal import cli
from experiments.terminal.checks import check_numbers, check_step, make_folder
from experiments.terminal.errors import UserError
from experiments.terminal.files import located, replace, save_arrays
from experiments.terminal.progress import stage
from jaxddim.export import exported, named
from jaxddim.runs.drawing import chunk_size
from jaxddim.runs.methods import SOLVERS, DrawConfig, evaluations
from jaxddim.runs.opened import load_run


@dataclass(frozen=True)
class ExportConfig(DrawConfig):
    """Write a run's sampler as one file.

    It takes seconds on two cores.
    """

    out: str = ""
    """File to write, such as sampler.jaxexport."""
    batch: str = ""
    """Images a call, or any; by default as many as experiments.sample computes at a time."""
    weights: Literal["ema", "raw", "beside"] = "ema"  # pyrefly: ignore[bad-override]
    """ema: averaged weights; raw: last weights; beside: averaged weights, in FILE.npz, which the
    function takes first."""
    input: Literal["seed", "noise"] = "seed"
    """noise: the first argument is x_T instead of a seed."""


def write(config: ExportConfig) -> None:
    """Writes the file.

    Raises:
      RunError: for a folder without a run, a missing checkpoint or an impossible grid.
      UserError: for an invalid batch, or an --out that cannot be written to.
    """
    check_numbers(config, "steps")
    check_step(config)
    if not config.out:
        raise UserError("--out is missing: name a file, such as sampler.jaxexport")
    if config.label is not None:
        raise UserError("--label: the file takes the labels as its last input; leave it out")
    if config.batch not in ("", "any") and not (config.batch.isdecimal() and int(config.batch)):
        raise UserError(f"--batch {config.batch}: expected a number of images, or any")
    out, beside = located(config.out), config.weights == "beside"
    make_folder(out.parent)
    with stage("restoring the network", wait=True):
        weights = "ema" if beside else config.weights
        run = load_run(config.workdir, config.checkpoint, weights, config.clip, config.ema)
        if config.guidance != 1 and run.config.model.num_classes is None:
            raise UserError(f"--guidance: {config.workdir} has not learned labels: leave it out")
        batch = int(config.batch) if config.batch.isdecimal() else chunk_size(run)
    with stage("lowering the sampler for CPU, GPU and TPU", wait=True):
        function = exported(
            config,
            run,
            None if config.batch == "any" else batch,
            from_noise=config.input == "noise",
            beside=beside,
        )
        content = function.serialize()
    files = [out]
    try:
        replace(out, lambda file: file.write(content))
        if beside:
            files.append(out.with_name(f"{out.name}.npz"))
            save_arrays(files[1], **named(run))
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror})") from None
    last = 2 + (run.config.model.num_classes is not None)
    told = function.in_avals[-last:]  # all but the weights
    inputs = ", ".join(f"{a.dtype}[{', '.join(map(str, a.shape))}]" for a in told)
    sizes = " and ".join(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" for path in files)
    cost = f", {evaluations(config)} evaluations" if config.method in SOLVERS else ""
    print(f"{sizes}: ({'weights, ' * beside}{inputs}) -> {function.out_avals[0]}{cost}")


if __name__ == "__main__":
    cli.run(write, ExportConfig)
