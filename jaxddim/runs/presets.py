"""The named configurations: what ``--config NAME`` starts from."""

from dataclasses import replace

from jaxddim.runs.config import (
    Config,
    DataConfig,
    DiffusionConfig,
    LoopConfig,
    ModelConfig,
    OptimConfig,
)

FROM_MOMENTS = DiffusionConfig(
    schedule="sigmoid",
    kind="x0",
    precondition="gaussian",
    levels="lognormal",
    levels_mean=-0.6,
    levels_std=0.8,
)
"""The set-up of the configurations that are this project's own: see docs/training.md."""


def cars() -> Config:
    """The seed's experiment: SimpleUNet at 64x64, L1 loss, Adam 8e-5, batch 32, 250 epochs.

    python -m experiments.train --workdir runs/cars

    With Stanford Cars 250 epochs are 125,000 steps: hours on a GPU, not meant for a CPU. Trained
    for less, an eps-network's samples drift in colour; cars64 and cars_gpu do not.
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

    500,000 steps as in the paper: days on one GPU. Trained for less, its samples drift in colour:
    its error at high noise is multiplied by sigma / alpha. cars64 and cars_gpu are for less.
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

    The paper reports FID 4.04 after 800,000 steps (T = 1000, eta = 0, S = 1000). Trained for much
    less, its samples drift in colour, as those of cars_unet.
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
            channels=32, multipliers=(1, 2, 2), num_blocks=1, attention=(8,), dropout=0.0
        ),
        diffusion=FROM_MOMENTS,
        optim=OptimConfig(
            name="muon",
            learning_rate=1e-3,
            warmup_steps=100,
            decay_steps=1300,
            ema=0.99,
            averages=True,
        ),
        train=LoopConfig(
            steps=1300, batch_size=32, checkpoint_every=650, sample_every=650, num_samples=64
        ),
    )


def cars64() -> Config:
    """One to three hours on two processor cores: a UNet at 64x64, for rendered cars or a folder.

    python -m experiments.train --workdir runs/cars64 --config cars64
    For pictures of your own add --data.source folder --data.path DIR. The noise levels lie higher
    than those of demo, since composition is decided at more noise in larger pictures.
    """
    return Config(
        config="cars64",
        model=ModelConfig(
            channels=32, multipliers=(1, 2, 2, 4), num_blocks=1, attention=(8,), dropout=0.0
        ),
        diffusion=replace(FROM_MOMENTS, levels_mean=-0.1, levels_std=1.1),
        optim=OptimConfig(
            name="muon",
            learning_rate=1e-3,
            warmup_steps=100,
            decay_steps=9000,
            ema=0.998,
            averages=True,
        ),
        train=LoopConfig(
            steps=9000, batch_size=16, checkpoint_every=500, sample_every=500, num_samples=64
        ),
    )


def cars_gpu() -> Config:
    """An afternoon on one GPU: a UNet of the cifar10 configuration's size at 64x64, in bfloat16.

    python -m experiments.train --workdir runs/cars_gpu --config cars_gpu

    Not trained to its end yet; what eight minutes of it do for 32x32 is in docs/training.md.
    """
    return Config(
        config="cars_gpu",
        model=ModelConfig(dtype="bfloat16"),
        diffusion=FROM_MOMENTS,
        optim=OptimConfig(
            name="muon",
            learning_rate=1e-3,
            muon_rate=2e-3,
            warmup_steps=300,
            decay_steps=100_000,
            ema=0.9995,
            averages=True,
        ),
        train=LoopConfig(steps=100_000, checkpoint_every=5000, sample_every=5000, num_samples=64),
    )


def tiny() -> Config:
    """A toy for tests: trains in seconds, and its images are poor.

    python -m experiments.train --workdir runs/tiny --config tiny
    """
    return Config(
        config="tiny",
        data=DataConfig(source="rendered", image_size=16, num_images=64),
        model=ModelConfig(
            channels=8, multipliers=(1, 2), num_blocks=1, attention=(), groups=4, dropout=0.0
        ),
        diffusion=DiffusionConfig(schedule="cosine", kind="v"),
        optim=OptimConfig(learning_rate=1e-3, ema=0.99),
        train=LoopConfig(
            steps=20, batch_size=8, log_every=5, checkpoint_every=10, num_samples=4, sample_steps=5
        ),
    )


PRESETS = {
    preset.__name__: preset for preset in (cars, cars_unet, cifar10, cars64, cars_gpu, demo, tiny)
}
