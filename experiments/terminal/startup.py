"""Process start-up: freed memory is kept, and compiled functions are cached.

The cache is JAX's: a function that took half a minute to compile is read in a second by the next
process. Its key holds the program, the versions and the CPU features, so different machines may
share a home folder.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache as stored  # these two have no public name
from jax._src import xla_bridge

from experiments.terminal import processes, progress
from experiments.terminal.errors import UserError
from experiments.terminal.files import default_cache_dir
from jaxddim.cpu.runtime import keep_memory

COMPILED = "compiled"  # in the user's cache folder


def start(*, distributed: bool = False) -> None:
    """Called first by every command, before anything can start a JAX backend.

    With distributed, joins the other processes, of which the first alone shows what it does.

    Where the caller's process has used JAX before, as a notebook or a test has, its memory is left
    as it is.
    """
    if distributed:
        processes.start()
    if not xla_bridge.backends_are_initialized():
        keep_memory()
    if distributed and not processes.is_first():
        progress.mute()
    switch_on()


def switch_on() -> None:
    """Caches compiled functions in ``compiled`` in the user's cache folder, from now on.

    A folder that is already set, as by $JAX_COMPILATION_CACHE_DIR, takes precedence, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` switches the cache off. If the folder is not writable,
    nothing is cached.
    """
    config: Any = jax.config  # the type checker does not know its attributes
    stored.get_executable_and_time = without_damaged(stored.get_executable_and_time)
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    try:
        folder = default_cache_dir() / COMPILED
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds code that JAX will run
    except (OSError, UserError):  # it cannot be made, or there is no home folder
        return
    if os.access(folder, os.W_OK | os.X_OK):
        config.update("jax_compilation_cache_dir", str(folder))


def without_damaged(read: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's ``read(key, ...)`` of the cache, where a damaged entry is removed and compiled again.

    JAX leaves it there, and warns of it in every process.
    """
    if getattr(read, "__wrapped__", None):
        return read

    @functools.wraps(read)
    def get(key: str, *where: Any) -> Any:
        try:
            return read(key, *where)
        except Exception:  # damaged files may raise anything
            config: Any = jax.config
            folder = Path(config.jax_compilation_cache_dir)
            for path in folder.glob(f"{key}*"):
                path.unlink(missing_ok=True)
                print(f"note: {path} was damaged: compiling again", file=sys.stderr)
            return None, None

    return get


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Disables the compilation cache inside the block, for timing."""
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    before = config.jax_enable_compilation_cache

    def switch(value: bool) -> None:
        config.update("jax_enable_compilation_cache", value)
        compilation_cache.reset_cache()  # otherwise the old setting stays in effect

    switch(False)
    try:
        yield
    finally:
        switch(before)
