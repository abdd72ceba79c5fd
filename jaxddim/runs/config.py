"""Every setting of a run.

A run is described by one frozen `Config`; the command line changes single fields of a
named one (``--config demo --optim.learning-rate 1e-4``). Fields in `MAY_DIFFER` do not
change what was computed so far, so a run may be resumed with other values.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

ImageSize = int | tuple[int, int]
"""The side of a square in pixels, or (height, width)."""
Clip = Literal["rederive", "keep", "dynamic", "none"]
"""What sampling does to x_0, see `jaxddim.load_run`."""
MOST_STEPS = 1_000_000
"""The largest T."""


class Classes(NamedTuple):
    """The classes of a run's images.

    Attributes:
      names: their names.
      counts: how many images of each were trained on.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class DataConfig:
    """Which images to train on."""

    source: Literal["auto", "cars196", "cifar10", "folder", "rendered"] = "auto"
    """auto: Stanford Cars if present on this machine, else rendered cars."""
    path: str | None = None
    """Folder of images (folder), or of archives placed there by hand (cars196, cifar10)."""
    image_size: ImageSize = 64
    """Height and width in pixels that pictures are squeezed to: 64, or HEIGHTxWIDTH as 48x64."""
    channels: Literal[1, 3] = 3
    """3: RGB; 1: grey."""
    flip: bool = True
    """Mirror each image with probability 1/2."""
    num_images: int | None = None
    """Use at most this many images; for rendered, how many to draw (4096 if not given)."""
    classes: tuple[str, ...] = ()
    """Use only these classes, e.g. automobile of cifar10."""
    holdout: int = 128
    """Images held out for the validation loss (at most a tenth of all)."""
    data_dir: str | None = None
    """TFDS data folder; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    cache_dir: str | None = None
    """Folder for resized images; by default jaxddim in the user's cache folder."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, self.channels


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: Literal["simple_unet", "unet", "dit"] = "unet"
    """simple_unet: the seed's network; unet: the UNet of DDPM and DDIM; dit: a transformer."""
    channels: int = 128
    """Channels at full resolution; width of a token (dit)."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels at each resolution, as multiples of model.channels."""
    num_blocks: int = 2
    """Residual blocks per resolution (unet); blocks in all (dit)."""
    attention: tuple[int, ...] = (16,)
    """Resolutions with attention, in pixels (unet)."""
    dropout: float = 0.1
    """Dropout rate (unet)."""
    groups: int = 32
    """Groups of GroupNorm (unet)."""
    patch: int = 1
    """Side in pixels of the patches at the network's input and output (unet, dit)."""
    epsilon: float = 1e-6
    """What GroupNorm adds to the variance (unet)."""
    head_dim: int | None = None
    """Channels of a head of attention; if not given one head (unet), or heads of 64 (dit)."""
    freq_shift: Literal[0, 1] = 1
    """Shift of the frequencies of the time embedding (unet)."""
    downsample_padding: Literal[0, 1] = 0
    """Where a size is halved, pad below and to the right (0) or on all sides (1) (unet)."""
    labels: bool = False
    """Learn the images' labels too, so that a label can be drawn (unet, dit)."""
    num_classes: int | None = None
    """How many labels there are; found out from the images, or imported with a network."""
    remat: bool = False
    """Recompute activations in the backward pass to save memory (unet, dit)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the network; parameters, loss and tables stay float32."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule and the loss."""

    schedule: Literal[
        "linear", "scaled_linear", "quadratic", "const", "jsd", "sigmoid", "cosine"
    ] = "linear"
    """Noise schedule."""
    num_steps: int = 1000
    """T, the number of noise levels."""
    beta_start: float | None = None
    """First beta, for schedules that have one; the schedule's own if not given."""
    beta_end: float | None = None
    """Last beta, likewise."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that x_T is pure noise."""
    kind: Literal["eps", "x0", "v", "score"] = "eps"
    """What the network predicts."""
    norm: Literal["l1", "l2", "huber"] = "l2"
    """Distance between prediction and target."""
    weighting: Literal["none", "min_snr", "p2"] = "none"
    """Weighting of the noise levels in the loss."""
    precondition: Literal["none", "gaussian"] = "none"
    """gaussian: the network learns what Gaussian images of the same spectrum lack (needs x0)."""
    levels: Literal["uniform", "lognormal"] = "uniform"
    """How often each noise level is trained: t uniform, or log(sigma / alpha) normal."""
    levels_mean: float = -0.5
    """Mean of log(sigma / alpha), from the images' own deviation if preconditioned (lognormal)."""
    levels_std: float = 1.2
    """Deviation of log(sigma / alpha) (lognormal)."""
    variance: Literal["fixed", "learned"] = "fixed"
    """learned: the network says the variance of DDPM's step too (sample --variance learned)."""

    @property
    def learned_variance(self) -> bool:
        """Whether the network has twice the channels, the second half for the variance."""
        return self.variance == "learned"


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, and the running average of the weights."""

    name: Literal["adam", "muon"] = "adam"
    """muon: Muon for the kernels between the first and the last layer, Adam for all else."""
    learning_rate: float = 2e-4
    """Learning rate after warm-up."""
    muon_rate: float = 5e-3
    """Learning rate of Muon's part; a matrix changes by 0.2 of it a step, per entry (muon)."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    decay_steps: int = 0
    """Step at which a cosine decay to a hundredth of the learning rate ends; 0: no decay."""
    clip: float = 1.0
    """Clip the gradient of the mean loss to this norm; 0: no clipping."""
    ema: float = 0.9999
    """Decay of the running average of the weights, after its warm-up."""
    averages: bool = False
    """Also keep averages from which sample and evaluate make one of any length (--ema LENGTH)."""


