"""The swiss roll, the networks trained on it in parallel, and the cost of each method."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import jaxddim
from experiments.points import roll

KEY = jax.random.key(0)


def test_the_roll_has_the_moments_of_its_density():
    n = 200_000
    x = np.asarray(roll.swiss_roll(KEY, n), np.float64)
    length = roll.LAST - roll.FIRST
    for axis, wave in ((0, np.cos), (1, np.sin)):
        moments = [
            scipy.integrate.quad(
                lambda a, wave=wave, k=k: (a / 10 * wave(a)) ** k, roll.FIRST, roll.LAST
            )[0]
            / length
            for k in (1, 2)
        ]
        column = x[:, axis]
        assert abs(column.mean() - moments[0]) < 5 * column.std() / np.sqrt(n)
        square = column**2
        assert abs(square.mean() - moments[1] - 0.02**2) < 5 * square.std() / np.sqrt(n)


def test_points_lie_on_the_curve_up_to_its_thickness_and_fill_it_evenly():
    x = np.asarray(roll.swiss_roll(KEY, 4000))
    theta = roll.nearest_theta(x)
    away = np.linalg.norm(x - np.asarray(roll.on_the_curve(theta)), axis=1)
    assert away.max() < 5 * 0.02
    assert np.sqrt(np.mean(away**2)) == pytest.approx(0.02, rel=0.1)  # across, in one dimension
    counts, _ = np.histogram(theta, 10, (roll.FIRST, roll.LAST))
    assert counts.min() > 300


def test_the_place_of_a_point_of_the_curve_is_its_angle():
    theta = np.linspace(roll.FIRST, roll.LAST, 37)
    np.testing.assert_allclose(roll.nearest_theta(roll.on_the_curve(theta)), theta, atol=0.01)


def train(networks, steps=3):
    tx = roll.optimizer(1e-2)
    state = roll.new_state(KEY, networks, tx)
    step = roll.make_train_step(jax.random.key(1), networks, 16, tx, 0.9)
    for _ in range(steps):
        state, metrics = step(state)
    return state, metrics


@pytest.fixture(scope="module")
def three():
    return train(3)


def test_a_network_among_others_learns_what_it_learns_alone(three):
    state, metrics = three
    one, loss = train(1)
    first = state._replace(
        **{k: jax.tree.map(lambda a: a[:1], v) for k, v in state._asdict().items() if k != "step"}
    )
    chex.assert_trees_all_close(first, one, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"][:1], loss["loss"], rtol=1e-4)
    assert int(state.step) == 3


def test_networks_differ_in_weights_and_in_what_they_see(three):
    state, metrics = three
    kernels = state.params["hidden_0"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1], atol=1e-3)
    assert len(np.unique(metrics["loss"])) == 3


def evaluations(method, asked):
    """The times of all network evaluations, recorded without compiling."""
    calls = []

    def denoise_fn(x, t):
        calls.append(int(t))
        return jaxddim.from_eps(roll.schedule(), x, 0 * x, t)

    with jax.disable_jit():
        jaxddim.integrate(
            KEY, denoise_fn, roll.schedule(), method.grid(asked), jnp.ones((1, 2)), step=method.step
        )
    return calls


@pytest.mark.parametrize("name", roll.METHODS)
def test_methods_are_compared_at_equal_numbers_of_evaluations(name):
    method = roll.METHODS[name]
    assert len(evaluations(method, 6)) == 6
    calls = evaluations(method, 5)
    assert len(calls) == 5 - (method.cost == 2)
    assert min(calls) > 0  # never about clean data


def test_annealed_langevin_walks_and_ends_at_the_denoised_point():
    x = jax.random.normal(KEY, (4, 2))
    pair = jaxddim.from_eps(roll.schedule(), x, jnp.tanh(x), 300)
    walk = roll.annealed_langevin(roll.schedule(), x, pair, jnp.int32(300), jnp.int32(200))
    expected = jaxddim.langevin_step(roll.schedule(), x, pair, 300, snr=roll.SNR)
    chex.assert_trees_all_equal(walk, expected)
    end = roll.annealed_langevin(roll.schedule(), x, pair, jnp.int32(300), jnp.int32(0))
    chex.assert_trees_all_equal(end.mean, pair.x0)
    assert end.std == 0


def test_a_sampler_draws_for_each_network_what_it_draws_alone(three):
    params = three[0].ema_params
    keys = jax.random.split(KEY, 3)
    method = roll.METHODS["ddpm"]
    draw = roll.make_sampler(method, 7)
    together = draw(params, keys, method.grid(4))
    chex.assert_shape(together, (3, 7, 2))
    network = jax.tree.map(lambda a: a[1], params)
    alone = functools.partial(
        jaxddim.sample, keys[1], roll.denoiser(network), roll.schedule(), method.grid(4)
    )
    chex.assert_trees_all_close(together[1], alone((7, 2), step=method.step), atol=1e-4)


@pytest.mark.parametrize("t", [1, 50, 300, 700, 1000])
def test_the_exact_denoiser_is_the_mean_over_the_whole_curve(t):
    x0 = roll.swiss_roll(KEY, 6)
    x = jaxddim.q_sample(roll.schedule(), x0, t, jax.random.normal(jax.random.key(1), x0.shape))
    alpha, sigma = (float(a) for a in roll.schedule().scales(t, 0))
    theta = np.linspace(roll.FIRST, roll.LAST, 200_001)
    curve = theta[:, None] / 10 * np.stack([np.cos(theta), np.sin(theta)], -1)
    r2 = (alpha * 0.02) ** 2 + sigma**2
    for point, found in zip(np.asarray(x), roll.denoiser(None)(x, t).x0, strict=True):
        logit = -np.sum((point - alpha * curve) ** 2, -1) / (2 * r2)
        weights = np.exp(logit - logit.max())
        nearest = weights @ curve / weights.sum()
        expected = (sigma**2 * nearest + alpha * 0.02**2 * point) / r2
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_with_the_exact_denoiser_samples_lie_on_the_roll_for_every_key():
    method, keys = roll.METHODS["ddim"], jax.random.split(KEY, 2)
    x = np.asarray(roll.make_sampler(method, 500)(None, keys, method.grid(100)))
    chex.assert_shape(x, (2, 500, 2))
    assert not np.allclose(x[0], x[1])
    curve = np.asarray(roll.on_the_curve(roll.nearest_theta(x.reshape(-1, 2))))
    assert np.mean(np.linalg.norm(x.reshape(-1, 2) - curve, axis=1) < 0.1) > 0.97


def test_paths_of_all_methods_begin_at_the_same_noise_and_keep_every_state(three):
    network = jax.tree.map(lambda a: a[0], three[0].ema_params)
    way = {name: roll.paths(network, KEY, roll.METHODS[name], 4, 9) for name in ("ddpm", "ddim")}
    for path in way.values():
        assert path.t.tolist() == [1000, 750, 500, 250, 0]
        chex.assert_shape(path.x, (5, 9, 2))
    chex.assert_trees_all_equal(way["ddpm"].x[0], way["ddim"].x[0])
    assert not np.allclose(way["ddpm"].x[1], way["ddim"].x[1], atol=1e-2)
