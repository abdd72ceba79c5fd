"""A small network for points instead of images, such as those of the swiss roll.

    e   = Dense(swish(Dense(sinusoidal(index))))
    h_l = swish(Dense(h_{l-1}) + Dense(e)),   h_0 = x;   output = Dense(h_L)

It assumes nothing about neighbouring coordinates, so it suits any low-dimensional `[b, d]` data.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxddim.models.embedding import check_inputs, sinusoidal


class MLP(nn.Module):
    """A time-conditioned multilayer perceptron on points `[b, d]`.

    Args:
      features: width of each hidden layer.
      time_dim: width of the time embedding.
      out_channels: coordinates of the output; None means as many as the input has.
      dtype: of the computation; parameters and the output are float32.
    Raises:
      ValueError: at the first call, when an argument has the wrong shape or type.
    Example:
      >>> import jax
      >>> model = MLP(features=(16,))
      >>> x, index = jnp.zeros([5, 2]), jnp.arange(5)
      >>> variables = model.init(jax.random.key(0), x, index)
      >>> model.apply(variables, x, index).shape
      (5, 2)
    """

    features: Sequence[int] = (128, 128, 128)
    time_dim: int = 64
    out_channels: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], index: Int[Array, " b"], train: bool = False
    ) -> Float[Array, "b d_out"]:
        del train  # no dropout, no running statistics
        check_inputs("MLP", x, index, 2, self.out_channels)
        dense = partial(nn.Dense, dtype=self.dtype)
        embedding = dense(self.time_dim, name="time_0")(sinusoidal(index, self.time_dim))
        embedding = dense(self.time_dim, name="time_1")(nn.swish(embedding))
        h = x
        for i, width in enumerate(self.features):
            h = dense(width, name=f"hidden_{i}")(h) + dense(width, name=f"hidden_{i}_time")(
                embedding
            )
            h = nn.swish(h)
        return dense(self.out_channels or x.shape[-1], name="output")(h).astype(jnp.float32)
