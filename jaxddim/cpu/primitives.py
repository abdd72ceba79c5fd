"""Linear maps with one lowering for CPU and another for all other platforms.

Each map has a plain form, which defines its result, its batching rule and its lowering for GPU and
TPU, and a form for CPU. Maps come in families that are closed under differentiation: the gradient
of a map with respect to an operand is a map of the same family. So a network is differentiated, in
both modes and to any order, without differentiating either form, and GPU and TPU get exactly what
the plain forms and their derivatives would give. (`jax.lax.platform_dependent` also chooses by
platform, but as a conditional around both forms, whose gradient stores the residuals of both.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir


def by_platform(
    name: str,
    plain: Callable[..., Any],
    cpu: Callable[..., Any],
    several: Callable[..., Any] | None = None,
) -> Primitive:
    """A primitive with one result, computed as `cpu` on CPU and as `plain` elsewhere.

    The caller adds the differentiation rules (`ad.deflinear2`, `ad.defbilinear`).

    Args:
      name: of the operation in a jaxpr.
      plain: a function of arrays and hashable keyword arguments.
      cpu: another function with the same results.
      several: what takes its place in a function that is compiled for several devices; it gets
        their number as ``devices=``.
    """
    primitive = Primitive(name)

    @functools.cache
    def jitted(**params: Any) -> Callable[..., Any]:
        return jax.jit(functools.partial(primitive.bind, **params))

    @functools.lru_cache(4096)
    def result(*avals: Any, **params: Any) -> Any:
        (aval,) = jax.make_jaxpr(functools.partial(plain, **params))(*avals).out_avals
        return aval

    def batched(args: Any, axes: Any, **params: Any) -> tuple[Any, int]:
        return jax.vmap(functools.partial(plain, **params), axes)(*args), 0

    primitive.def_impl(lambda *args, **params: jitted(**params)(*args))
    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))

    def lowered(ctx: Any, *args: Any, **params: Any) -> Any:
        devices = getattr(ctx.module_context.axis_context, "num_devices", 1)
        form = cpu
        if several is not None and devices > 1:
            form = functools.partial(several, devices=devices)
        return mlir.lower_fun(form, multiple_results=False)(ctx, *args, **params)

    mlir.register_lowering(primitive, lowered, platform="cpu", inline=False)
    return primitive
