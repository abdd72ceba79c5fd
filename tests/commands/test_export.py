"""`experiments.export`: the sampler as one file draws what `experiments.sample` draws."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from tests import tiny
from tests.terminal.test_cli import assert_mistake
from tests.test_readme import blocks

pytestmark = [
    pytest.mark.slow,  # samplers are lowered for three platforms and compiled
    pytest.mark.usefixtures("quick_module"),
]
root = tiny.root


@pytest.fixture(scope="module")
def trained(root):
    return tiny.trained(root)[0]


@pytest.fixture(scope="module")
def images(trained, root):
    """The first 24 images of the run in 4 steps."""
    out = root / "first.npz"
    flags = ["--num", 24, "--steps", 4, "--out", out]
    assert tiny.command("sample", "--workdir", trained, *flags).code == 0
    with np.load(out) as file:
        return file["images"]


@pytest.fixture
def exported(trained, tmp_path):
    """exported(flag, ...) -> the function in the file that the command writes, and its folder."""

    def exported(*flags):
        out = tmp_path / "sampler.jaxexport"
        told = tiny.command("export", "--workdir", trained, "--steps", 4, "--out", out, *flags)
        assert (told.code, tiny.complaints(told.err)) == (0, []), told
        assert f"{out} (" in told.out and " MB)" in told.out
        return export.deserialize(bytearray(out.read_bytes()))

    return exported


def call(function, *inputs):
    return np.asarray(jax.jit(function.call)(*inputs))


def near(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, np.uint8)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_static_batch(exported, images):
    function = exported("--batch", 8)
    assert function.platforms == ("cpu", "cuda", "tpu")
    near(call(function, np.uint32(0), np.int32(0)), images[:8])
    near(call(function, np.uint32(0), np.int32(16)), images[16:])
    other = call(function, np.uint32(1), np.int32(0))
    assert np.abs(other.astype(int) - images[:8]).max() > 20


def test_a_solver(exported, trained, tmp_path):
    flags = ["--method", "dpm++2m-sde", "--spacing", "log_snr"]
    out = tmp_path / "a.npz"
    told = tiny.command(
        "sample", "--workdir", trained, "--num", 3, "--steps", 4, *flags, "--out", out
    )
    assert told.code == 0
    with np.load(out) as file:
        near(call(exported("--batch", 3, *flags), np.uint32(0), np.int32(0)), file["images"])


def test_any_batch(exported, images):
    function = exported("--batch", "any")
    for index in ([5], [0, 1, 2], [20, 3, 11, 7, 0]):
        near(call(function, np.uint32(0), np.array(index, np.int32)), images[index])


def test_the_batch_is_that_of_sample_if_not_given(exported, images):
    near(call(exported(), np.uint32(0), np.int32(0)), images[:16])


def test_weights_beside(exported, images, tmp_path):
    function = exported("--batch", 4, "--weights", "beside")
    with np.load(tmp_path / "sampler.jaxexport.npz") as file:
        weights = dict(file)
    near(call(function, weights, np.uint32(0), np.int32(0)), images[:4])
    darker = {name: 0 * array for name, array in weights.items()}
    assert (
        np.abs(call(function, darker, np.uint32(0), np.int32(0)).astype(int) - images[:4]).max()
        > 20
    )


@pytest.mark.parametrize("batch", ["3", "any"])
def test_given_noise(exported, batch):
    function = exported("--input", "noise", "--batch", batch)
    x_T = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    first = call(function, x_T, np.int32(0))
    near(call(function, x_T, np.int32(7)), first)  # eta = 0 draws nothing
    near(call(function, x_T[::-1], np.int32(0)), first[::-1])


@pytest.mark.parametrize("flags", [("--method", "ddpm"), ("--eta", "0.5"), ("--clip", "none")])
def test_methods_are_those_of_sample(trained, exported, tmp_path, flags):
    function = exported("--batch", 4, "--weights", "raw", *flags)
    out = tmp_path / "same.npz"
    flags = ["--num", 4, "--steps", 4, "--weights", "raw", "--out", out, *flags]
    assert tiny.command("sample", "--workdir", trained, *flags).code == 0
    with np.load(out) as file:
        near(call(function, np.uint32(0), np.int32(0)), file["images"])


TOLD = """
np.save("images.npy", images)
import sys
print(sorted({name.split(".")[0] for name in sys.modules} & {"jaxddim", "flax", "optax", "orbax"}))
"""


def test_jax_and_flatbuffers_are_enough(exported, images, tmp_path):
    """The README's lines, in an environment of its own that has nothing else."""
    exported("--batch", 4)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    wanted = [f"jax=={jax.__version__}", "flatbuffers"]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    (lines,) = blocks("python", (tiny.REPOSITORY / "docs/howto/weights.md").read_text())
    told = subprocess.run(
        [python, "-c", lines + TOLD], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert told.stdout.strip() == "[]"
    near(np.load(tmp_path / "images.npy"), images[:4])


MISTAKES = {
    "--workdir none --out a": ["none holds no run"],
    "--out a": ["--workdir is missing"],
    "--workdir run": ["--out is missing"],
    "--workdir run --out a --batch 0": ["--batch 0", "any"],
    "--workdir run --out a --batch many": ["--batch many", "any"],
    "--workdir run --out a --steps 1001": ["--steps 1001"],
    "--workdir run --out a --eta 2": ["--eta must lie in"],
    "--workdir run --out folder": ["--out folder cannot be written"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line(words, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    words_ = words.replace("--workdir run", f"--workdir {trained}").split()
    assert_mistake(tiny.command("export", *words_), *MISTAKES[words])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
