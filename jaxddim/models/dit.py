"""DiT: a transformer over the patches of an image, steered by noise level and label.

    c     = Dense(swish(Dense(sinusoidal(index))))                       (+ the label's embedding)
    block:   s_1, a_1, g_1, s_2, a_2, g_2 = Dense(swish(c))
             h = h + g_1 attention(a_1 LN(h) + LN(h) + s_1)
             h = h + g_2 Dense(gelu(Dense(a_2 LN(h) + LN(h) + s_2)))
    network: patches -> Dense + position; `num_blocks` blocks; Dense((1 + a) LN(h) + s) -> patches

LN has no parameters of its own: shift s, scale a and gate g come from c, by a layer that is zero at
first (adaLN-zero). So each block starts as the identity and the output starts at 0. The position of
a patch is a fixed embedding, half its row and half its column.

Initialisation is that of the official code: Xavier's uniform for the dense layers, normal with
deviation 0.02 for the embeddings of time and label.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxddim.models.embedding import check_inputs, check_label, check_size, sinusoidal
from jaxddim.models.layers import Dense
from jaxddim.models.patches import depth_to_space, space_to_depth

FREQUENCIES = 256
"""Width of the sinusoidal embedding of the noise level."""
WIDER = 4
"""Width of a block's hidden layer over that of the network."""
_XAVIER = nn.initializers.xavier_uniform()
_NORMAL = nn.initializers.normal(0.02)


@jax.jit
def _modulated(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """The layer norm of each token, in float32, scaled and shifted."""
    x = h.astype(jnp.float32)
    x = x - jnp.mean(x, -1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
    return x.astype(h.dtype) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention over the tokens and a hidden layer for each, both modulated and gated by c."""

    head_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
        b, n, width = h.shape
        dense = partial(Dense, dtype=self.dtype, kernel_init=_XAVIER)
        zeros = nn.initializers.zeros
        steer = nn.Dense(6 * width, dtype=self.dtype, kernel_init=zeros, name="modulation")
        parts = jnp.split(steer(nn.swish(c)), 6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts

        qkv = dense(3 * width, name="qkv")(_modulated(h, shift1, scale1))
        q, k, v = jnp.split(qkv.reshape(b, n, -1, self.head_dim), 3, 2)
        attended = jax.nn.dot_product_attention(q, k, v).reshape(b, n, width)
        h = h + gate1[:, None] * dense(width, name="proj_out")(attended)
        wide = nn.gelu(dense(WIDER * width, name="mlp_0")(_modulated(h, shift2, scale2)))
        return h + gate2[:, None] * dense(width, name="mlp_1")(wide)


class DiT(nn.Module):
    """The diffusion transformer; the defaults are DiT-S/2.

    Args:
      channels: width of a token.
      num_blocks: number of blocks.
      head_dim: channels of a head of attention.
      patch: side of a patch in pixels.
      num_classes: number of labels, or None for an unconditional network. Index `num_classes` is
        the null class, for examples without a label.
      out_channels: channels of the output; None means as many as the input has.
      remat: recompute the blocks in the backward pass instead of storing their activations.
      dtype: of the computation; parameters, norms and the output are float32.
    Raises:
      ValueError: at the first call, when an argument has the wrong shape or type, a width does not
        divide, an image does not divide into patches, or a label that is not traced lies outside
        0..num_classes.
    Source: arXiv 2212.09748, section 3.
    Example:
      >>> x, index = jnp.zeros([2, 32, 32, 3]), jnp.array([0, 999])
      >>> variables = jax.eval_shape(DiT().init, jax.random.key(0), x, index)  # no arrays
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      32471436
      >>> jax.eval_shape(DiT().apply, variables, x, index).shape
      (2, 32, 32, 3)
    """

    channels: int = 384
    num_blocks: int = 12
    head_dim: int = 64
    patch: int = 2
    num_classes: int | None = None
    out_channels: int | None = None
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        index: Int[Array, " b"],
        train: bool = False,
        label: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c_out"]:
        del train  # no dropout, no running statistics
        self._check(x, index, label)
        width, out_channels = self.channels, self.out_channels or x.shape[-1]
        embed = partial(nn.Dense, width, dtype=self.dtype, kernel_init=_NORMAL)
        c = sinusoidal(index, FREQUENCIES, shift=0)
        c = embed(name="temb_dense_1")(nn.swish(embed(name="temb_dense_0")(c)))
        if self.num_classes is not None:
            null = jnp.full(x.shape[:1], self.num_classes, jnp.int32)
            table = nn.Embed(
                self.num_classes + 1, width, dtype=self.dtype, embedding_init=_NORMAL, name="label"
            )
            c = c + table(null if label is None else label)

        patches = space_to_depth(x, self.patch)
        b, rows, columns, _ = patches.shape
        h = Dense(width, dtype=self.dtype, kernel_init=_XAVIER, name="patches_in")(patches)
        h = (h + position(rows, columns, width).astype(h.dtype)).reshape(b, rows * columns, width)
        block = nn.remat(Block) if self.remat else Block
        for i in range(self.num_blocks):
            h = block(self.head_dim, self.dtype, name=f"block_{i}")(h, c)
        zeros = nn.initializers.zeros
        steer = nn.Dense(2 * width, dtype=self.dtype, kernel_init=zeros, name="modulation")
        h = _modulated(h, *jnp.split(steer(nn.swish(c)), 2, -1)).reshape(b, rows, columns, width)
        features = out_channels * self.patch**2
        h = Dense(features, dtype=self.dtype, kernel_init=zeros, name="patches_out")(h)
        return depth_to_space(h, self.patch).astype(jnp.float32)

    def _check(self, x: jax.Array, index: jax.Array, label: jax.Array | None) -> None:
        check_inputs("DiT", x, index, 4, self.out_channels)
        for field in ("channels", "num_blocks", "head_dim", "patch", "num_classes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"DiT cannot be built with {field}={value}: it must be positive")
        if self.channels % 8 or self.channels % self.head_dim:
            raise ValueError(
                f"DiT cannot be built with channels={self.channels} and head_dim={self.head_dim}: "
                "the channels must be a multiple of both head_dim and 8"
            )
        check_size("DiT", x, self.patch, f"they are cut into patches, patch={self.patch}")
        check_label("DiT", label, index, self.num_classes)


def position(rows: int, columns: int, features: int) -> Float[Array, "rows columns features"]:
    """The embedding of each patch's place: half its row, half its column.

    Example:
      >>> position(2, 3, 8).shape
      (2, 3, 8)
    """
    across = sinusoidal(jnp.arange(columns), features // 2, shift=0)
    down = sinusoidal(jnp.arange(rows), features // 2, shift=0)
    parts = jnp.broadcast_arrays(across[None], down[:, None])
    return jnp.concatenate(parts, -1)
