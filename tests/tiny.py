"""Runs small enough to train in tests, and commands called as a user calls them."""

import contextlib
import functools
import gc
import io
import json
import os
import runpy
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxddim.cpu import runtime
from jaxddim.runs import checkpoints, record
from jaxddim.runs.build import abstract_state, build

REPOSITORY = Path(__file__).parent.parent
PHOTOGRAPHS = REPOSITORY.parent / "shared" / "data" / "cars32_photos.tar"
STEPS = 20
NETWORK = ["--config=tiny", "--data.image-size=8", "--model.channels=4", "--model.groups=2"]
NETWORK += ["--model.multipliers", "1"]
SMALL = [
    "--model.name",
    "simple_unet",
    "--model.multipliers",
    "1",
    "1",
]  # compiles in half the time
LOOP = ["--train.checkpoint-every", "5", "--train.sample-steps", "9"]
QUICK = "--xla_backend_optimization_level=0"
QUICK += " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
"""Flags of XLA that halve the time of compiling, for processes of their own."""
_OPTIONS = runtime.compiler_options  # before a test's fixture changes them
KEPT = {  # cache every compiled function, since compiling takes most of a run's time
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


class Finished(NamedTuple):
    """The exit code and the output of a command; white space in `out` is collapsed."""

    code: int
    out: str
    err: str


def command(name: str, *flags: Any) -> Finished:
    """Runs ``python -m experiments.NAME FLAGS`` in this process; passes exceptions on.

    Its collections of garbage leave out the oldest: in a process of many tests that takes a second.
    """
    path = REPOSITORY / "experiments" / f"{name}.py"
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [str(path), *map(str, flags)]),
        mock.patch.object(gc, "collect", lambda *_, collect=gc.collect: collect(1)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    return Finished(code, " ".join(out.getvalue().split()), err.getvalue())


def complaints(err: str) -> list[str]:
    """The lines on stderr other than those that say what is being done, which end in " ..."."""
    return [line for line in err.splitlines() if not line.endswith(" ...")]


def environment(root: Path) -> dict[str, str]:
    """Of a command in a process of its own."""
    where = {
        "HOME": str(root),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
    }
    return os.environ | where | {name.upper(): str(value) for name, value in KEPT.items()}


def start(root: Path, name: str, *flags: Any, **more: str) -> subprocess.Popen:
    """Starts the command in a process of its own, with its output captured."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", f"experiments.{name}", *map(str, flags)],
        cwd=REPOSITORY,
        env=environment(root) | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flags(root: Path, workdir: Path) -> list[str]:
    """Flags for a tiny run that reads and caches its images below root."""
    places = ["--data.data-dir", str(root / "tfds"), "--data.cache-dir", str(root / "images")]
    return [*NETWORK, *LOOP, *places, "--workdir", str(workdir)]


@contextlib.contextmanager
def kept_compilations(root: Path) -> Iterator[None]:
    """Caches compiled functions below root, for this process and for those of `start`."""
    new = KEPT | {"jax_compilation_cache_dir": str(root / "compiled")}
    old = {name: getattr(jax.config, name) for name in new}
    for values in (new, old):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is new:
            yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the run that the tests share; nothing outside it is touched."""
    root = tmp_path_factory.getbasetemp() / "tiny"
    with pytest.MonkeyPatch.context() as patch, kept_compilations(root):
        for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
            patch.setenv(name, str(root / name))
        yield root


@functools.cache
def trained(root: Path) -> tuple[Path, Finished]:
    """A run of STEPS steps on 64 rendered cars, never interrupted, and how its command ended.

    Files of tests share it: it is compiled as usual, whatever the first of them has asked for.
    """
    workdir = root / "trained"
    with mock.patch.object(runtime, "compiler_options", _OPTIONS):
        return workdir, command("train", *flags(root, workdir))


def state(workdir: Path, which: str = "latest") -> Any:
    """A checkpoint of a run."""
    abstract = abstract_state(build(record.load(str(workdir))))
    return checkpoints.restore(checkpoints.manager(workdir), abstract, which)


def saved(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints of a run."""
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()
    )


MEASURED = ("images_per_second", "peak_memory_gib")
"""Numbers of a log that differ between two runs of the same command."""


def computed(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without those numbers."""
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in metrics(workdir)]


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Fails unless both trees have the same leaves, bit for bit."""
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(actual),
        jax.tree_util.tree_leaves_with_path(expected),
        strict=True,
    )
    for (path, a), (other, b) in pairs:
        a, b = np.asarray(a), np.asarray(b)
        assert path == other
        assert (a.dtype, a.shape) == (b.dtype, b.shape), path
        assert a.tobytes() == b.tobytes(), f"{jax.tree_util.keystr(path)} differs"


def events(workdir: Path, cut: bool = False) -> list[Any]:
    """The TensorBoard events of a run, each stored as length, checksum, event, checksum.

    With `cut` the last one of a file may be cut short, as a full disk does; TensorBoard leaves it
    out too.
    """
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            if cut and len(content) < 16:
                break
            (length,) = struct.unpack("<Q", content[:8])
            if cut and len(content) < 16 + length:
                break
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found
