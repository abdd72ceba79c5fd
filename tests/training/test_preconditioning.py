"""A network around which stands the Gaussian's answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxddim

COSINE = jaxddim.cosine(1000)
RNG = np.random.default_rng(0)
SHAPE = (8, 8, 3)


def smooth(n):
    """Images with a mean and a falling spectrum."""
    x = RNG.normal(size=(n, *SHAPE))
    for axis in (1, 2):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return (0.05 * x + np.linspace(-0.3, 0.3, 8)[:, None, None]).astype(np.float32)


DATA = smooth(500)
MOMENTS = jaxddim.moments(DATA)


def constant(value):
    """A network that answers with one value, and notes what it is given."""
    given = {}

    def call(params, stats, x, index, key):
        given["x"], given["index"] = x, index
        return jnp.full_like(x, value), stats

    network = jaxddim.own_network(lambda key: ({"w": jnp.zeros(())}, {}), call)
    return jaxddim.preconditioned(network, COSINE, MOMENTS), given


@pytest.mark.parametrize("t", [1, 100, 400, 700, 1000])
def test_input_and_target_have_variance_1(t):
    network, given = constant(0.0)
    variables = network.init(jax.random.key(0), None, None)
    eps = jnp.asarray(RNG.normal(size=DATA.shape), jnp.float32)
    x_t = jaxddim.q_sample(COSINE, DATA, t, eps)
    index = jnp.full(len(DATA), t - 1)
    x0 = network.apply(variables, x_t, index)
    np.testing.assert_allclose(x0, jaxddim.gaussian_x0(COSINE, MOMENTS, x_t, t), atol=1e-5)
    assert float(jnp.std(given["x"])) == pytest.approx(1, abs=0.02)
    ones, _ = constant(1.0)
    scale = ones.apply(variables, x_t, index) - x0
    target = (DATA - x0) / scale
    assert float(jnp.sqrt(jnp.mean(target**2))) == pytest.approx(1, abs=0.02)
    weighted = jaxddim.diffusion_loss(
        COSINE, x0, DATA, t, eps, kind="x0", weighting=jaxddim.unit_error(MOMENTS)
    )
    assert float(weighted.mean()) == pytest.approx(1, abs=0.04)


def test_without_an_answer_it_samples_the_gaussian():
    network, _ = constant(0.0)
    fn = jaxddim.as_denoiser(
        COSINE,
        lambda x, index: network.apply({"params": {"w": 0.0}, "batch_stats": {}}, x, index),
        kind="x0",
        clip_x0=False,
    )
    grid = jaxddim.timesteps(1000, 200)
    draw = jax.jit(lambda key: jaxddim.sample(key, fn, COSINE, grid, (1500, *SHAPE)))
    found = jaxddim.moments(np.asarray(draw(jax.random.key(0))))
    np.testing.assert_allclose(found.mean, MOMENTS.mean, atol=0.05)
    np.testing.assert_allclose(found.std, MOMENTS.std, rtol=0.03)
    large = MOMENTS.variance > np.quantile(MOMENTS.variance, 0.8)
    same_axes = found.variance[large] / MOMENTS.variance[large]
    np.testing.assert_allclose(same_axes.mean(), 1, atol=0.1)


def test_updates_and_options_pass_through_and_it_trains():
    def call(params, stats, x, index, key):
        assert key is None or jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        return params["w"] * x, {"n": stats["n"] + 1}

    inner = jaxddim.own_network(lambda key: ({"w": jnp.zeros(SHAPE)}, {"n": jnp.zeros(())}), call)
    network, tx = jaxddim.preconditioned(inner, COSINE, MOMENTS), optax.adam(1e-2)
    state = jaxddim.create_state(jax.random.key(0), network, tx, SHAPE)
    step = jaxddim.jit_step(
        functools.partial(
            jaxddim.train_step,
            apply_fn=network.apply,
            tx=tx,
            schedule=COSINE,
            kind="x0",
            weighting=jaxddim.unit_error(MOMENTS),
            times=jaxddim.lognormal(COSINE),
        )
    )
    for _ in range(3):
        state, metrics = step(state, DATA[:32])
    assert float(state.model_state["batch_stats"]["n"]) == 3
    assert 0.5 < float(metrics["loss"]) < 1.5
