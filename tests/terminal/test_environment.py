"""Commands where there is no home folder, and in terminals and folders of any names."""

import io
import os
import pwd
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.terminal import cli, files, progress, startup, texts
from experiments.terminal.errors import UserError
from jaxddim.runs.config import DataConfig
from tests import tiny

root = tiny.root
ODD = [
    "[/bold].png",
    "\\[/x]",
    "[bold] :smile:",
    "end\\",
    "[red]",
    "[/]",
    "[bold]x[/bold]",
    ":car:",
    "\\[x]",
    "a\nb",
    "\x1b[31m",
    "ä€",
    "\udcff",
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and a user id without a name."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def pictures(path: Path, names=("a.png", "b.png", "c.png")) -> Path:
    path.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(path / name)
    return path


# -- home --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["folder", "rendered", "auto"])
def test_without_a_home_folder_a_chosen_cache_folder_is_enough(homeless, tmp_path, source):
    path = str(pictures(tmp_path / "p")) if source == "folder" else None
    chosen = {"path": path, "num_images": 3, "cache_dir": str(tmp_path / "c")}
    assert len(data.load(DataConfig(source=source, image_size=8, **chosen)).images) == 3
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("source", ["folder", "rendered", "auto", "cars196", "cifar10"])
def test_without_any_folder_for_the_cache_it_is_the_users_mistake(homeless, tmp_path, source):
    path = str(pictures(tmp_path / "p")) if source == "folder" else None
    with pytest.raises(UserError, match=r"--data.cache-dir .*set HOME"):
        data.load(DataConfig(source=source, path=path, image_size=8))


def test_without_a_home_folder_commands_start_and_compile(homeless):
    startup.switch_on()
    assert not Path("~").exists()


COMMANDS = {
    "train": ("--config=tiny", "--data.num-images=2", "--data.holdout=0", "--data.cache-dir=c"),
    "sample": ("--workdir=none", "--out=x.png"),
    "evaluate": ("--workdir=none",),
    "paper": ("--workdir=none",),
    "swiss_roll": ("--networks=1",),
    "prepare": (),
}
PATHS = {
    "train": ("workdir", "data.path", "data.data-dir", "data.cache-dir", "train.init-from"),
    "sample": ("workdir", "out"),
    "evaluate": ("workdir", "samples", "network-weights", "out", "data.path", "data.data-dir"),
    "paper": ("workdir", "out", "network-weights", "data.path", "data.cache-dir"),
    "swiss_roll": ("workdir",),
    "prepare": ("path", "data-dir"),
}
EVERY = [(command, flag) for command, flags in PATHS.items() for flag in flags]


@pytest.mark.parametrize(("command", "flag"), EVERY)
@pytest.mark.parametrize("start", ["~", "~/r", "~nobody-of-this-name/r"])
def test_a_home_folder_that_is_not_known_is_the_users_mistake(homeless, command, flag, start):
    told = tiny.command(command, *COMMANDS[command], f"--{flag}={start}")
    assert told.code == 2
    assert "home folder ~" in told.err
    assert len(tiny.complaints(told.err)) == 1
    assert not list(Path().glob("~*"))


@pytest.mark.parametrize(("command", "flag"), EVERY)
def test_every_path_may_begin_with_the_home_folder(home, command, flag, monkeypatch):
    seen = []
    original = cli.parse

    def parse(*arguments, **options):
        seen.append(original(*arguments, **options))
        raise UserError("far enough")

    monkeypatch.setattr(cli, "parse", parse)
    tiny.command(command, *COMMANDS[command], f"--{flag}=~/r")
    value = seen[0]
    for name in flag.replace("-", "_").split("."):
        value = getattr(value, name)
    assert value == str(home / "r")


@pytest.mark.slow  # trains
def test_a_run_goes_to_the_home_folder_and_comes_from_there(home, root, tmp_path):
    told = tiny.command("train", *tiny.flags(root, "~/run"), "--train.steps=1")
    assert told.code == 0, told
    assert (home / "run" / "config.json").exists()
    for out in ("~/grid.png", "~/grids/a.npz", "~/folder"):
        told = tiny.command("sample", "--workdir=~/run", "--num=2", "--steps=2", f"--out={out}")
        assert told.code == 0, told
        assert (home / out[2:]).exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "TFDS_DATA_DIR"])
def test_variables_may_begin_with_the_home_folder(home, variable, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, "~/place")
    data.load(DataConfig(source="rendered", num_images=2, image_size=8))
    assert (home / "place").is_dir()
    assert not (tmp_path / "~").exists()


def test_a_path_that_only_looks_like_it_stays():
    assert files.located("./~") == Path("./~")
    assert files.located("a~b") == Path("a~b")


# -- terminals and names -----------------------------------------------------------------


@pytest.mark.parametrize("name", ODD)
def test_names_are_printed_as_they_are(name, monkeypatch, capsys):
    progress.console().print(f"pictures are in {name}/samples", style="yellow")
    expected = f"pictures are in {texts.printable(name)}/samples\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("name", ODD)
def test_names_in_lists_are_on_one_line_and_can_be_printed(name):
    told = texts.listed([name])
    assert told.isprintable()
    told.encode()
    if name.isprintable():
        assert told == name


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("name", ODD)
def test_a_status_and_a_bar_are_shown_in_any_terminal(encoding, name, monkeypatch):
    for stream in ("stdout", "stderr"):
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
        monkeypatch.setattr(sys, stream, file)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = progress.console()
    assert shown.is_terminal
    with progress.stage(f"reading {name}", shown) as update:
        update(f"still reading {name}")
    assert list(progress.tracked([1, 2], f"features of {name}")) == [1, 2]
    told = sys.stdout.buffer.getvalue() + sys.stderr.buffer.getvalue()
    assert b"features of" in told
    if name.isascii() and name.isprintable():
        for words in (f"reading {name}", f"features of {name}"):
            assert words.encode() in told
    told = told.replace(rb"\u20ac", b"").replace(rb"\udcff", b"")
    assert rb"\u" not in told  # no spinner and no bar of characters that are not there


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "paper", "swiss_roll"])
def test_the_folder_of_a_run_must_have_a_name_that_is_text(command, tmp_path):
    flags = [flag for flag in COMMANDS[command] if "workdir" not in flag and "=1" not in flag]
    told = tiny.command(command, *flags, "--workdir", tmp_path / os.fsdecode(b"run\xff"))
    assert told.code == 2
    assert "is not UTF-8 text: name another --workdir" in told.err
    assert len(tiny.complaints(told.err)) == 1
    assert not list(tmp_path.glob("run*"))


ENCODINGS = {
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.slow  # each case starts a command
@pytest.mark.parametrize("variables", ENCODINGS)
def test_a_command_in_a_terminal_of_few_characters(variables, root, tmp_path):
    place = pictures(tmp_path / os.fsdecode("[pictures] \u20ac\xe4 :car:".encode() + b"\xff"))
    (place / os.fsdecode(b"[x] \xff.txt")).write_text("no picture")
    flags = tiny.flags(root, tmp_path / "[run] :car:")
    flags += ["--data.source=folder", "--data.path", str(place), "--train.steps=1"]
    more = ENCODINGS[variables] | {"FORCE_COLOR": "1", "NO_COLOR": "1", "XLA_FLAGS": tiny.QUICK}
    process = tiny.start(root, "train", *flags, **more)
    out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    assert "Traceback" not in err
    assert "[x] \\udcff.txt (not an image)" in out
    assert "[run] :car:" in out
