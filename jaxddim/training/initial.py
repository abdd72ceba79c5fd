"""Initial weights: a network's own initialisers, on slices of one block of random bits.

An initialiser draws the bits of every kernel from a key of its own. Threefry, which alone gives the
same bits on every device and under `jax.vmap`, is unrolled for each such draw and for each key that
is folded: most of the time that a new state takes to compile. Here init is traced, and the nth draw
in it is given the nth slice of one block. So each kernel keeps its distribution, and one generator
is compiled. What is inside a loop is traced once and drawn many times, so it keeps its own keys.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

Thunk = Callable[[], Any]
"""A value that is computed when it is first asked for."""

_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip
"""Primitives that compute the function in them once, on their own arguments."""


def traced(init: Callable[..., Any], key: jax.Array, shapes: Sequence[tuple[int, ...]]) -> Any:
    """``init(key, x, index)`` as a jaxpr and its result's structure, for the first shape it takes.

    Raises:
      Exception: the network's own for the first shape, when it takes none.
    """
    first: Exception | None = None
    for shape in shapes:

        def on_zeros(key: jax.Array, shape: tuple[int, ...] = shape) -> Any:
            x, index = jnp.zeros(shape, jnp.float32), jnp.zeros(shape[:1], jnp.int32)
            return init(key, x, index)

        try:
            return jax.make_jaxpr(on_zeros, return_shape=True)(key)
        except Exception as error:  # whatever the network raises
            first = first or error
    raise first or ValueError("no shape to try")


def from_one_block(jaxpr: ClosedJaxpr, key: jax.Array) -> list[Any]:
    """The outputs of a jaxpr of one key, with slices of one block for the bits that it draws."""
    words = 0

    def counted(width: int, shape: tuple[int, ...]) -> None:
        nonlocal words
        words += _words(width, shape)

    _outputs(jaxpr, key, counted, _not_computed)
    # the barrier keeps XLA from computing the block anew in each kernel's loop
    block, start = lax.optimization_barrier(jax.random.bits(key, (words,), jnp.uint32)), 0

    def sliced(width: int, shape: tuple[int, ...]) -> jax.Array:
        nonlocal start
        part = block[start : start + _words(width, shape)]
        start += part.size
        if width == 64:
            halves = part.reshape(2, -1).astype(jnp.uint64)
            return (halves[0] << 32 | halves[1]).reshape(shape)
        return (part >> (32 - width)).astype(f"uint{width}").reshape(shape)

    return _outputs(jaxpr, key, sliced, _bound)


def _words(width: int, shape: tuple[int, ...]) -> int:
    """32-bit words for an array of this many bits an element; at least one for each."""
    size = 1
    for n in shape:
        size *= n
    return max(width // 32, 1) * size


def _outputs(
    jaxpr: ClosedJaxpr, key: jax.Array, bits: Callable[..., Any], bound: Callable[..., Any]
) -> list[Any]:
    drawn: dict[Any, Any] = {}

    def draw(of: Thunk, width: int, shape: tuple[int, ...]) -> Any:
        same = of, width, shape  # two draws from one key are one draw
        if same not in drawn:
            drawn[same] = bits(width, shape)
        return drawn[same]

    return [out() for out in _evaluated(jaxpr.jaxpr, jaxpr.consts, [lambda: key], draw, bound)]


def _evaluated(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Thunk],
    draw: Callable[..., Any],
    bound: Callable[..., Any],
) -> list[Thunk]:
    """The outputs of a jaxpr; what no output needs, as the forward pass, is not computed."""
    values: dict[Any, Thunk] = dict(zip(jaxpr.invars, inputs, strict=True))
    values |= {var: _known(const) for var, const in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Thunk:
        return _known(atom.val) if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        given, inner = [read(atom) for atom in eqn.invars], _called(eqn)
        if inner is not None:
            outs = _evaluated(inner.jaxpr, inner.consts, given, draw, bound)
        elif eqn.primitive.name == "random_bits" and eqn.invars[0].aval.shape == ():
            outs = [_once(draw, given[0], eqn.params["bit_width"], eqn.params["shape"])]
        else:
            found = _once(bound, eqn, given)
            outs = [lambda found=found, i=i: found()[i] for i in range(len(eqn.outvars))]
        values |= zip(eqn.outvars, outs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """The jaxpr that an equation computes once, as it stands; None for any other equation."""
    if eqn.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = eqn.params.get(name)
        if inner is not None:
            inner = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            return inner if len(inner.jaxpr.invars) == len(eqn.invars) else None
    return None


def _bound(eqn: Any, given: Sequence[Thunk]) -> Sequence[Any]:
    outs = eqn.primitive.bind(*(value() for value in given), **eqn.params)
    return outs if eqn.primitive.multiple_results else [outs]


def _not_computed(eqn: Any, given: Sequence[Thunk]) -> Sequence[None]:
    for value in given:
        value()
    return [None] * len(eqn.outvars)


def _known(value: Any) -> Thunk:
    return lambda: value


def _once(fn: Callable[..., Any], *args: Any) -> Thunk:
    found: list[Any] = []

    def thunk() -> Any:
        if not found:
            found.append(fn(*args))
        return found[0]

    return thunk
