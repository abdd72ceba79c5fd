"""Helpers for gradients, precision and checked arguments.

No NaN is made from valid input, not even one that a `where` then discards: under `jax_debug_nans`
the first operation with a NaN in its result raises, and it should be the user's.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

HALF_BIN = 1 / 255
"""Half the distance between neighbouring 8-bit values scaled to [-1, 1]."""


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt whose gradient at 0 is 0 instead of infinite (the double-where idiom)."""
    zero = x == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def safe_log(x: jax.Array) -> jax.Array:
    """log whose gradient at 0 is 0 instead of infinite; -inf there."""
    zero = x == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1.0, x)))


def nan_unless(holds: jax.Array, x: jax.Array) -> jax.Array:
    """x, and NaN where it does not hold; no NaN is made where it holds everywhere."""
    return x * jnp.sqrt(jnp.where(holds, 1.0, -1.0))


def images(dtype: DTypeLike, **named: ArrayLike) -> list[jax.Array]:
    """The arrays in this float type; a ValueError unless they hold floats and have one shape.

    Example:
      >>> images(jnp.float32, x0=np.zeros(2, np.float16))[0].dtype.name
      'float32'
    """
    arrays = {name: jnp.asarray(x) for name, x in named.items()}
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"{name} holds {x.dtype}, but images must be floats in [-1, 1]: scale 8-bit images "
                f"with {name}.astype(jnp.float32) / 127.5 - 1"
            )
    shapes = [x.shape for x in arrays.values()]
    if len(set(shapes)) > 1:
        names = " and ".join(", ".join(arrays).rsplit(", ", 1))
        raise ValueError(f"{names} must have one shape, got {', '.join(map(str, shapes))}")
    return [x.astype(dtype) for x in arrays.values()]


def number(value: Any, name: str, rule: str, holds: Callable[[Any], Any], why: str = "") -> Any:
    """A hyper-parameter, checked if its value is known.

    A JAX array passes through, as float32: while a function is traced, even a constant one cannot
    be compared.

    Args:
      value: a Python or NumPy number, or a JAX array, which may be traced.
      name: of the hyper-parameter.
      rule: what it must do, in words.
      holds: the same as a function of the number.
      why: the rest of the sentence.
    Returns:
      A Python number for one of Python or NumPy, so that it takes the type of what it meets; else
      float32.
    Raises:
      ValueError: when it is not a number, or the rule does not hold.
    Example:
      >>> number(np.float64(0.5), "eta", "lie in [0, 1]", lambda eta: 0 <= eta <= 1)
      0.5
    """
    if isinstance(value, jax.Array):
        return value.astype(jnp.float32)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not np.all(holds(array)):
        raise ValueError(f"{name} must {rule}, got {value}{why}")
    return array.astype(np.float32) if array.ndim else array.item()


def whole_number(n: int, name: str, least: int = 1) -> int:
    """n as an int of at least `least`, or a ValueError with its name."""
    try:
        n = operator.index(n)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {n!r}") from None
    if n < least:
        raise ValueError(f"{name} must be at least {least}, got {n}")
    return n
