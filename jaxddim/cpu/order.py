"""Computes a kernel's gradient after its input's, so that an optimizer can update in place.

A training step can overwrite a parameter in place only after its last read. The last read of a
layer's kernel is the gradient of its input, G(y', k). No data dependency puts it before the
kernel's own gradient and the update that follows, so on CPU XLA copies every parameter first.
`pair` returns (x, k) unchanged; in the backward pass it makes the gradient of k depend on that of
x, in a way that XLA does not simplify.
"""

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxddim.cpu.primitives import by_platform


def _after(a: jax.Array, b: jax.Array, *, devices: int = 1) -> jax.Array:
    return a


def _after_cpu(a: jax.Array, b: jax.Array) -> jax.Array:
    if b.size == 0:
        return a
    number = b[(0,) * b.ndim]
    return a + ((number < 0) & (number > 0)).astype(a.dtype)  # always 0


# with several devices all of them would wait for one number
_after_p = by_platform("after", _after, _after_cpu, several=_after)
ad.defjvp(_after_p, lambda da, a, b: _after_p.bind(da, b), None)
ad.primitive_transposes[_after_p] = lambda ct, a, b: (_after_p.bind(ct, b), None)

_pair_p = Primitive("pair")
_pair_p.multiple_results = True
_pair_p.def_impl(lambda x, k: [x, k])
_pair_p.def_abstract_eval(lambda x, k: [x, k])
mlir.register_lowering(_pair_p, lambda ctx, x, k: [x, k])
batching.primitive_batchers[_pair_p] = lambda args, axes: (args, axes)


def _pair_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    if any(isinstance(tangent, ad.Zero) for tangent in tangents):
        return primals, tangents
    return primals, _pair_p.bind(*tangents)


def _pair_transpose(cotangents: Any, x: Any, k: Any) -> list[Any]:
    first, second = cotangents
    if any(isinstance(cotangent, ad.Zero) for cotangent in cotangents):
        return [first, second]
    return [first, _after_p.bind(second, first)]


ad.primitive_jvps[_pair_p] = _pair_jvp
ad.primitive_transposes[_pair_p] = _pair_transpose


def pair(x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, k), with the gradient of k computed after that of x."""
    x, k = _pair_p.bind(x, k)
    return x, k
