"""What suits the machine: options for jax.jit, and memory that is kept between calls."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax._src import xla_bridge  # has no public name


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


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> None:
    """Lets this process keep the memory that computations on CPU free, instead of returning it.

    A compiled function asks for all its temporary memory at once and frees it at its end. glibc
    gets so large a piece from the kernel every time, a page at a time as it is touched, which
    takes up to a sixth of a training step's time. Afterwards it takes next to none. The process
    holds what it held at its peak, and a call returns when its result is there: only in the
    calling thread can glibc keep such pieces.

    Call it once, before JAX is asked for anything, even how many devices there are (and after
    ``jax.distributed.initialize``). It changes nothing on GPU and TPU, nor where the C library is
    another one than glibc.

    Raises:
      RuntimeError: when a backend of JAX has started, so that it is too late.
    Example:
      >>> import subprocess, sys  # in a new process, as JAX has started in this one
      >>> command = "import jaxddim; jaxddim.keep_memory()"
      >>> subprocess.run([sys.executable, "-c", command]).returncode
      0
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    if jax.config.read("jax_cpu_enable_async_dispatch"):
        if xla_bridge.backends_are_initialized():
            raise RuntimeError(
                "keep_memory() came too late: JAX has started its backend, which reads the setting "
                "only then; call it before anything that makes an array or asks for devices"
            )
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu":
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
