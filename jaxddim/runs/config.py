"""Every setting of a run, and the named configurations.

A run is described by one frozen `Config`; the command line changes single fields of a
named one (``--config demo --optim.learning-rate 1e-4``). Fields in `MAY_DIFFER` do not
change what was computed so far, so a run may be resumed with other values of them.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class DataConfig:
    """Which images to train on."""

    source: Literal["auto", "cars196", "cifar10", "folder", "rendered"] = "auto"
    """auto: Stanford Cars when they are on this machine, else rendered cars."""
    path: str | None = None
    """Folder of images (folder), or of hand-placed archives (cars196, cifar10)."""
    image_size: int = 64
    """Images are resized to this many pixels a side."""
    flip: bool = True
    """Mirror each image with probability 1/2."""
    num_images: int | None = None
    """Use at most this many; how many the rendered source draws (4096 when not given)."""
    classes: tuple[str, ...] = ()
    """Use only these classes, e.g. automobile of cifar10."""
    holdout: int = 128
    """Images kept out of training for the validation loss (at most a tenth of all)."""
    data_dir: str | None = None
    """TFDS data folder; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    cache_dir: str | None = None
    """Where resized images are cached; by default jaxddim in the user's cache folder."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: Literal["simple_unet", "unet"] = "unet"
    """simple_unet: the seed's; unet: that of DDPM and DDIM."""
    channels: int = 128
    """Width at full size."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each level, as a multiple of channels."""
    num_blocks: int = 2
    """Residual blocks a level (unet)."""
    attention: tuple[int, ...] = (16,)
    """Feature sizes with attention (unet)."""
    dropout: float = 0.1
    """Dropout rate (unet)."""
    groups: int = 32
    """Groups of the normalisation (unet)."""
    patch: int = 1
    """Enter and leave the network through squares of this many pixels a side (unet)."""
    remat: bool = False
    """Recompute activations in the backward pass to save memory (unet)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters, loss and tables stay float32."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise and what is learned about it."""

    schedule: Literal[
        "linear", "scaled_linear", "quadratic", "const", "jsd", "sigmoid", "cosine"
    ] = "linear"
    """Noise schedule."""
    num_steps: int = 1000
    """T, the number of noise levels."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that nothing is left of the image at T."""
    kind: Literal["eps", "x0", "v", "score"] = "eps"
    """What the network predicts."""
    norm: Literal["l1", "l2", "huber"] = "l2"
    """Distance between prediction and target."""
    weighting: Literal["none", "min_snr", "p2"] = "none"
    """Weight of each noise level in the loss."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam and the averaged weights."""

    learning_rate: float = 2e-4
    """Learning rate after warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = 0
    """Step at which the learning rate has fallen to a hundredth, along a cosine; 0: constant."""
    clip: float = 1.0
    """Largest gradient norm (of the mean loss); 0 switches clipping off."""
    ema: float = 0.9999
    """Decay that the weights' running average warms up to."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, and what is written on the way."""

    steps: int | None = None
    """Train for this many steps."""
    epochs: int | None = None
    """Train for this many passes over the images, instead of a number of steps."""
    batch_size: int = 128
    """Images a step, over all devices."""
    accumulate: int = 1
    """Parts that a batch goes through the network in, to save memory."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, each with a validation loss; an epoch when not given."""
    sample_every: int | None = None
    """Steps between sample grids; an epoch when not given."""
    keep: int = 2
    """Latest checkpoints to keep, besides the best."""
    num_samples: int = 16
    """Images in a sample grid."""
    sample_steps: int = 50
    """DDIM steps for the grid and the strip."""


