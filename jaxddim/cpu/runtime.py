"""Settings for the machine: options for jax.jit, and memory that is kept between calls."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax._src import xla_bridge  # has no public name


def compiled(fn: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit(fn, **options)`` with `compiler_options`; for the outermost jit only."""
    return jax.jit(fn, compiler_options=compiler_options(), **options)


_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "", "xla_cpu_prefer_vector_width": 512}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Options for ``jax.jit(..., compiler_options=)`` on this machine; {} if none help.

    On CPU, jaxlib may hand convolutions to a library whose weight gradients are several times
    slower than XLA's own, and by default it uses half of AVX-512's width where the processor has
    it. Either option may disappear from XLA, so each is used only if this jaxlib accepts it.

    Returns:
      A dict for jax.jit. Do not use it on a function that is itself called under jit.
    Example:
      >>> double = jax.jit(lambda x: 2 * x, compiler_options=compiler_options())
      >>> float(double(1.0))
      2.0
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _OPTIONS.items() if _accepted({name: value})}


def _accepted(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_COMPILED = "/jax/core/compile/backend_compile_duration"


def _glibc() -> ctypes.CDLL | None:
    """glibc, or None with another C library."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None


@functools.cache
def keep_memory() -> None:
    """Lets this process keep the memory that computations on CPU free, instead of returning it.

    A compiled function allocates all its temporary memory at once and frees it at the end. glibc
    gets such large blocks from the operating system every time, page by page as they are touched,
    which takes part of a step's time (docs/howto/speed.md). With these settings it keeps them. In
    return the process keeps its peak memory, and a call on CPU returns when its computation is
    done. What compiling for more than a second has left is returned once.

    Only the thread that calls keeps them. Arguments that are NumPy arrays of megabytes are still
    being copied when the call is made; it then runs in another thread, whose large blocks are
    returned as before. So pass ``jax.block_until_ready(jax.device_put(batch))``.

    Call it once, before any other use of JAX, even asking for the devices (but after
    ``jax.distributed.initialize``); further calls do nothing. On GPU and TPU memory is returned as
    before; with a C library other than glibc nothing changes.

    Raises:
      RuntimeError: when a JAX backend has already started, since it reads its settings then.
    Example:
      >>> import subprocess, sys  # in a new process, as JAX has started in this one
      >>> command = "import jaxddim; jaxddim.keep_memory()"
      >>> subprocess.run([sys.executable, "-c", command]).returncode
      0
    """
    glibc = _glibc()
    if glibc is None:
        return
    if xla_bridge.backends_are_initialized():
        raise RuntimeError(
            "keep_memory() was called too late: JAX has started its backend, which reads its "
            "settings then; call it before anything that makes an array or asks for devices"
        )
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu":
        glibc.mallopt(_M_MMAP_MAX, 0)
        glibc.mallopt(_M_TRIM_THRESHOLD, -1)

        def trim(event: str, duration_secs: float, **_: Any) -> None:
            if event == _COMPILED and duration_secs > 1:
                glibc.malloc_trim(0)

        jax.monitoring.register_event_duration_secs_listener(trim)
