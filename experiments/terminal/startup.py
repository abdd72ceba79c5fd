"""Process start-up: freed memory is kept, and compiled functions are cached.

The cache is JAX's: a function that took half a minute to compile is read in a second by the next
process. Its key holds the program, the versions and the CPU features, so different machines may
share a home folder.
"""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache as stored  # these two have no public name
from jax._src import xla_bridge

from experiments.terminal import processes, progress
from experiments.terminal.errors import UserError
from experiments.terminal.files import default_cache_dir, is_trusted
from jaxddim.cpu.runtime import keep_memory

COMPILED = "compiled"  # in the user's cache folder
LEAST_SECONDS = 0.1
"""What compiles faster is not kept. JAX's own second leaves out what draws the weights."""


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
    nothing is cached; nor is it, with a line, where others may have written to the folder, since it
    holds code that is run.
    """
    config: Any = jax.config  # the type checker does not know its attributes
    stored.get_executable_and_time = without_damaged(stored.get_executable_and_time)
    with_checksums()
    if not config.jax_enable_compilation_cache:
        return
    given = config.jax_compilation_cache_dir
    try:
        folder = default_cache_dir() / COMPILED if given is None else Path(given)
        if given is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.exists() or is_trusted(folder):
            if given is None and os.access(folder, os.W_OK | os.X_OK):
                config.update("jax_compilation_cache_dir", str(folder))
                if config.jax_persistent_cache_min_compile_time_secs == 1:  # nobody's choice
                    config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
            return
    except (OSError, UserError):  # it cannot be made, or there is no home folder
        return
    config.update("jax_compilation_cache_dir", None)
    print(
        f"note: nothing is kept of what is compiled: {folder} belongs to another user, or all may "
        f"write to it, and what is in it would be run; chmod 700 it if it is yours, or name a "
        "folder of your own with JAX_COMPILATION_CACHE_DIR",
        file=sys.stderr,
    )


def with_checksums() -> None:
    """Has JAX write a checksum where it compresses with zstd, which has none otherwise.

    zlib has one. Without it a program with another bit would be read, and run.
    """
    zstd: Any = stored.zstd
    zstandard: Any = stored.zstandard
    if zstd:
        options = {zstd.CompressionParameter.checksum_flag: 1}
        stored.compress_executable = functools.partial(zstd.compress, options=options)
    elif zstandard:
        compressor = functools.partial(zstandard.ZstdCompressor, write_checksum=True)
        stored.compress_executable = lambda executable: compressor().compress(executable)


def without_damaged(read: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's ``read(key, ...)`` of the cache, where a damaged entry is removed and compiled again.

    JAX leaves it there, and warns of it in every process. An entry of another user is one too.
    """
    if getattr(read, "__wrapped__", None):
        return read

    @functools.wraps(read)
    def get(key: str, *where: Any) -> Any:
        config: Any = jax.config
        folder = Path(config.jax_compilation_cache_dir or "")
        try:
            kept = [path for path in _entry(folder, key) if path.exists()]
            private = not folder.stat().st_mode & 0o077  # whatever the umask is
            if all(path.is_file() and (private or is_trusted(path)) for path in kept):
                return read(key, *where)
        except Exception:  # damaged files may raise anything
            pass
        for path in filter(os.path.lexists, _entry(folder, key)):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            print(f"note: {path} was damaged: compiling again", file=sys.stderr)
        return None, None

    return get


def _entry(folder: Path, key: str) -> list[Path]:
    """The files of JAX's entry: the program, and when it was last used."""
    return [folder / f"{key}{suffix}" for suffix in ("-cache", "-atime")]


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