@dataclass(frozen=True)
class Config:
    """A run. Start it again with the same command and it resumes."""

    workdir: str = ""
    """Folder of the run."""
    config: str = "cars"
    """Named configuration to start from: cars, cars_unet, cifar10, demo or tiny."""
    seed: int = 0
    """Of weights, noise and the order of images."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: LoopConfig = field(default_factory=LoopConfig)


def cars() -> Config:
    """The seed's experiment: SimpleUNet at 64x64, L1 loss, Adam 8e-5, batch 32, 250 epochs.

    python -m experiments.train --workdir runs/cars

    With Stanford Cars 250 epochs are 125,000 steps: hours on a GPU, not meant for a CPU.
    """
    return Config(
        config="cars",
        model=ModelConfig(name="simple_unet", channels=64, multipliers=(1, 2, 4, 8, 16)),
        diffusion=DiffusionConfig(norm="l1"),
        optim=OptimConfig(learning_rate=8e-5, clip=0.0, ema=0.999),
        train=LoopConfig(epochs=250, batch_size=32),
    )


def cars_unet() -> Config:
    """The DDIM paper's CelebA set-up on cars: UNet 128 / 1,2,2,2,4, L2 loss, Adam 2e-4.

    python -m experiments.train --workdir runs/cars_unet --config cars_unet

    500,000 steps were the paper's; days on one GPU.
    """
    return Config(
        config="cars_unet",
        model=ModelConfig(multipliers=(1, 2, 2, 2, 4)),
        optim=OptimConfig(warmup_steps=5000),
        train=LoopConfig(steps=500_000, checkpoint_every=5000, sample_every=5000, num_samples=64),
    )


def cifar10() -> Config:
    """The DDIM paper's CIFAR10 set-up: UNet 128 / 1,2,2,2 at 32x32, L2 loss, Adam 2e-4.

    python -m experiments.train --workdir runs/cifar10 --config cifar10

    The paper reports FID 4.04 after 800,000 steps (T = 1000, eta = 0, S = 1000).
    """
    return Config(
        config="cifar10",
        data=DataConfig(source="cifar10", image_size=32),
        optim=OptimConfig(warmup_steps=5000),
        train=LoopConfig(steps=800_000, checkpoint_every=5000, sample_every=5000, num_samples=64),
    )


def demo() -> Config:
    """A small UNet on 32x32 rendered cars: minutes on two processor cores.

    python -m experiments.train --workdir runs/demo --config demo
    """
    return Config(
        config="demo",
        data=DataConfig(source="rendered", image_size=32),
        model=ModelConfig(
            channels=64, multipliers=(1, 2, 2), num_blocks=1, attention=(8,), dropout=0.0, patch=2
        ),
        diffusion=DiffusionConfig(schedule="cosine", kind="v"),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100, decay_steps=1800, ema=0.999),
        train=LoopConfig(
            steps=1800, batch_size=32, checkpoint_every=600, sample_every=600, num_samples=64
        ),
    )


def tiny() -> Config:
    """A toy for tests: seconds, and no more than that to be expected of its images.

    python -m experiments.train --workdir runs/tiny --config tiny
    """
    return Config(
        config="tiny",
        data=DataConfig(source="rendered", image_size=16, num_images=64),
        model=ModelConfig(
            channels=8, multipliers=(1, 2), num_blocks=1, attention=(), groups=4, dropout=0.0
        ),
        diffusion=DiffusionConfig(schedule="cosine"),
        optim=OptimConfig(learning_rate=1e-3, ema=0.99),
        train=LoopConfig(
            steps=20, batch_size=8, log_every=5, checkpoint_every=10, num_samples=4, sample_steps=5
        ),
    )


PRESETS = {preset.__name__: preset for preset in (cars, cars_unet, cifar10, demo, tiny)}

MAY_DIFFER = {
    "workdir",
    "data.path",
    "data.data_dir",
    "data.cache_dir",
    "model.remat",
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.checkpoint_every",
    "train.sample_every",
    "train.keep",
    "train.num_samples",
    "train.sample_steps",
}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"seed": 0, "data.source": "auto", ...}, values as JSON would give them back."""
    flat = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = list(value) if isinstance(value, tuple) else value
    return flat


def from_flat(flat: dict[str, Any]) -> Config:
    """The inverse of `flatten`; fields that are missing keep their defaults."""

    def build(kind: type, prefix: str) -> Any:
        values = {}
        for f in fields(kind):
            name = prefix + f.name
            default = f.default_factory() if callable(f.default_factory) else f.default
            if is_dataclass(default):
                values[f.name] = build(type(default), name + ".")
            elif name in flat:
                value = flat[name]
                values[f.name] = tuple(value) if isinstance(value, list) else value
        return kind(**values)

    return build(Config, "")
