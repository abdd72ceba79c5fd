"""What is installed is whole: every module of the package, and nothing else."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests import imports

OUTSIDE = """
import importlib, sys, jax, jax.numpy as jnp
sys.path.insert(0, sys.argv[1])
import jaxddim
assert jaxddim.__file__.startswith(sys.argv[1]), jaxddim.__file__
for name in sys.argv[2:]:
    importlib.import_module(name)
schedule = jaxddim.linear()
model = jaxddim.models.MLP(features=(8,))
variables = model.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1, int))
network = lambda x, index: model.apply(variables, x, index)
denoise_fn = jaxddim.as_denoiser(schedule, network)
x = jaxddim.sample(jax.random.key(1), denoise_fn, schedule, jaxddim.timesteps(1000, 3), (2, 2))
assert x.shape == (2, 2)
"""


@pytest.mark.slow  # builds a wheel in an environment of its own
def test_a_wheel_holds_every_module_and_works_outside_the_clone(tmp_path):
    source = tmp_path / "source"  # what an earlier build left in the clone takes no part
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(imports.REPOSITORY / "jaxddim", source / "jaxddim", ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(imports.REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path]
    subprocess.run([*build, source], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("jaxddim-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "installed")
    package = imports.REPOSITORY / "jaxddim"
    files = {path.relative_to(imports.REPOSITORY).as_posix() for path in package.rglob("*.py")}
    assert held == files | {"jaxddim/py.typed"}
    names = [name for name in imports.modules() if imports.inside(name, "jaxddim")]
    command = [sys.executable, "-W", "error", "-c", OUTSIDE, tmp_path / "installed", *names]
    subprocess.run(command, check=True, cwd=tmp_path)
