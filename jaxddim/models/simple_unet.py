"""The network of the seed experiment: a U-Net of plain convolutions, ReLU and BatchNorm.

    e      = relu(Linear(sinusoidal(index)))
    Block:   h = BN(relu(conv1(x))) + relu(Linear(e));   h = BN(relu(conv2(h)));   transform(h)
    network: conv0, four blocks down, four blocks up on concat(x, skip), a 1x1 convolution

`transform` is a 4x4 convolution with stride 2 on the way down and its transpose on the way up, so
the skips are the *outputs* of the blocks down, and the deepest one is concatenated with itself.
It derives from the U-Net of arXiv 1505.04597. The loss and the schedule do not depend on it.

Initialisation: kernels as in PyTorch, uniform in +-1/sqrt(fan_in) (a third of the variance of
Flax's default), because the experiment's learning rate was tuned with it; biases start at 0.
BatchNorm has PyTorch's momentum, epsilon and unbiased running variance.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxddim.cpu.spread import spread
from jaxddim.models.embedding import check_inputs, check_size, sinusoidal
from jaxddim.models.layers import Conv, ConvTranspose, Dense
from jaxddim.models.norm import BatchNorm

KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Block(nn.Module):
    """Two 3x3 convolutions with the time embedding added in between, then down- or upsampling."""

    features: int
    up: bool = False
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        init = {"kernel_init": KERNEL_INIT, "dtype": self.dtype}
        conv = partial(Conv, self.features, **init)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)

        h = norm(name="norm1")(nn.relu(conv((3, 3), name="conv1")(x)), train)
        time = nn.relu(nn.Dense(self.features, **init, name="time")(embedding))
        h = h + spread(time, *h.shape[1:3])
        h = norm(name="norm2")(nn.relu(conv((3, 3), name="conv2")(h)), train)
        if self.up:
            return ConvTranspose(self.features, **init, name="transform")(h)
        return conv((4, 4), strides=2, padding=1, name="transform")(h)


class SimpleUNet(nn.Module):
    """The seed's U-Net, layer for layer; 62,438,883 parameters with the defaults.

    `train=True` normalises with the batch's statistics and updates the running ones in the
    collection `batch_stats`; inference uses the running ones and does not change them.

    Args:
      channels: feature channels at full size and after each halving.
      time_dim: width of the time embedding.
      out_channels: channels of the output; None means as many as the input has.
      axis_name: the mapped axis (of `jax.pmap`) over which BatchNorm averages; not needed
        under `jax.jit`, even if the batch is sharded over devices.
      dtype: of the computation; parameters, statistics and the output are float32.
    Raises:
      ValueError: at the first call, when an argument has the wrong shape or type, or when the image
        cannot be halved once for each block.
    Source: the seed's figures 1 and 2.
    Example:
      >>> x, index = jnp.zeros([2, 64, 64, 3]), jnp.array([0, 999])
      >>> variables = jax.eval_shape(SimpleUNet().init, jax.random.key(0), x, index)  # no arrays
      >>> sorted(variables), sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      (['batch_stats', 'params'], 62438883)
      >>> jax.eval_shape(SimpleUNet().apply, variables, x, index).shape
      (2, 64, 64, 3)
    """

    channels: Sequence[int] = (64, 128, 256, 512, 1024)
    time_dim: int = 32
    out_channels: int | None = None
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], index: Int[Array, " b"], train: bool = False
    ) -> Float[Array, "b h w c_out"]:
        check_inputs("SimpleUNet", x, index, 4, self.out_channels)
        blocks = len(self.channels) - 1
        if blocks < 1 or min(self.channels) < 1:
            raise ValueError(
                f"SimpleUNet cannot be built with channels={tuple(self.channels)}: it needs at "
                "least two positive numbers, one for the full size and one for each halving"
            )
        check_size("SimpleUNet", x, 2**blocks, f"each of {blocks} blocks halves the size")
        out_channels = self.out_channels or x.shape[-1]
        init = {"kernel_init": KERNEL_INIT, "dtype": self.dtype}
        block = partial(Block, axis_name=self.axis_name, dtype=self.dtype)

        embedding = nn.Dense(self.time_dim, **init, name="time")(sinusoidal(index, self.time_dim))
        embedding = nn.relu(embedding)
        h = Conv(self.channels[0], **init, name="conv0")(x)
        skips = []
        for i, features in enumerate(self.channels[1:]):
            h = block(features, name=f"down_{i}")(h, embedding, train)
            skips.append(h)
        for i, features in enumerate(reversed(self.channels[:-1])):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = block(features, up=True, name=f"up_{i}")(h, embedding, train)
        h = Dense(out_channels, **init, name="output")(h)  # a 1x1 convolution
        return h.astype(jnp.float32)
