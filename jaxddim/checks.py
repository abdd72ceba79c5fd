"""Checks of arguments: keys, times, grids, classes and what a network returns.

JAX clamps indices, broadcasts shapes and truncates floats without a word, so that a wrong argument
gives a wrong image and no error. These checks name the mistake where it is made. Types and shapes
are always checked, and values wherever they are known: a traced value passes.
"""

import functools
import inspect
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

IMPLEMENTATION = "threefry2x32"
"""How all random numbers are made: alike on every device, and each from its own key alone."""


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where it is traced or on another machine."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True):
            return None
    return np.asarray(value)


def described(value: Any) -> str:
    """Type and shape of a value, for messages."""
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return kind if shape is None else f"{getattr(value, 'dtype', kind)}{list(shape)}"


def form(tree: Any) -> Any:
    """Type and shape of each leaf, to compare two trees.

    Example:
      >>> form({"mean": jnp.zeros(2), "steps": 0})
      {'mean': 'float32[2]', 'steps': 'int32[]'}
    """
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree)


def schedule(schedule: Any) -> None:
    """Raises a ValueError unless this is a noise schedule."""
    if not hasattr(schedule, "log_snr"):
        raise ValueError(
            f"schedule must be a Schedule, such as jaxddim.linear(1000), got {described(schedule)}"
        )


def whole(value: Any, name: str) -> np.ndarray | None:
    """The concrete values, or None; a ValueError unless they are whole numbers.

    Example:
      >>> whole([3, 2], "t"), whole(jnp.arange(2), "t")
      (array([3, 2]), array([0, 1], dtype=int32))
    """
    for leaf in jax.tree.leaves(value, is_leaf=lambda a: a is None):
        dtype = getattr(leaf, "dtype", None) or np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.integer) and np.shape(leaf) != (0,):
            raise ValueError(f"{name} must be whole numbers, got {dtype}")
    return concrete(value)


def times(t: ArrayLike, num_steps: int | None, name: str = "t", *, low: int = 0) -> None:
    """Raises a ValueError unless the times are whole numbers in low..num_steps.

    Without num_steps, where no schedule is known, only the lower end is checked.
    """
    values = whole(t, name)
    if values is None or not values.size:
        return
    least, most = values.min(), values.max()
    if num_steps is None and least >= low:
        return
    if num_steps is None or least < low or most > num_steps:
        within = "" if num_steps is None else f" and lie in 0..{num_steps} for this schedule"
        raise ValueError(f"{name} must be at least {low}{within}, got {least}..{most}")


def each(batch: int, **times: ArrayLike) -> None:
    """Raises a ValueError unless each of these is a scalar, or one for each of the examples.

    Example:
      >>> each(4, t=500, s=np.zeros(3, int))
      Traceback (most recent call last):
      ValueError: s must be a scalar or one for each of the 4 examples, got shape (3,)
    """
    for name, t in times.items():
        if np.shape(t) not in ((), (batch,)):
            raise ValueError(
                f"{name} must be a scalar or one for each of the {batch} examples, got shape "
                f"{np.shape(t)}"
            )


def reverse(t: ArrayLike, s: ArrayLike, num_steps: int, *, low: int = 1) -> None:
    """Raises a ValueError unless low <= t <= num_steps and 0 <= s <= t, as in sampling."""
    times(t, num_steps, low=low)
    times(s, num_steps, "s")
    start, end = concrete(t), concrete(s)
    if start is not None and end is not None and np.any(end > start):
        raise ValueError(f"s must not be above t, got t = {start.tolist()}, s = {end.tolist()}")


