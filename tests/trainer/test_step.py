"""The training step is compiled once, beside the images and weights of a run."""

import os
import threading

import jax
import pytest
from PIL import Image

from experiments.terminal import interrupts, processes
from tests import tiny
from tests.terminal.test_cli import assert_mistake

root = tiny.root
OWN = ["--optim.learning-rate", "0.00123"]  # a step that no other test has compiled


@pytest.fixture
def compiled(monkeypatch):
    """The names of the threads that have compiled a training step."""
    found = []
    real = jax._src.compiler.compile_or_get_cached

    def compile_or_get_cached(backend, module, *args, **options):
        if "_step" in str(module.operation.attributes["sym_name"]):
            found.append(threading.current_thread().name)
        return real(backend, module, *args, **options)

    monkeypatch.setattr(jax._src.compiler, "compile_or_get_cached", compile_or_get_cached)
    return found


def compiling():
    return [thread for thread in threading.enumerate() if thread.name == processes.COMPILING]


@pytest.mark.slow  # compiles a network for each
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--model.labels"],
        ["--train.split-state"],
        ["--diffusion.precondition", "gaussian", "--diffusion.kind", "x0"],
        ["--data.num-images", "40"],  # they are decoded meanwhile
    ],
    ids=["images that are there", "labels", "split state", "preconditioned", "new images"],
)
def test_each_start_compiles_the_step_once_in_a_thread(
    root, tmp_path, compiled, quick_compiler, more
):
    command = ["train", *tiny.flags(root, tmp_path), *OWN, *more]
    for steps in (2, 4):
        finished = tiny.command(*command, "--train.steps", steps)
        assert finished.code == 0, finished
        assert compiled == [processes.COMPILING]
        compiled.clear()
    finished = tiny.command(*command, "--train.steps", 4)
    assert "nothing to do" in finished.out
    assert not compiled


def test_a_mistake_in_new_images_is_told_while_the_step_is_compiled(root, tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "one.png")
    whole = (tmp_path / "pictures" / "one.png").read_bytes()
    (tmp_path / "pictures" / "one.png").write_bytes(whole[:40])
    images = ["--data.source", "folder", "--data.path", tmp_path / "pictures"]
    new = ["--optim.learning-rate", "0.00321", *images]
    finished = tiny.command("train", *tiny.flags(root, tmp_path / "run"), *new)
    assert compiling()
    assert_mistake(finished, "error: ", "pictures")
    assert not (tmp_path / "run" / "config.json").exists()
    for thread in compiling():
        thread.join()


@pytest.mark.parametrize(("name", "ends"), [(processes.COMPILING, True), ("another", False)])
def test_a_failed_command_does_not_wait_for_what_it_compiles(monkeypatch, name, ends):
    ended, done = [], threading.Event()
    monkeypatch.setattr(interrupts, "is_command", lambda: True)
    monkeypatch.setattr(os, "_exit", ended.append)
    thread = threading.Thread(target=done.wait, name=name)
    thread.start()
    processes.leave(2)
    done.set()
    thread.join()
    processes.leave(2)
    assert ended == [2] * ends
