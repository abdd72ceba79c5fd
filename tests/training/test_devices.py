"""Training on several devices equals training on one; the core imports no Flax.

Each test runs in a separate process: JAX fixes the number of devices when it starts.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim.cpu.conv import conv
from tests.tiny import QUICK
from tests.training.test_training import Normed, run, setup


def on_eight_devices():
    assert jax.local_device_count() == 8
    batch = jax.random.normal(jax.random.key(5), (8, 4, 2))
    state, step = setup(Normed())
    pmapped, metrics = run(state, jaxddim.pmap_step(step), 3, batch)
    for leaf in jax.tree.leaves(pmapped):
        assert all(np.array_equal(leaf[0], one) for one in leaf[1:]), "devices drifted apart"

    stacked = jax.tree.map(lambda a: jnp.stack([a] * 8), setup(Normed())[0])
    vmapped = jax.vmap(functools.partial(step, axis_name="batch"), axis_name="batch")
    expected, expected_metrics = run(stacked, jax.jit(vmapped), 3, batch)
    chex.assert_trees_all_close(
        (pmapped, metrics), (expected, expected_metrics), atol=1e-5, rtol=1e-4
    )
    one = jaxddim.unreplicate(pmapped)
    chex.assert_trees_all_equal_shapes_and_dtypes(one, setup(Normed())[0])
    for leaf, all_ in zip(
        jax.tree.leaves(one), jax.tree.leaves(jaxddim.replicate(one)), strict=True
    ):
        assert all_.shape == (8, *leaf.shape) and len(all_.sharding.device_set) == 8


def on_a_mesh_of_eight():
    batch = jax.random.normal(jax.random.key(5), (32, 2))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    state, step = setup(Normed())
    spread = run(state, jaxddim.jit_step(step, mesh), 3, batch)
    single = run(setup(Normed())[0], jaxddim.jit_step(step), 3, batch)
    chex.assert_trees_all_close(spread, single, atol=1e-5, rtol=1e-4)
    assert len(spread[0].step.sharding.device_set) == 8
    slopes_are_those_of_one_device(mesh)


def slopes_are_those_of_one_device(mesh):
    specs = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    options = {"in_shardings": tuple(jax.sharding.NamedSharding(mesh, spec) for spec in specs)}
    x, k = jax.random.normal(jax.random.key(0), (8, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    slopes = jax.grad(lambda x, k: jnp.sum(jnp.sin(conv(x, k))), (0, 1))
    one, eight = jax.jit(slopes), jax.jit(slopes, **options)
    chex.assert_trees_all_close(one(x, k), eight(x, k), rtol=1e-5)


def run_python(code, **env):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=root, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow  # a new process, and compiling for 8 devices
@pytest.mark.parametrize("function", [on_eight_devices, on_a_mesh_of_eight])
def test_eight_devices_equal_one(function):
    run_python(
        f"from tests.training.test_devices import {function.__name__} as run; run()",
        XLA_FLAGS=f"--xla_force_host_platform_device_count=8 {QUICK}",
        JAX_PLATFORMS="cpu",
    )


def test_the_core_imports_no_flax():
    run_python("import jaxddim, sys; assert not {'flax', 'orbax'} & set(sys.modules)")
