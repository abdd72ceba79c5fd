"""The house is in order: rooms, arrows between them, and folders that a person can take in."""

import re
import sys

import pytest

from tests import imports

MOST_FILES, LONGEST_CHAIN = 14, 8


def is_core(name):
    """Whether a module belongs to the theory: it is importable with JAX, NumPy and Optax alone."""
    return imports.inside(name, "jaxddim") and imports.room(name) not in NEEDS_MORE


NEEDS_MORE = {"jaxddim.export", "jaxddim.models", "jaxddim.runs", "jaxddim.weights"}
"""Rooms that need Flax, Orbax or safetensors, and that `import jaxddim` leaves alone."""


@pytest.mark.parametrize("package", imports.PACKAGES)
def test_imports_have_no_circle_and_no_long_chain(package):
    chain = imports.longest_chain(package)
    assert len(chain) <= LONGEST_CHAIN, " -> ".join(chain)


def test_arrows_between_rooms_point_one_way():
    edges = imports.rooms()
    for here in edges:
        assert here not in imports.reached(edges, here)


def test_nobody_imports_a_command():
    commands = imports.commands()
    assert {f"experiments.{name}" for name in ("train", "sample", "evaluate", "paper")} < commands
    for name, others in imports.graph().items():
        assert not others & commands, name


@pytest.mark.parametrize(
    ("package", "known"), [("jaxddim", {"jaxddim"}), ("experiments", {"jaxddim", "experiments"})]
)
def test_a_package_imports_nothing_of_those_above_it(package, known):
    for name, others in imports.graph().items():
        if imports.inside(name, package):
            assert {other.partition(".")[0] for other in others} <= known, name


def test_the_core_needs_jax_numpy_and_optax_alone():
    for name in filter(is_core, imports.modules()):
        libraries = imports.outside(name) - sys.stdlib_module_names
        assert libraries <= {"jax", "numpy", "optax"}, name
        assert all(is_core(other) for other in imports.graph()[name]), name


def test_what_is_for_processors_needs_jax_and_numpy_alone():
    for name in filter(lambda name: imports.room(name) == "jaxddim.cpu", imports.modules()):
        assert imports.outside(name) - sys.stdlib_module_names <= {"jax", "numpy"}, name
        assert {imports.room(other) for other in imports.graph()[name]} <= {"jaxddim.cpu"}, name


def test_no_folder_holds_more_files_than_one_takes_in():
    crowded = {k: v for k, v in imports.files_a_folder().items() if v > MOST_FILES}
    assert not crowded


def test_the_picture_in_the_contributing_guide_is_that_of_the_source():
    text = (imports.REPOSITORY / "CONTRIBUTING.md").read_text()
    (picture,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert picture == imports.mermaid(), "python -m tests.imports prints it"
