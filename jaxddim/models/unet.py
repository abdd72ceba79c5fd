"""The network of DDPM (arXiv 2006.11239, appendix B) and of the official DDIM code, layer by layer.

    temb   = Dense(swish(Dense(sinusoidal(index))))                      (+ the label's embedding)
    block:   h = conv1(swish(GN(x))) + Dense(swish(temb));   h = conv2(dropout(swish(GN(h))));
             shortcut(x) + h
    attention: x + proj_out(softmax(q k^T / sqrt(c)) v),  q, k, v from GN(x), over pixels; one head,
             or with `head_dim` as many as have so many of the c channels each
    network: conv_in; `num_blocks` blocks at each size and downsampling between sizes; block,
             attention, block at the smallest; `num_blocks + 1` blocks at each size on
             concat(h, skip) and upsampling between sizes; conv_out(swish(GN(h)))

On the way down, conv_in, each block (after its attention) and each downsampling output a skip, used
in reverse order on the way up. Modules are named as in the official PyTorch code with `.` replaced
by `_` (`down.0.block.1.conv1` is `down_0_block_1/conv1`, `temb.dense.0` is `temb_dense_0`), so that
published weights can be copied. 1x1 convolutions are `Dense`: the same map, and faster on CPU.

Initialisation is that of the DDPM code in TensorFlow: uniform with variance 1 / fan_avg, and
almost zero (scale 1e-10) for the last layer of each block and of the network, so that each block
starts as its shortcut and the output starts at about 0. The PyTorch port used PyTorch's default
instead; with loaded weights this makes no difference. The labels' embedding is from N(0, 1), as in
the code of arXiv 2105.05233.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxddim.cpu.spread import spread
from jaxddim.models.embedding import check_inputs, check_label, check_size, sinusoidal
from jaxddim.models.layers import Conv, Dense
from jaxddim.models.norm import GroupNorm
from jaxddim.models.patches import depth_to_space, space_to_depth


def _init(scale: float = 1.0) -> nn.initializers.Initializer:
    return nn.initializers.variance_scaling(max(scale, 1e-10), "fan_avg", "uniform")


@partial(jax.jit, static_argnums=2)
def _dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Dropout that keeps the mean of x, with 16 random bits per element."""
    dropped = min(round(rate * 2**16), 2**16 - 1)
    words = jax.random.bits(key, ((x.size + 1) // 2,), jnp.uint32)
    bits = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(bits < dropped, 0, x * (2**16 / (2**16 - dropped)))


class ResnetBlock(nn.Module):
    """GroupNorm, swish, convolution, twice, with time added in between, plus a shortcut."""

    features: int
    dropout: float = 0.0
    groups: int = 32
    epsilon: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, temb: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, self.features, dtype=self.dtype)
        dense = partial(nn.Dense, self.features, dtype=self.dtype, kernel_init=_init())
        norm = partial(GroupNorm, self.groups, epsilon=self.epsilon, dtype=self.dtype)

        h = conv(kernel_init=_init(), name="conv1")(nn.swish(norm(name="norm1")(x)))
        h = h + spread(dense(name="temb_proj")(nn.swish(temb)), *h.shape[1:3])
        h = nn.swish(norm(name="norm2")(h))
        if train and self.dropout:
            h = _dropout(self.make_rng("dropout"), h, float(self.dropout))
        h = conv(kernel_init=_init(0.0), name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, kernel_init=_init(), name="nin_shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention over the pixels of an image, with a residual connection."""

    groups: int = 32
    epsilon: float = 1e-6
    head_dim: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = partial(Dense, x.shape[-1], dtype=self.dtype)
        h = GroupNorm(self.groups, epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)
        q, k, v = (dense(kernel_init=_init(), name=name)(h) for name in "qkv")
        h = _attend(q, k, v, self.head_dim or x.shape[-1])
        return x + dense(kernel_init=_init(0.0), name="proj_out")(h)


@partial(jax.jit, static_argnums=3)
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, head: int) -> jax.Array:
    """Attention of all pixels to all, `[b, h, w, c]`, in heads of `head` channels."""
    shape, (b, _, _, c), dtype = q.shape, q.shape, q.dtype
    q, k, v = (_heads(a.reshape(b, -1, c), head) for a in (q, k, v))
    logits = jnp.einsum("bqc,bkc->bqk", q * head**-0.5, k, preferred_element_type=jnp.float32)
    weights = nn.softmax(logits, axis=-1).astype(dtype)
    h = jnp.einsum("bqk,bkc->bqc", weights, v)
    return h.reshape(b, c // head, -1, head).swapaxes(1, 2).reshape(shape)


def _heads(x: jax.Array, head: int) -> jax.Array:
    """`[b, n, c]` -> `[b c/head, n, head]`: the heads as further examples."""
    b, n, c = x.shape
    return x.reshape(b, n, c // head, head).swapaxes(1, 2).reshape(-1, n, head)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width by repeating each pixel (nearest neighbour)."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class UNet(nn.Module):
    """The U-Net of DDPM and DDIM; the defaults are the CIFAR10 network, 35,746,307 parameters.

    Dropout is applied with `train=True` only, and uses the RNG stream `"dropout"`.

    Args:
      channels: feature channels at full size.
      multipliers: factors on `channels` at full size and after each halving.
      num_blocks: residual blocks at each size on the way down (one more on the way up).
      attention: feature sizes (the smaller side, in pixels) at which attention follows each block.
      dropout: dropout rate in the blocks.
      num_classes: number of labels, or None for an unconditional network. Index `num_classes` is
        the null class, for examples without a label.
      out_channels: channels of the output; None means as many as the input has.
      patch: 2 folds each 2x2 square of pixels into channels at the input and unfolds it at the
        output: about a quarter of the time, with some loss of detail; 1 is the published network.
      groups: number of groups in GroupNorm.
      epsilon: what GroupNorm adds to the variance.
      head_dim: channels of a head of attention; None means one head.
      freq_shift: shift of the frequencies of the time embedding, 0 or 1; see `sinusoidal`.
      downsample_padding: 0 pads below and to the right where a size is halved, 1 on all sides.
      remat: recompute the blocks in the backward pass instead of storing their activations: less
        memory, the same results.
      dtype: of the computation; parameters, statistics, softmax and the output are float32.
    Raises:
      ValueError: at the first call, when an argument has the wrong shape or type, a channel count
        cannot be split into `groups`, an image cannot be halved at each level, an attention size is
        that of no level, or a label that is not traced lies outside 0..num_classes.
    Source: arXiv 2006.11239, appendix B; arXiv 2010.02502, appendix D.1.
    Example:
      >>> x, index = jnp.zeros([2, 32, 32, 3]), jnp.array([0, 999])
      >>> variables = jax.eval_shape(UNet().init, jax.random.key(0), x, index)  # no arrays
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
      35746307
      >>> jax.eval_shape(UNet().apply, variables, x, index).shape
      (2, 32, 32, 3)
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    num_blocks: int = 2
    attention: Sequence[int] = (16,)
    dropout: float = 0.1
    num_classes: int | None = None
    out_channels: int | None = None
    patch: int = 1
    groups: int = 32
    epsilon: float = 1e-6
    head_dim: int | None = None
    freq_shift: int = 1
    downsample_padding: int = 0
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
        self._check(x, index, label)
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        last = len(widths) - 1
        out_channels = self.out_channels or x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_init())
        conv = partial(Conv, dtype=self.dtype, kernel_init=_init())
        normed: Any = {"groups": self.groups, "epsilon": self.epsilon, "dtype": self.dtype}
        remat = partial(nn.remat, static_argnums=(3,)) if self.remat else lambda module: module

        def block(h: jax.Array, features: int, name: str) -> jax.Array:
            module = remat(ResnetBlock)(features, self.dropout, **normed, name=name)
            return module(h, temb, train)

        def attend(h: jax.Array, name: str) -> jax.Array:
            return Attention(**normed, head_dim=self.head_dim, name=name)(h)

        def attends(h: jax.Array) -> bool:
            return min(h.shape[1:3]) in self.attention

        temb = sinusoidal(index, self.channels, self.freq_shift)
        temb = dense(4 * self.channels, name="temb_dense_0")(temb)
        temb = dense(4 * self.channels, name="temb_dense_1")(nn.swish(temb))
        if self.num_classes is not None:
            null = jnp.full(x.shape[:1], self.num_classes, jnp.int32)
            embed = nn.Embed(
                self.num_classes + 1,
                4 * self.channels,
                dtype=self.dtype,
                embedding_init=nn.initializers.normal(1.0),
                name="label",
            )
            temb = temb + embed(null if label is None else label)

        h = conv(self.channels, name="conv_in")(space_to_depth(x, self.patch))
        skips = [h]
        for level, features in enumerate(widths):
            for i in range(self.num_blocks):
                h = block(h, features, f"down_{level}_block_{i}")
                if attends(h):
                    h = attend(h, f"down_{level}_attn_{i}")
                skips.append(h)
            if level != last:
                pad = ((self.downsample_padding, 1),) * 2
                h = conv(features, strides=2, padding=pad, name=f"down_{level}_downsample")(h)
                skips.append(h)

        h = block(h, widths[-1], "mid_block_1")
        h = attend(h, "mid_attn_1")
        h = block(h, widths[-1], "mid_block_2")

        for level, features in reversed(list(enumerate(widths))):
            for i in range(self.num_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], -1), features, f"up_{level}_block_{i}")
                if attends(h):
                    h = attend(h, f"up_{level}_attn_{i}")
            if level != 0:
                h = conv(features, name=f"up_{level}_upsample")(upsample(h))

        h = nn.swish(GroupNorm(**normed, name="norm_out")(h))
        h = conv(out_channels * self.patch**2, kernel_init=_init(0.0), name="conv_out")(h)
        return depth_to_space(h, self.patch).astype(jnp.float32)

    def _check(self, x: jax.Array, index: jax.Array, label: jax.Array | None) -> None:
        check_inputs("UNet", x, index, 4, self.out_channels)
        levels = len(self.multipliers)
        if not levels or min(self.multipliers) < 1:
            raise ValueError(
                f"UNet cannot be built with multipliers={tuple(self.multipliers)}: it needs one "
                "positive factor for each level, and at least one level"
            )
        for field in ("channels", "num_blocks", "patch", "groups", "num_classes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"UNet cannot be built with {field}={value}: it must be positive")
        if not 0 <= float(self.dropout) < 1:
            raise ValueError(f"UNet got dropout={self.dropout}, which is not a rate in [0, 1)")
        for field in ("freq_shift", "downsample_padding"):
            if getattr(self, field) not in (0, 1):
                raise ValueError(
                    f"UNet cannot be built with {field}={getattr(self, field)}: it must be 0 or 1"
                )
        if not 0 < self.epsilon < 1:
            raise ValueError(f"UNet got epsilon={self.epsilon}, which does not lie in (0, 1)")
        for width in (self.channels, *(self.channels * factor for factor in self.multipliers)):
            if width % self.groups:
                raise ValueError(
                    f"UNet cannot have a layer of {width} channels (channels={self.channels}, "
                    f"multipliers={tuple(self.multipliers)}): GroupNorm splits them into "
                    f"groups={self.groups} equal groups"
                )
        why = f"patch={self.patch} and {levels - 1} halvings between {levels} levels divide them"
        check_size("UNet", x, self.patch * 2 ** (levels - 1), why)
        smaller = min(x.shape[1:3]) // self.patch
        sizes = [smaller // 2**level for level in range(levels)]
        attending = [
            f for size, f in zip(sizes, self.multipliers, strict=True) if size in self.attention
        ]
        for width in (self.channels * factor for factor in (*attending, self.multipliers[-1])):
            if self.head_dim is not None and (self.head_dim < 1 or width % self.head_dim):
                raise ValueError(
                    f"UNet cannot have attention on {width} channels in heads of "
                    f"head_dim={self.head_dim}: it must divide them"
                )
        if missing := [size for size in self.attention if size not in sizes]:
            raise ValueError(
                f"UNet cannot have attention={tuple(self.attention)}: no level of a "
                f"{x.shape[1]}x{x.shape[2]} image has size {missing[0]}, they have "
                f"{', '.join(map(str, sizes))}"
            )
        check_label("UNet", label, index, self.num_classes)
