"""Muon with stacked matrices: optax.contrib.muon's numbers and its state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxddim.models import UNet
from jaxddim.models.dit import DiT
from jaxddim.training.muon import ENDS, RMS, muon

NETWORKS = {
    "unet": UNet(channels=8, multipliers=(1,), num_blocks=1, attention=(8,), groups=4),
    "dit": DiT(channels=16, num_blocks=1, head_dim=8, patch=2),
}
RATE, ADAM_RATE = optax.linear_schedule(0.1, 0.2, 4), optax.linear_schedule(0.01, 0.02, 4)


def optax_muon() -> optax.GradientTransformation:
    """optax's own, told which leaves are matrices from inputs to features."""

    def numbers(params):
        def of(path, leaf):
            names = [key.key for key in path]
            if names[-1] != "kernel" or set(names) & set(ENDS):
                return None
            return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))

        return jax.tree_util.tree_map_with_path(of, params)

    return optax.contrib.muon(
        RATE,
        adam_learning_rate=ADAM_RATE,
        consistent_rms=RMS,
        muon_weight_dimension_numbers=numbers,
    )


def drawn(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), tree)


@pytest.mark.parametrize("name", NETWORKS)
def test_updates_and_state_are_those_of_optax(name):
    x, index = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(NETWORKS[name].init, jax.random.key(0), x, index)["params"]
    params = drawn(params, 0)
    ours, theirs = muon(RATE, ADAM_RATE), optax_muon()
    state, wanted = ours.init(params), theirs.init(params)
    chex.assert_trees_all_equal(state, wanted)
    for step in range(3):
        grads = drawn(params, 1 + step)
        found, state = jax.jit(ours.update)(grads, state, params)
        expected, wanted = jax.jit(theirs.update)(grads, wanted, params)
        scale = jax.tree.map(lambda a: jnp.max(jnp.abs(a)), expected)
        close = jax.tree.map(lambda a, b, c: (a - b) / c, found, expected, scale)
        chex.assert_trees_all_close(close, jax.tree.map(jnp.zeros_like, close), atol=2e-5)
        chex.assert_trees_all_close(state, wanted, rtol=1e-5, atol=1e-6)


def test_matrices_of_one_shape_are_orthogonalised_by_one_batch_of_products():
    params = {f"dense_{i}": {"kernel": jnp.ones((8, 4))} for i in range(12)}
    tx = muon(RATE, ADAM_RATE)
    state = tx.init(params)

    def products(tx: optax.GradientTransformation) -> int:
        return str(jax.make_jaxpr(tx.update)(params, state, params)).count("dot_general")

    assert 0 < products(tx) * 12 <= products(optax_muon())


def test_each_matrix_changes_by_its_own_gradient_alone():
    params = {name: {"kernel": jnp.zeros((3, 2, 4))} for name in ("a", "b", "c")}
    grads = drawn(params, 0)
    tx = muon(0.1, 0.01)
    together, _ = tx.update(grads, tx.init(params), params)
    for name in params:
        one = {name: params[name]}
        alone, _ = tx.update({name: grads[name]}, tx.init(one), one)
        np.testing.assert_allclose(together[name]["kernel"], alone[name]["kernel"], rtol=1e-5)
    assert not np.allclose(together["a"]["kernel"], together["b"]["kernel"])