def grid(
    timesteps: ArrayLike, of: Any, *, least: int = 1, falls: bool = True, strictly: bool = False
) -> jax.Array:
    """The grid as int32; a ValueError unless it is one for this schedule.

    Args:
      timesteps: [S+1] times.
      of: the noise schedule.
      least: the smallest S.
      falls: the grid must not rise, and end in 0.
      strictly: nor may it stay at a time.
    """
    schedule(of)
    shape = np.shape(timesteps)
    if len(shape) != 1 or shape[0] < least + 1:
        raise ValueError(f"timesteps must be a vector [S+1], S >= {least}, got shape {shape}")
    values, T = whole(timesteps, "timesteps"), of.num_steps
    if values is not None:
        shown, use = _shown(values), f"jaxddim.timesteps({T}, S) makes such a grid"
        if values.min() < 0 or values.max() > T:
            raise ValueError(
                f"timesteps must lie in 0..{T} for this schedule, where 0 is the clean image and "
                f"ends the grid; got {shown}: {use}"
            )
        if falls and values[-1] != 0:
            raise ValueError(
                f"timesteps must end in 0, where the images are clean, got {shown}: {use}"
            )
        steps = np.diff(values.astype(np.int64))
        if falls and (np.any(steps > 0) or (strictly and np.any(steps == 0)) or not values[-2]):
            raise ValueError(
                f"timesteps must decrease from noise to 0, and reach 0 only at the end, got "
                f"{shown}: {use}"
            )
    return jnp.asarray(timesteps, jnp.int32)


def _shown(values: np.ndarray) -> str:
    """A grid in a few words."""
    words = [str(v) for v in values]
    return "[" + ", ".join(words if len(words) < 8 else [*words[:3], "..", *words[-3:]]) + "]"


def classes(x: ArrayLike, count: int, name: str) -> None:
    """Raises a ValueError unless these are classes, whole numbers in 0..count-1."""
    values = whole(x, name)
    if values is not None and values.size and not 0 <= values.min() <= values.max() < count:
        raise ValueError(f"{name} must lie in 0..{count - 1}, got {values.min()}..{values.max()}")


def takes(function: Any, number: int, **named: Any) -> bool:
    """Whether a function can be called with so many arguments by position, as far as it tells.

    Example:
      >>> takes(lambda x, index: x, 2), takes(lambda variables, x, index: x, 2)
      (True, False)
    """
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(number), **named)
    except TypeError:
        return False
    except ValueError:  # a callable without a signature
        return True
    return True


def shown(function: Any) -> str:
    """A function by its name and arguments, for messages; anything else as `described`."""
    if not callable(function):
        return described(function)
    return f"{getattr(function, '__name__', type(function).__name__)}{inspect.signature(function)}"


def network(apply_fn: Any) -> None:
    """Raises a ValueError unless this can be a function (x, index) -> output.

    A Flax module and its ``apply`` are none: their variables are not bound yet.
    """
    owner = getattr(apply_fn, "__self__", apply_fn)
    unbound = hasattr(owner, "init") and hasattr(owner, "apply")
    bound = getattr(owner, "scope", None) is not None and owner is apply_fn  # Linen's bind
    if not callable(apply_fn) or (unbound and not bound) or not takes(apply_fn, 2):
        raise ValueError(
            f"the network must be a function (x, index) -> output, got {described(apply_fn)}: bind "
            "its variables, as in lambda x, index: model.apply(variables, x, index)"
        )


def output(value: Any, shape: tuple[int, ...], what: str = "the network's output") -> None:
    """Raises a ValueError unless this is one array of this shape.

    Example:
      >>> output(jnp.zeros((4, 1)), (4, 2))
      Traceback (most recent call last):
      ValueError: the network's output must have the shape of its input, (4, 2), got (4, 1)
    """
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        size = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
        raise ValueError(
            f"{what} must be one array of shape {shape}, got a {type(value).__name__}{size}. Usual "
            "causes: apply(..., mutable=...) returns its updates too; the network returns its "
            "state, or a record, beside the output; or it returns nothing. Return the array alone"
        )
    if value.shape == shape:
        return
    if value.shape == shape[1:]:
        hint = ": the batch axis is missing"
    elif len(shape) > 2 and value.shape == (*shape[:-1], 2 * shape[-1]):
        hint = (
            ": for a network that predicts variances too, give as_denoiser learned_variance=True "
            "or train_step vlb=0.001, or pass on the first half of its channels"
        )
    else:
        hint = ""
    raise ValueError(
        f"{what} must have the shape of its input, {shape}, got {tuple(value.shape)}{hint}"
    )


