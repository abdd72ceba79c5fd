"""A few layers in the place of SimpleUNet: these tests are about files, and start often."""

import flax.linen as nn
import jax

from jaxddim.models.embedding import sinusoidal
from jaxddim.models.layers import Conv, Dense
from jaxddim.models.norm import BatchNorm
from jaxddim.models.simple_unet import SimpleUNet


class Small(SimpleUNet):
    """With running statistics, and with 4 channels as many parameters: the disks are full alike."""

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, train: bool = False) -> jax.Array:
        wide = nn.Dense(70, name="wide")(sinusoidal(index, self.time_dim))
        time = nn.Dense(self.channels[0], name="time")(nn.relu(wide))
        h = Conv(self.channels[0], name="conv0")(x) + time[:, None, None]
        return Dense(x.shape[-1], name="output")(BatchNorm(name="norm")(h, train))
