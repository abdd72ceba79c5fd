"""Helpers for gradients, precision and checked counts."""

import operator

import jax
import jax.numpy as jnp


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt whose gradient at 0 is 0 instead of infinite (the double-where idiom)."""
    positive = x > 0
    root = jnp.sqrt(jnp.where(positive, x, 1.0))
    return jnp.where(positive, root, jnp.where(x == 0, 0.0, jnp.nan))


def float32(x: jax.Array) -> jax.Array:
    """x as float32, or unchanged if its type is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def whole_number(n: int, name: str) -> int:
    """n as an int of at least 1, or a ValueError with its name."""
    try:
        n = operator.index(n)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {n!r}") from None
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}")
    return n
