"""Settings of the property tests, which have no deadline since some compile; a quicker compiler.

Files with slow tests come first, so that no worker is left alone with one at the end. Each worker
has cores of its own: threads of two processes on the same cores wait for each other, which took
half more time on two cores.
"""

import contextlib
import os
from collections.abc import Iterator

import hypothesis
import pytest

from jaxddim.cpu import runtime

hypothesis.settings.register_profile(
    "jaxddim", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxddim")


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # Linux only


def pytest_configure(config: pytest.Config) -> None:
    """Shares the cores out, before JAX starts, which makes a thread for each."""
    worker = getattr(config, "workerinput", None)  # of pytest-xdist
    if worker and CORES:
        number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        os.sched_setaffinity(0, CORES[number % len(CORES) :: count])
    elif workers := getattr(config.option, "numprocesses", None):  # their parent
        # NumPy's threads, made as it is imported, which pytest's plugins do
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, len(CORES) // workers)))


@pytest.fixture(scope="module")
def all_cores():
    """For processes that the tests start: the cores of all workers."""
    if not CORES:
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, mine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first; otherwise in the order that they were found in."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    options = {"xla_backend_optimization_level": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "compiler_options", lambda: options)
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
