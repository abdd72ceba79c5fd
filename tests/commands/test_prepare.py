"""The prepare command."""

import subprocess
import sys

import pytest

from experiments import prepare
from experiments.terminal.errors import UserError
from tests.data import test_stanford_cars as made_up


@pytest.fixture(autouse=True)
def _hermetic(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def test_prepare_says_where_and_how_many_and_that_it_is_there(tmp_path, capsys):
    made_up.place(tmp_path / "files", made_up.unpacked())
    config = prepare.PrepareConfig(path=str(tmp_path / "files"), data_dir=str(tmp_path / "data"))
    prepare.main(config)
    first = capsys.readouterr().out
    assert f"cars196: 3 train, 2 test images in {tmp_path / 'data/cars196/2.1.0'}" in first
    assert "note: incomplete Stanford Cars" in first
    prepare.main(config)
    second = capsys.readouterr().out
    assert "already" in second
    assert second.splitlines()[-1] == first.splitlines()[-1]


def test_prepare_counts_cifar10(tmp_path, capsys):
    made_up.place(tmp_path / "files", made_up.cifar_files())
    prepare.main(prepare.PrepareConfig(source="cifar10", path=str(tmp_path / "files")))
    assert "cifar10: 10 train, 2 test images" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["cars196", "cifar10"])
def test_a_path_without_the_files_is_the_users_mistake(tmp_path, source):
    with pytest.raises(UserError, match=r"python -m experiments.prepare"):
        prepare.main(prepare.PrepareConfig(source=source, path=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        prepare.main(prepare.PrepareConfig(source=source, path=str(tmp_path / "nowhere")))


def test_the_command_ends_with_0_or_with_one_line_and_2(tmp_path):
    made_up.place(tmp_path / "files", made_up.flattened())
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, code in ((tmp_path / "files", 0), (empty, 2)):
        command = [sys.executable, "-W", "error", "-m", "experiments.prepare"]
        flags = ["--data-dir", str(tmp_path / path.name), "--path", str(path)]
        run = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        assert run.returncode == code, run.stderr
        assert "Traceback" not in run.stderr
    assert run.stderr.startswith("error: Stanford Cars are not on this machine")
    assert len(run.stderr.splitlines()) == 1