def pair(prediction: Any, shape: tuple[int, ...]) -> None:
    """Raises a ValueError unless this is a Prediction whose parts have this shape."""
    fields = ("x0", "eps", "fraction")[: 2 + hasattr(prediction, "fraction")]
    if not isinstance(prediction, tuple) or len(prediction) != len(fields):
        raise ValueError(
            "denoise_fn(x, t) must return a Prediction(x0, eps), got "
            f"{described(prediction)}: jaxddim.as_denoiser(schedule, network) makes a denoise_fn "
            "from a network"
        )
    for name, value in zip(fields, prediction, strict=True):
        output(value, shape, f"the prediction's {name}")


def typed_key(key: Any) -> jax.Array:
    """The random key, or array of keys, as typed keys of `IMPLEMENTATION`.

    Keys of other kinds (rbg, unsafe_rbg) are converted, each by its own bits: their draws depend on
    the batch and the device, and some coincide.

    Raises:
      ValueError: when it is no key.
    Example:
      >>> typed_key(jax.random.key(0, impl="rbg")).dtype
      key<fry>
    """
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise ValueError(f"key must be a random key, such as jax.random.key(0), got {key!r}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != np.uint32 or not key.ndim or key.shape[-1] not in (2, 4):
            raise ValueError(
                f"key must be a random key, such as jax.random.key(0), got {described(key)}"
            )
        kind = IMPLEMENTATION if key.shape[-1] == 2 else "rbg"
        key = jax.random.wrap_key_data(jnp.asarray(key), impl=kind)
    key = jnp.asarray(key)
    if str(jax.random.key_impl(key)) == IMPLEMENTATION:
        return key

    def convert(words: jax.Array) -> jax.Array:
        return functools.reduce(jax.random.fold_in, words, new_key(0))

    data = jax.random.key_data(key)
    return jax.vmap(convert)(data.reshape(key.size, -1)).reshape(key.shape)


def single_key(key: Any) -> jax.Array:
    """One typed key; a ValueError for an array of keys."""
    key = typed_key(key)
    if key.ndim:
        raise ValueError(f"key must be a single random key, got {list(key.shape)} keys")
    return key


def new_key(seed: int | jax.Array) -> jax.Array:
    """The random key of a seed, whatever kind of key JAX is set to make.

    It depends on the lower 32 bits of the seed, all that JAX uses if 64-bit types are off.
    """
    if isinstance(seed, jax.Array):
        bits = seed.astype(jnp.uint32)
    else:
        bits = np.uint32(operator.index(seed) & 0xFFFFFFFF)
    return jax.random.key(bits, impl=IMPLEMENTATION)


def example_keys(key: Any, batch: int, first_index: int | jax.Array = 0) -> jax.Array:
    """[b] keys: ``fold_in(key, first_index + i)``, or the given keys if there are [b].

    Raises:
      ValueError: when it is no key, or not as many keys as examples.
    """
    key = typed_key(key)
    whole(first_index, "first_index")
    if np.shape(first_index):
        raise ValueError(f"first_index must be one number, got shape {np.shape(first_index)}")
    if not key.ndim:
        return jax.vmap(functools.partial(jax.random.fold_in, key))(
            first_index + jnp.arange(batch, dtype=jnp.int32)
        )
    if key.shape != (batch,):
        raise ValueError(
            f"key must be a single random key or one for each of the {batch} examples, got "
            f"{list(key.shape)} keys"
        )
    return key
