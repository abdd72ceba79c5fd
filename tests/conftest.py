"""Property tests: the same examples on every machine, and no deadline, since some compile."""

import hypothesis
import pytest

from jaxddim.cpu import runtime

hypothesis.settings.register_profile(
    "jaxddim", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("jaxddim")


@pytest.fixture
def quick_compiler(monkeypatch):
    """Halves the compile time, for tests that do not compare numbers with those of others."""
    options = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(runtime, "compiler_options", lambda: options)


collect_ignore = ["torch_networks.py", "weights/foreign.py"]  # they import PyTorch
