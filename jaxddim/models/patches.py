"""Squares of pixels as the channels of one pixel, and back."""

import jax
from jaxtyping import Array, Float


def space_to_depth(x: Float[Array, "b h w c"], factor: int) -> jax.Array:
    """Stacks each `factor` x `factor` square of pixels into the channels of one pixel."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Float[Array, "b h w c"], factor: int) -> jax.Array:
    """Undoes `space_to_depth`."""
    b, h, w, _ = x.shape
    x = x.reshape(b, h, w, factor, factor, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * factor, w * factor, -1)
