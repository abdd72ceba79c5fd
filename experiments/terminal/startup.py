"""How a process starts: with memory that it keeps, and a cache of what it compiles.

JAX keeps compiled functions: what took half a minute is read in a second by the next process. The
cache's key holds the program, the versions and the features of the processor, so a home folder may
be shared by machines that differ.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

from experiments.terminal.files import default_cache_dir
from jaxddim.cpu.runtime import keep_memory


def start() -> None:
    """Every command's first act, before anything can start a backend of JAX."""
    keep_memory()
    switch_on()


def switch_on() -> None:
    """Keeps what is compiled in ``compiled`` of the user's cache folder, from here on.

    A folder that is set, as by $JAX_COMPILATION_CACHE_DIR, is left as it is, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` switches all of it off. Where the folder cannot be
    written to nothing is kept.
    """
    config: Any = jax.config  # its settings are attributes that types do not know
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    folder = default_cache_dir() / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds code that JAX will run
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        config.update("jax_compilation_cache_dir", str(folder))


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Compiles everything inside, and keeps none of it: for timing."""
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    before = config.jax_enable_compilation_cache

    def switch(value: bool) -> None:
        config.update("jax_enable_compilation_cache", value)
        compilation_cache.reset_cache()  # else the old setting stays in force

    switch(False)
    try:
        yield
    finally:
        switch(before)
