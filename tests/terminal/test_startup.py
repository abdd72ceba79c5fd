"""Compiled functions are cached in the user's cache folder, unless the user says otherwise."""

import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from jax._src import compilation_cache as stored
from jax.experimental.compilation_cache import compilation_cache

from experiments.terminal import startup
from tests import tiny

root = tiny.root


@pytest.fixture(autouse=True)
def _as_a_user_starts(root, tmp_path, monkeypatch):
    """No cache is set, and the cache folder is in tmp_path; settings are restored afterwards."""
    names = ["jax_compilation_cache_dir", "jax_enable_compilation_cache", *tiny.KEPT]
    old = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in old.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def folder_in_use() -> str | None:
    return jax.config.jax_compilation_cache_dir


def test_what_is_compiled_is_kept_in_the_users_cache_folder(tmp_path):
    startup.switch_on()
    folder = tmp_path / "cache" / "jaxddim" / "compiled"
    assert folder_in_use() == str(folder)
    assert folder.stat().st_mode & 0o077 == 0  # others must not place code there
    jax.jit(lambda x: x * 3 + 0.123)(1.0)
    assert list(folder.iterdir())


def test_the_cache_folder_is_by_default_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    startup.switch_on()
    assert folder_in_use() == str(tmp_path / ".cache" / "jaxddim" / "compiled")


@pytest.mark.parametrize("before, after", [(1.0, startup.LEAST_SECONDS), (5.0, 5.0)])
def test_what_compiles_in_less_than_a_second_is_kept_too_unless_somebody_chose(before, after):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    startup.switch_on()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == after


def test_a_folder_that_the_user_set_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    startup.switch_on()
    assert folder_in_use() == str(tmp_path / "mine")
    assert not (tmp_path / "cache").exists()


def test_it_can_be_switched_off(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    startup.switch_on()
    assert folder_in_use() is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["/proc/none", "file"])
def test_a_folder_that_cannot_be_made_changes_nothing(place, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    startup.switch_on()
    assert folder_in_use() is None
    assert jax.jit(lambda x: x * 3 + 0.321)(1.0) == 3.321
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_to_changes_nothing(monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    startup.switch_on()
    assert folder_in_use() is None


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--config", "tiny", "--workdir", "new", "--data.source", "folder"),
        ("sample", "--workdir", "none", "--out", "a.png"),
    ],
)
def test_commands_switch_it_on(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiny.command(*words).code == 2  # for a user error that is found later
    assert folder_in_use() == str(tmp_path / "cache" / "jaxddim" / "compiled")


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "emptied": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no program"),
    "a bit": lambda path: flip(path),
    "a folder": lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "writable by all": lambda path: (path.chmod(0o666), path.parent.chmod(0o755)),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_compiled_again_once_with_a_line(kind, tmp_path, capsys):
    startup.switch_on()
    startup.switch_on()  # which changes nothing
    folder = tmp_path / "cache" / "jaxddim" / "compiled"
    said = []
    for _ in range(3):
        jax.clear_caches()
        compilation_cache.reset_cache()
        assert jax.jit(lambda x: x * 3 + 0.125)(1.0) == 3.125
        said.append(capsys.readouterr().err)
        if len(said) == 1:
            whole = {path: path.read_bytes() for path in folder.glob("*-cache")}
            for path in whole:
                DAMAGE[kind](path)
    assert said[0] == said[2] == ""
    assert said[1].count("was damaged: compiling again") == len(whole) > 0
    assert {path: path.stat().st_size for path in folder.glob("*-cache")}.keys() == whole.keys()


@pytest.mark.parametrize("name", ["zstd", "zstandard"])
def test_compressed_programs_have_a_checksum_where_the_format_leaves_the_choice(name, monkeypatch):
    """Of 3,765 flipped bits in a frame of zstd without one, 3,737 were read as another program."""

    class Compressor:
        def __init__(self, write_checksum=False):
            self.compress = lambda program: (program, write_checksum)

    flag = "the flag of a checksum"
    modules = {
        "zstd": SimpleNamespace(
            CompressionParameter=SimpleNamespace(checksum_flag=flag),
            compress=lambda program, options: (program, options == {flag: 1}),
        ),
        "zstandard": SimpleNamespace(ZstdCompressor=Compressor),
    }
    monkeypatch.setattr(stored, "compress_executable", stored.compress_executable)
    for other in modules:
        monkeypatch.setattr(stored, other, modules[other] if other == name else None)
    startup.with_checksums()
    assert stored.compress_executable(b"program") == (b"program", True)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o703])
def test_a_folder_that_others_may_write_to_is_not_used_and_said(mode, given, tmp_path, capsys):
    """It holds code that JAX would run."""
    folder = tmp_path / ("mine" if given else "cache/jaxddim/compiled")
    folder.mkdir(parents=True)
    folder.chmod(mode)
    if given:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    startup.switch_on()
    assert folder_in_use() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder} belongs to another user, or all may write to it" in line
    assert "chmod 700" in line and "JAX_COMPILATION_CACHE_DIR" in line
    assert jax.jit(lambda x: x * 3 + 0.567)(1.0) == 3.567
    assert list(folder.iterdir()) == []


def test_a_folder_of_another_user_is_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(startup, "is_trusted", lambda path: False)
    startup.switch_on()
    assert folder_in_use() is None
    assert "belongs to another user" in capsys.readouterr().err


COMMANDS = sorted(path.stem for path in (tiny.REPOSITORY / "experiments").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_importing_a_command_changes_no_setting_and_starts_no_backend(name):
    code = f"import experiments.{name}, jax\n"
    code += "from jax._src import xla_bridge\n"
    code += "assert jax.config.jax_compilation_cache_dir is None\n"
    code += "assert not xla_bridge.backends_are_initialized()"
    environment = {"JAX_PLATFORMS": "cpu", "HOME": "/proc/none"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tiny.REPOSITORY, env=environment)


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_cached_where_time_is_taken_and_the_setting_returns(enabled, tmp_path):
    jax.config.update("jax_enable_compilation_cache", enabled)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    for name, value in tiny.KEPT.items():
        jax.config.update(name, value)
    for error in (None, KeyError):
        with contextlib.suppress(KeyError), startup.switched_off():
            jax.jit(lambda x: x * 5 + 0.5)(1.0)
            if error:
                raise error
        assert jax.config.jax_enable_compilation_cache is enabled
    assert not (tmp_path / "mine").exists() or not list((tmp_path / "mine").iterdir())
    jax.jit(lambda x: x * 7 + 0.7)(1.0)
    assert (tmp_path / "mine").exists() is enabled


def test_a_process_that_has_used_jax_keeps_its_memory_as_it_is(monkeypatch):
    jax.devices()
    monkeypatch.setattr(startup, "keep_memory", None)
    startup.start()