@dataclass(frozen=True)
class LoopConfig:
    """Length of training, and what is written during it."""

    init_from: str | None = None
    """Start a new run from the averaged weights of the run in this folder."""
    steps: int | None = None
    """Train for this many steps."""
    epochs: int | None = None
    """Train for this many passes over the images, instead of a number of steps."""
    batch_size: int = 128
    """Images per step, over all devices."""
    accumulate: int = 1
    """Parts that a batch is split into, with gradients accumulated, to save memory."""
    log_every: int = 50
    """Steps between lines, printed and in metrics.jsonl; an epoch's end has no line of its own."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, validated; if not given an epoch, or 50 if that is below 2."""
    sample_every: int | None = None
    """Steps between sample grids; if not given an epoch, or 50 if that is below 2."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """A loss that is no number ends training; or it goes back to the last checkpoint and skips that
    batch."""
    keep: int = 2
    """Latest checkpoints to keep, besides the best."""
    num_samples: int = 16
    """Images in a sample grid."""
    sample_steps: int = 50
    """DDIM steps for the sample grid and the strip of one sample."""
    split_state: bool = False
    """Split parameters, optimizer and averages over the devices, to save memory."""


@dataclass(frozen=True)
class Config:
    """A training run. The same command again resumes it.

    When it resumes, these flags may have other values, and no others: --data.path, --data.data-dir,
    --data.cache-dir, --model.remat, --train.steps, --train.epochs, --train.log-every,
    --train.checkpoint-every, --train.sample-every, --train.on-nan, --train.keep,
    --train.num-samples, --train.sample-steps, --train.split-state, --distributed; and the folder
    may have been moved (--workdir).

    With --config demo it takes about 20 minutes on two cores, cars64 one to three hours; cars takes
    hours on a GPU, and cars_unet days.
    """

    workdir: str = ""
    """Folder of the run."""
    config: str = "cars"
    """Start from cars, cars_unet, cifar10 (the papers'), cars64, cars_gpu, demo or tiny."""
    seed: int = 0
    """Seed of the weights, the noise and the order of images."""
    distributed: bool = False
    """Join the other processes of the run, on this or other machines (docs/scale.md)."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: LoopConfig = field(default_factory=LoopConfig)


MAY_DIFFER = {
    "workdir",
    "distributed",
    "data.path",
    "data.data_dir",
    "data.cache_dir",
    "model.remat",
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.checkpoint_every",
    "train.sample_every",
    "train.on_nan",
    "train.keep",
    "train.num_samples",
    "train.sample_steps",
    "train.split_state",
}


LATER: tuple[set[str], ...] = (
    {"train.init_from"},
    {"data.channels"},
    {
        "diffusion.levels",
        "diffusion.levels_mean",
        "diffusion.levels_std",
        "diffusion.precondition",
        "optim.averages",
        "optim.muon_rate",
        "optim.name",
    },
    {
        "diffusion.beta_end",
        "diffusion.beta_start",
        "model.downsample_padding",
        "model.epsilon",
        "model.freq_shift",
        "model.head_dim",
        "model.num_classes",
    },
    {"model.labels"},
    {"diffusion.variance"},
)
"""Fields that older records lack, in the order they came; their defaults are what those runs did.

A record with fields of one group has all of that group and of those before: one that is missing was
lost.
"""
