"""A training step on a mesh of several devices is that of one: results, work and communication.

They run in a process of its own, as JAX fixes the number of devices when it starts.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxddim
import jaxddim.models
from jaxddim.training import meshes
from tests.tiny import QUICK, assert_same_bits
from tests.training.test_devices import run_python

BATCH, STEPS = 16, 20
UNET = jaxddim.models.UNet(
    channels=8, multipliers=(1, 2), num_blocks=1, attention=(4,), groups=4, dropout=0.1
)
SIMPLE = jaxddim.models.SimpleUNet(channels=(8, 16))
CASES = {  # network, parts of a batch, devices, split state, largest difference of a parameter
    "unet": (UNET, 1, 4, False, 1e-6),
    "unet, two parts": (UNET, 2, 8, True, 1e-6),
    "simple_unet": (SIMPLE, 1, 4, False, 1e-4),
}


def started(model, accumulate, devices, split, size=8):
    """The state on a mesh of so many devices, its step, and the mesh."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-4))
    state = jaxddim.create_state(jax.random.key(0), model, tx, (1, size, size, 3))
    mesh = meshes.make_mesh(devices)
    step_fn = functools.partial(
        jaxddim.train_step,
        apply_fn=model.apply,
        tx=tx,
        schedule=jaxddim.cosine(),
        kind="v",
        accumulate=accumulate,
    )
    state = meshes.spread(state, meshes.shardings(state, mesh, split=split))
    return state, jaxddim.jit_step(step_fn, mesh, split_state=split), mesh


def trained(model, accumulate, devices, split):
    state, step, mesh = started(model, accumulate, devices, split)
    for k in range(STEPS):
        images = np.random.default_rng(k).uniform(-1, 1, (BATCH, 8, 8, 3)).astype(np.float32)
        state, _ = step(state, meshes.spread(images, meshes.by_rows(mesh)))
    return state


def results_are_those_of_one():
    for name, (model, accumulate, devices, split, bound) in CASES.items():
        one = trained(model, accumulate, 1, False)
        many = trained(model, accumulate, devices, split)
        pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True)
        error = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
        assert error < bound, (name, error)
        arrays = [a for a in jax.tree.leaves(many) for _ in range(devices)]
        shards = [shard for a in jax.tree.leaves(many) for shard in a.addressable_shards]
        sizes = {s.data.size / a.size for a, s in zip(arrays, shards, strict=True)}
        assert sizes == ({1, 1 / devices} if split else {1}), (name, sizes)
    assert_same_bits(many, trained(model, accumulate, devices, split))


def collectives(text):
    """Bytes of each collective of a compiled program, by kind."""
    found = {}
    pattern = (
        r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    )
    for line in text.splitlines():
        if match := re.search(pattern, line):
            numbers = re.findall(r"f32\[([0-9,]*)\]", match[1])
            sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in numbers]
            found.setdefault(match[2], []).append(4 * sum(sizes))
    return found


def a_device_does_a_quarter_of_the_work():
    wide = jaxddim.models.UNet(
        channels=32, multipliers=(1,), num_blocks=1, attention=(), groups=8, dropout=0.1
    )
    images = jnp.zeros((32, 16, 16, 3))
    compiled = {}
    for case in ((1, 1, False), (1, 4, False), (2, 1, False), (2, 4, False), (1, 4, True)):
        state, step, mesh = started(wide, *case, size=16)
        batch = meshes.spread(images, meshes.by_rows(mesh))
        compiled[case] = step.lower(state, batch).compile()
    work = {case: program.cost_analysis()["flops"] for case, program in compiled.items()}
    parameters = 4 * sum(a.size for a in jax.tree.leaves(state.params))
    for accumulate, split in ((1, False), (2, False), (1, True)):
        part = work[accumulate, 4, split] / work[accumulate, 1, False]
        assert 0.2 < part < 0.3, (accumulate, split, work)
        found = collectives(compiled[accumulate, 4, split].as_text())
        if split:
            assert parameters * 0.9 < sum(found["all-gather"]) < parameters * 1.2, found
            assert sum(found["all-reduce"]) < parameters * 1.2, found
        else:
            images_only = sum(found.get("all-gather", []) + found.get("all-to-all", []))
            assert images_only <= (accumulate > 1) * 2 * images.nbytes, found
            assert len(found["all-reduce"]) == 1, found
            assert parameters <= found["all-reduce"][0] < parameters + 100, found


@pytest.mark.slow  # compiles for 1 to 8 devices
@pytest.mark.parametrize(
    "function", [results_are_those_of_one, a_device_does_a_quarter_of_the_work]
)
def test_on_a_mesh(function):
    run_python(
        f"from tests.training.test_meshes import {function.__name__} as run; run()",
        XLA_FLAGS=f"--xla_force_host_platform_device_count=8 {QUICK}",
        JAX_PLATFORMS="cpu",
    )


def test_a_state_is_split_along_its_longest_axis_that_divides():
    mesh = jax.sharding.AbstractMesh((4,), (meshes.AXIS,))
    shapes = {
        (3, 3, 8, 64): 3,
        (64, 64): 0,
        (2048,): 0,
        (1023,): None,
        (31, 33): None,
        (8, 127): None,
    }
    shapes[(9, 128, 256)] = 2
    for shape, axis in shapes.items():
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
        spec = meshes.shardings(leaf, mesh, split=True).spec
        assert [i for i, name in enumerate(spec) if name] == ([] if axis is None else [axis]), shape
        assert not any(meshes.shardings(leaf, mesh).spec)


def test_a_split_state_needs_a_mesh():
    with pytest.raises(ValueError, match="needs a mesh"):
        jaxddim.jit_step(lambda state, batch: (state, {}), split_state=True)


def test_gathering_again_compiles_nothing_and_is_a_copy(caplog):
    tree = {"a": jnp.arange(6.0), "b": [jnp.ones((2, 3))]}
    meshes.gathered(tree, meshes.make_mesh(1))
    with jax.log_compiles():
        found = meshes.gathered(tree, meshes.make_mesh(1))
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: x * 3 + 0.25)(tree["a"])
        assert "Compiling" in caplog.text
    expected = jax.tree.map(np.array, tree)
    jax.tree.map(lambda x: x.delete(), tree)  # as a step does that is given its state
    jax.tree.map(np.testing.assert_array_equal, found, expected)
