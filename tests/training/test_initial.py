"""Initial weights: their laws, what they depend on, and the shapes that networks are asked with."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import jaxddim
from jaxddim import checks
from jaxddim.models import MLP, SimpleUNet, UNet
from jaxddim.training import initial

KEY = jax.random.key(3)
TX = optax.sgd(1.0)
SMALL = UNet(channels=16, multipliers=(1,), num_blocks=1, attention=(), groups=4, num_classes=3)
NETWORKS = {
    "mlp": (MLP(features=(32,), time_dim=16), (2,)),
    "unet": (SMALL, (8, 8, 3)),
    "remat": (SMALL.copy(remat=True), (8, 8, 3)),
    "simple": (SimpleUNet(channels=(8, 8), time_dim=8), (8, 8, 3)),
}


class Layer(nn.Module):
    @nn.compact
    def __call__(self, h, _):
        return nn.Dense(64, name="dense")(h), None


class Looped(nn.Module):
    """Draws in a loop, three layers from one trace, and in half precision."""

    @nn.compact
    def __call__(self, x, index):
        x = nn.Dense(64, param_dtype=jnp.bfloat16, name="half")(x)
        axes, split = {"params": 0}, {"params": True}
        layers = nn.scan(Layer, variable_axes=axes, split_rngs=split, length=3)
        h, _ = layers(name="layers")(x, None)
        return nn.Dense(64, kernel_init=nn.initializers.orthogonal(), name="turned")(h)


def create(name, key=KEY):
    model, shape = NETWORKS[name] if name in NETWORKS else (Looped(), (64,))
    return jaxddim.create_state(key, model, TX, shape)


@functools.cache
def params(name):
    return create(name).params


@pytest.mark.parametrize("name", [*NETWORKS, "looped"])
def test_every_leaf_has_the_law_of_its_initialiser(name):
    model, shape = NETWORKS.get(name, (Looped(), (64,)))
    x, index = jnp.zeros((1, *shape)), jnp.zeros(1, int)
    plain = jax.jit(model.init)(jax.random.key(7), x, index)["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(params(name), plain)
    leaves = jax.tree_util.tree_leaves_with_path(plain)
    for (path, expected), found in zip(leaves, jax.tree.leaves(params(name)), strict=True):
        found, expected = np.ravel(found).astype(float), np.ravel(expected).astype(float)
        if np.ptp(expected) == 0:
            np.testing.assert_array_equal(found, expected, str(path))
            continue
        scale = expected.std()
        assert scipy.stats.ks_2samp(found / scale, expected / scale).pvalue > 1e-4, path
        np.testing.assert_allclose(found.std(), scale, rtol=5 / expected.size**0.5, err_msg=path)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_two_kernels_share_their_numbers(name):
    drawn = [np.ravel(leaf) for leaf in jax.tree.leaves(params(name)) if np.ptp(leaf) > 0]
    units = [leaf[:64] / abs(leaf).max() for leaf in drawn if leaf.size >= 64]
    correlation = np.corrcoef(units) - np.eye(len(units))
    assert len(units) >= 3 and np.abs(correlation).max() < 0.65


def test_layers_made_in_a_loop_differ():
    kernels = params("looped")["layers"]["dense"]["kernel"]
    correlation = np.corrcoef(np.reshape(kernels, (3, -1))) - np.eye(3)
    assert np.abs(correlation).max() < 0.1


def test_recomputing_activations_does_not_change_the_weights():
    chex.assert_trees_all_equal(params("remat"), params("unet"))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_generator_is_compiled_for_all_kernels(name):
    model, shape = NETWORKS[name]
    jaxpr, _ = initial.traced(model.init, KEY, [(1, *shape)])
    whole = jax.make_jaxpr(functools.partial(initial.from_one_block, jaxpr))(KEY)
    assert str(whole).count("random_bits[") == 1
    assert "random_fold_in" not in str(whole) and "conv_general" not in str(whole)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", ["mlp", "looped"])
def test_each_member_of_an_ensemble_is_the_one_made_alone(name, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 3)
    together = jax.jit(jax.vmap(lambda key: create(name, key).params))(keys)
    for i in range(3):
        alone = create(name, keys[i]).params
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], together), alone, atol=1e-6)
    kernels = [np.ravel(leaf) for leaf in jax.tree.leaves(together)[1][:2]]
    assert not np.allclose(*kernels)


# -- kinds of keys -------------------------------------------------------------------

SCHEDULE = jaxddim.cosine(20)
STEP = functools.partial(jaxddim.ddim_step, eta=1.0)
DENOISE = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0.1 * x)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_image_i_does_not_depend_on_the_batch_for_any_kind_of_key(impl, legacy):
    key = (jax.random.PRNGKey if legacy else jax.random.key)(5, impl=impl)
    grid = jaxddim.timesteps(20, 4)

    def draw(n, first):
        return jaxddim.sample(key, DENOISE, SCHEDULE, grid, (n, 3), step=STEP, first_index=first)

    many = draw(6, 0)
    for i in (0, 3, 5):
        np.testing.assert_allclose(draw(1, i)[0], many[i], atol=1e-6)
    assert len(np.unique(np.asarray(many).round(5), axis=0)) == 6


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_an_image_and_a_time_are_not_mistaken_for_each_other(impl):
    """Image 20 at t = 500 once had the noise of image 500 at t = 20."""
    unit = jaxddim.Gaussian(jnp.zeros((1, 50)), jnp.ones(()))
    key = jax.random.key(0, impl=impl)
    one, other = (
        np.ravel(jaxddim.sampling.loop.draw(checks.example_keys(key, 1, i), unit, jnp.int32(t)))
        for i, t in ((20, 500), (500, 20))
    )
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.6


def test_different_keys_of_any_kind_stay_different():
    keys = [jax.random.key(seed, impl=impl) for impl in ("threefry2x32", "rbg") for seed in (1, 2)]
    keys += list(jax.random.split(keys[-1], 3))
    found = {tuple(jax.random.key_data(checks.typed_key(key)).tolist()) for key in keys}
    assert len(found) == len(keys)
    converted = checks.typed_key(keys[2])
    chex.assert_trees_all_equal(converted, jax.jit(checks.typed_key)(keys[2]))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_the_kind_of_key_that_jax_is_set_to_make_changes_nothing(impl):
    model = MLP(features=(4,), time_dim=4)
    state = jaxddim.create_state(KEY, model, TX, (2,))
    step = functools.partial(
        jaxddim.train_step, apply_fn=model.apply, tx=TX, schedule=SCHEDULE, seed=3
    )
    expected = jax.jit(step)(state, jnp.ones((4, 2)))
    with jax.default_prng_impl(impl):
        chex.assert_trees_all_equal(jax.jit(step)(state, jnp.ones((4, 2))), expected)
        x = jaxddim.decode(DENOISE, SCHEDULE, [20, 10, 0], jnp.ones((2, 3)))
    chex.assert_trees_all_equal(x, jaxddim.decode(DENOISE, SCHEDULE, [20, 10, 0], jnp.ones((2, 3))))


# -- shapes --------------------------------------------------------------------------


class Strict(nn.Module):
    """Takes data of one rank alone, and has a weight for each position."""

    rank: int

    @nn.compact
    def __call__(self, x, index):
        if x.ndim != self.rank or index.shape != x.shape[:1]:
            raise TypeError(f"rank {self.rank}")
        x = x + self.param("places", nn.initializers.zeros, x.shape[1:])
        return nn.Dense(x.shape[-1])(x) + index.reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize(
    "rank, sample_shape, places",
    [
        (2, (5,), (5,)),
        (2, (1,), (1,)),
        (2, (3, 5), (5,)),
        (3, (1, 7, 2), (7, 2)),  # sequences
        (3, (4, 7, 2), (7, 2)),
        (3, (7, 2), (7, 2)),
        (4, (8, 6, 3), (8, 6, 3)),  # images
        (4, (1, 8, 6, 3), (8, 6, 3)),
        (4, (2, 8, 6, 3), (8, 6, 3)),
        (4, (1, 6, 3), (1, 6, 3)),
        (5, (1, 4, 8, 6, 3), (4, 8, 6, 3)),  # video
        (5, (2, 4, 8, 6, 3), (4, 8, 6, 3)),
        (5, (4, 8, 6, 3), (4, 8, 6, 3)),
    ],
)
def test_a_state_is_made_for_any_data_with_or_without_a_batch_axis(rank, sample_shape, places):
    state = jaxddim.create_state(KEY, Strict(rank), TX, sample_shape)
    assert state.params["places"].shape == places


def test_a_network_that_takes_neither_shape_says_why():
    for shape in ((8, 8), (8, 8, 8)):
        with pytest.raises(TypeError, match="rank 6"):
            jaxddim.create_state(KEY, Strict(6), TX, shape)
