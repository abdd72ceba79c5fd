"""Settings of the property tests, which have no deadline since some compile; a quicker compiler.

Files with slow tests come first, so that no worker is left alone with one at the end. NumPy's
threads wait by spinning: two processes with a thread for each core hinder each other. A collection
of all garbage looks at what every module holds, for a third of a second; tenfold fewer do.
"""

import contextlib
import functools
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hypothesis
import pytest

from experiments.evaluation.features import loading
from jaxddim.cpu import runtime

hypothesis.settings.register_profile(
    "jaxddim", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxddim")
gc.set_threshold(10_000, 10, 100)


def pytest_configure(config: pytest.Config) -> None:
    """Shares the cores out among the workers' NumPy, which makes its threads as it is imported."""
    if workers := getattr(config.option, "numprocesses", None):
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(threads))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first; otherwise in the order that they were found in."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@functools.cache
def _features(load: Callable[..., Any], options: Callable[[], Any], *about: str | None) -> Any:
    """A network for features, compiled as usual, as level 0 makes it fifteen times slower."""
    with mock.patch.object(runtime, "compiler_options", options):
        return load(*about)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    options = {"xla_backend_optimization_level": 0}
    load = functools.partial(_features, loading.load, runtime.compiler_options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "compiler_options", lambda: options)
        patch.setattr(loading, "load", load)
        yield


@pytest.fixture
def quick_compiler():
    """Halves the compile time, for tests that do not compare numbers with those of others."""
    with _quick():
        yield


@pytest.fixture(scope="module")
def quick_module():
    """The same for all tests of a file, and for its fixtures that ask for this one."""
    with _quick():
        yield


collect_ignore = ["torch_networks.py", "weights/foreign.py"]  # they import PyTorch
