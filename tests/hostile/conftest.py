"""A server for each module, and folders in which nothing else may appear."""

import pytest

from tests.hostile import bounds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with bounds.server(tmp_path_factory.mktemp("home") / "user") as started:
        yield started


@pytest.fixture
def place(tmp_path):
    """A folder for hostile files; afterwards nothing else lies beside it."""
    inside = tmp_path / "outside" / "inside"
    inside.mkdir(parents=True)
    yield inside
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert [path.name for path in inside.parent.iterdir()] == ["inside"]
