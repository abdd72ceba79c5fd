"""Compilation by jax.jit with the options that suit the machine."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def compiled(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit(fn, **options)`` with `compiler_options`: for the outermost jit only."""
    return jax.jit(fn, compiler_options=compiler_options(), **options)


@functools.cache
def compiler_options() -> dict[str, Any]:
    """What ``jax.jit(..., compiler_options=)`` should get on this machine; {} where nothing helps.

    On CPU, jaxlib may hand convolutions to a library whose weight gradients are several times
    slower than XLA's own. The option that prevents it is experimental, so it is given only
    where this jaxlib is seen to accept it.

    Returns:
      A dict for jax.jit. It must not be used on a function that is itself called under jit.
    Example:
      >>> double = jax.jit(lambda x: 2 * x, compiler_options=compiler_options())
      >>> float(double(1.0))
      2.0
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
