"""python -m experiments.convert --from FILE|DIR --workdir DIR            foreign weights -> a run
python -m experiments.convert --to diffusers|ddim|seed --workdir DIR --out DIR|FILE    and back
python -m experiments.convert --from FILE|DIR --check                    compare with diffusers

What a file is, is found out from its content: the seed's weights/N.pth, a checkpoint of the
official DDIM code (or of the DDPM models converted for it), or a folder of diffusers' UNet2DModel.
Nothing in a file is executed. The run that is made can be sampled, evaluated and trained further.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from experiments.conversion import incoming, outgoing, parity
from experiments.terminal import cli
from experiments.terminal.errors import UserError
from jaxddim.runs.config import DataConfig, ImageSize, OptimConfig


@dataclass(frozen=True)
class Schedule:
    """The schedule that foreign weights were trained with, where they do not say it."""

    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] | None = None
    """Noise schedule."""
    num_steps: int = 1000
    """T, the number of noise levels."""
    beta_start: float | None = None
    """First beta; the schedule's own if not given."""
    beta_end: float | None = None
    """Last beta, likewise."""
    zero_terminal_snr: bool = False
    """Rescaled so that x_T is pure noise."""
    kind: Literal["eps", "x0", "v"] = "eps"
    """What the network predicts."""


@dataclass(frozen=True)
class Optimizer(OptimConfig):
    """The optimizer of further training: Adam goes on from the file's state, if it has one."""

    learning_rate: float | None = None  # pyrefly: ignore[bad-override]
    """Learning rate; that of the file, or else 2e-4."""


@dataclass(frozen=True)
class ConvertConfig:
    """Make a run of weights from elsewhere, or give a run's weights away.

    It takes seconds.
    """

    from_: Annotated[str, tyro.conf.arg(name="from")] = ""
    """File or folder of foreign weights."""
    workdir: str = ""
    """Folder of the run: a new one with --from, an existing one with --to."""
    to: Literal["", "diffusers", "ddim", "seed"] = ""
    """Format to write: a folder that DDIMPipeline.from_pretrained loads, the official code's list,
    or the seed's dictionary."""
    out: str = ""
    """Folder (diffusers) or file (ddim, seed) to write."""
    check: bool = False
    """Sample some images here and with diffusers from the same noise, and compare them."""
    image_size: ImageSize | None = None
    """Size of the images it was trained on, where the weights do not say it."""
    dropout: float = 0.0
    """Dropout to train on with, where the weights do not say it."""
    checkpoint: str = "latest"
    """Checkpoint to give away: latest, best or a step (--to)."""
    weights: Literal["ema", "raw"] = "ema"
    """Which of a run's weights diffusers gets (--to diffusers)."""
    num: int = 4
    """Images to compare (--check)."""
    steps: int = 20
    """DDIM steps to compare after; they must divide T (--check)."""
    diffusion: Schedule = field(default_factory=Schedule)
    optim: Optimizer = field(default_factory=Optimizer)
    data: DataConfig = field(default_factory=DataConfig)


def convert(config: ConvertConfig) -> None:
    """Converts in the direction that the flags say.

    Raises:
      UserError: for flags that do not go together, or files that cannot be converted.
      RunError: for a workdir that holds no run, or holds one already.
    """
    if bool(config.from_) == bool(config.to):
        raise UserError("give --from FILE|DIR to make a run, or --to FORMAT to give one away")
    if config.to and config.check:
        raise UserError("--check belongs to --from: convert the run, then check what was written")
    if config.to:
        outgoing.convert(config)
    elif config.check:
        parity.check(config)
    else:
        incoming.convert(config)


if __name__ == "__main__":
    cli.run(convert, ConvertConfig)
