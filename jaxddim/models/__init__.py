"""Networks: Flax Linen modules that take noisy data and the 0-based index t - 1 of its noise level.

    variables = model.init(key, x, index)
    output = model.apply(variables, x, index)                                          # inference
    output, updates = model.apply(variables, x, index, train=True,
                                  mutable=["batch_stats"], rngs={"dropout": key})      # training

Images are NHWC, float32; the output has the shape of `x` and is float32. The calls are the same
for all of them, with or without batch statistics and dropout. Nothing here knows what the output
means (noise, clean data, ...): `jaxddim.as_denoiser` says that, and the package's core needs no
Flax.
"""

from jaxddim.models.mlp import MLP
from jaxddim.models.simple_unet import SimpleUNet
from jaxddim.models.unet import UNet

__all__ = ["MLP", "SimpleUNet", "UNet"]
