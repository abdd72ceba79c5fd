"""Networks: Flax Linen modules that take noisy data and the 0-based index t - 1 of its noise level.

    variables = model.init(key, x, index)
    output = model.apply(variables, x, index)                                          # inference
    output, updates = model.apply(variables, x, index, train=True,
                                  mutable=["batch_stats"], rngs={"dropout": key})      # training

Images are NHWC, float32; the output has the shape of `x` and is float32. All networks are called in
the same way, with or without batch statistics and dropout. They do not know what the output means
(noise, clean data, ...); `jaxddim.as_denoiser` decides that. The package's core does not need Flax.
"""

from jaxddim.models.dit import DiT
from jaxddim.models.mlp import MLP
from jaxddim.models.simple_unet import SimpleUNet
from jaxddim.models.unet import UNet

__all__ = ["MLP", "DiT", "SimpleUNet", "UNet"]
