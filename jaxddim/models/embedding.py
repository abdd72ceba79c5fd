"""Sinusoidal embeddings of the noise level, and checks of a network's inputs.

    emb(i) = [sin(i w_0), ..., sin(i w_{n-1}), cos(i w_0), ..., cos(i w_{n-1})],
    w_k = 10000^(-k / (n - shift)),   n = features / 2

These are the positional encodings of arXiv 1706.03762 as DDPM (arXiv 2006.11239) writes them: all
sines before all cosines, and a shift of 1, so that the lowest frequency is exactly 1/10000. The
original has a shift of 0. Published weights depend on both.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxddim import checks


def sinusoidal(
    index: Int[Array, " b"], features: int, shift: int = 1
) -> Float[Array, "b features"]:
    """Sines, then cosines, of each 0-based noise index.

    Args:
      index: noise level t - 1 of each example, `[b]`.
      features: width of the embedding, even and at least 4.
      shift: 1 as in DDPM's code, or 0.
    Returns:
      `[b, features]`, float32, each entry in [-1, 1].
    Raises:
      ValueError: when `features` is odd or below 4.
    Example:
      >>> sinusoidal(jnp.array([0, 7]), 4).shape
      (2, 4)
      >>> sinusoidal(jnp.array([0]), 4)[0].tolist()
      [0.0, 0.0, 1.0, 1.0]
    """
    if features < 4 or features % 2:
        raise ValueError(
            f"a time embedding of {features} features cannot be made: it is half sines, half "
            "cosines of at least two frequencies, so the width must be even and at least 4"
        )
    half = features // 2
    k = jnp.arange(half, dtype=jnp.float32)
    frequencies = jnp.exp(-jnp.log(jnp.float32(10000.0)) / (half - shift) * k)
    angles = index.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def check_inputs(
    name: str, x: jax.Array, index: jax.Array, rank: int, out_channels: int | None
) -> None:
    """Raises ValueError unless `x` is a float array of this rank, with an integer `index` each."""
    layout = {2: "[b, d]", 4: "[b, h, w, c] (channels last)"}[rank]
    if x.ndim != rank or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} takes a float x of shape {layout}, got {x.dtype}{list(x.shape)}")
    if index.shape != x.shape[:1] or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f"{name} takes one integer index (t - 1) for each of the {x.shape[0]} examples: "
            f"int32[{x.shape[0]}], got {index.dtype}{list(index.shape)}"
        )
    levels = checks.concrete(index)
    if levels is not None and levels.size and levels.min() < 0:
        raise ValueError(f"{name} takes indices t - 1 of 0 and above, got {levels.min()}")
    if out_channels is not None and out_channels < 1:
        raise ValueError(
            f"{name} cannot have {out_channels} output channels: out_channels must be positive, or "
            "None for as many as the input has"
        )


def check_size(name: str, x: jax.Array, multiple: int, why: str) -> None:
    """Raises ValueError unless height and width of the images `x` are multiples of `multiple`."""
    height, width = x.shape[1:3]
    if height % multiple or width % multiple or not height * width:
        raise ValueError(
            f"{name} cannot take {height}x{width} images: {why}, so height and width must be "
            f"multiples of {multiple}"
        )


def check_label(
    name: str, label: jax.Array | None, index: jax.Array, num_classes: int | None
) -> None:
    """Raises ValueError unless there is no label, or one of 0..num_classes for each example."""
    if label is None:
        return
    if num_classes is None:
        raise ValueError(f"{name} got a label, but was built without num_classes")
    shape, dtype = getattr(label, "shape", None), getattr(label, "dtype", jnp.bool_)
    if shape != index.shape or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{name} takes one integer label for each of the {index.shape[0]} examples, got "
            f"{checks.described(label)}"
        )
    checks.classes(label, num_classes + 1, "label")
