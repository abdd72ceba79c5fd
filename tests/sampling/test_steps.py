"""One reverse step: DDIM against DDPM, both against the papers' formulas in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxddim

LINEAR = jaxddim.linear()
SHORT = jaxddim.cosine(20)
BETA = np.append(np.nan, np.linspace(1e-4, 0.02, 1000))
AB = np.append(1, np.cumprod(1 - BETA[1:]))

TO, FROM = np.triu_indices(1001, 1)  # every s < t: 500,500 pairs


def bounded(n, seed=0):
    """x_0 in [-1, 1] and eps of variance 1, uniform so that rounding has a bound."""
    rng = np.random.default_rng(seed)
    x0, eps = rng.uniform(-1, 1, (2, n, 1)) * [[[1.0]], [[3**0.5]]]
    return jnp.asarray(x0, jnp.float32), jnp.asarray(eps, jnp.float32)


def test_ddim_with_eta_1_is_ddpm_for_every_pair_of_times():
    x0, eps = bounded(len(TO))

    @jax.jit
    def difference(args):
        x0, eps, t, s = args
        x_t = jaxddim.q_sample(LINEAR, x0, t, eps)
        pair = jaxddim.from_eps(LINEAR, x_t, eps, t)
        pair = jaxddim.clip(LINEAR, x_t, pair, t)
        ddim = jaxddim.ddim_step(LINEAR, x_t, pair, t, s, eta=1.0)
        ddpm = jaxddim.ddpm_step(LINEAR, x_t, pair, t, s)
        true = jaxddim.q_posterior(LINEAR, pair.x0, x_t, t, s)
        gaps = jax.tree.map(lambda *a: jnp.stack([abs(a[0] - a[1]), abs(a[2] - a[1])]),
                            ddim, ddpm, true)  # fmt: skip
        return jax.tree.map(jnp.max, gaps)

    parts = jax.tree.map(lambda a: jnp.asarray(a).reshape(500, 1001, *a.shape[1:]),
                         (x0, eps, FROM, TO))  # fmt: skip
    mean, std = lax.map(difference, parts)
    chex.assert_shape([mean, std], (500,))
    assert mean.max() <= 1e-6 and std.max() <= 1e-6


def test_paths_of_1000_steps_of_ddim_with_eta_1_and_ddpm_agree():
    """Data N(0.2, 0.5^2), whose best prediction is known in closed form."""

    def apply_fn(x, index):
        ab = LINEAR.alpha_bar[index + 1][:, None]
        return (0.2 * (1 - ab) + 0.25 * jnp.sqrt(ab) * x) / (1 - 0.75 * ab)

    denoise_fn = jaxddim.as_denoiser(LINEAR, apply_fn, kind="x0")
    ddim = functools.partial(jaxddim.ddim_step, eta=1.0)
    ends = [
        jaxddim.sample(
            jax.random.key(0), denoise_fn, LINEAR, jaxddim.timesteps(1000, 1000), (64, 2), step=step
        )
        for step in (ddim, jaxddim.ddpm_step)
    ]
    assert np.std(ends[0]) > 0.3
    chex.assert_trees_all_close(*ends, atol=1e-4, rtol=0)


def test_ddpm_from_one_time_to_the_one_before_is_the_papers_from_betas():
    t = np.arange(1, 1001)
    x0, eps = bounded(1000)
    x_t = jaxddim.q_sample(LINEAR, x0, t, eps)
    small, large = (
        jaxddim.ddpm_step(LINEAR, x_t, jaxddim.Prediction(x0, eps), t, t - 1, variance=variance)
        for variance in ("small", "large")
    )
    # arXiv 2006.11239, eq. 11, in the network's eps
    noise = BETA[t] / np.sqrt(1 - AB[t])
    mean = (x_t[:, 0] - noise * eps[:, 0]) / np.sqrt(1 - BETA[t])
    np.testing.assert_allclose(small.mean[:, 0], mean, atol=2e-6)
    chex.assert_trees_all_equal(small.mean, large.mean)
    np.testing.assert_allclose(
        small.std[:, 0] ** 2, BETA[t] * (1 - AB[t - 1]) / (1 - AB[t]), atol=1e-6, rtol=1e-4
    )
    np.testing.assert_allclose(large.std[1:, 0] ** 2, BETA[2:], atol=1e-6, rtol=1e-4)
    assert small.std[0] == 0 and large.std[0] == 0


def test_large_variance_over_a_jump_is_sigma_hat_with_the_direction_of_sigma_1():
    t, s = np.array([1000, 700, 400, 30, 2]), np.array([900, 100, 399, 10, 1])
    x0, eps = bounded(5)
    x_t = jaxddim.q_sample(LINEAR, x0, t, eps)
    mean, std = jaxddim.ddpm_step(LINEAR, x_t, jaxddim.Prediction(x0, eps), t, s, variance="large")
    np.testing.assert_allclose(std[:, 0], np.sqrt(1 - AB[t] / AB[s]), rtol=1e-4)
    sigma_1 = np.sqrt((1 - AB[s]) / (1 - AB[t]) * (1 - AB[t] / AB[s]))
    expected = np.sqrt(AB[s]) * x0[:, 0] + np.sqrt(1 - AB[s] - sigma_1**2) * eps[:, 0]
    np.testing.assert_allclose(mean[:, 0], expected, atol=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.5, 1.0])
def test_ddim_is_the_papers_equation_12_and_eta_scales_its_standard_deviation(eta):
    index = np.random.default_rng(0).integers(0, len(TO), 2000)
    t, s = FROM[index], TO[index]
    x0, eps = bounded(2000)
    x_t = jaxddim.q_sample(LINEAR, x0, t, eps)
    mean, std = jaxddim.ddim_step(LINEAR, x_t, jaxddim.Prediction(x0, eps), t, s, eta=eta)
    sigma = eta * np.sqrt((1 - AB[s]) / (1 - AB[t])) * np.sqrt(1 - AB[t] / AB[s])
    expected = np.sqrt(AB[s]) * x0[:, 0] + np.sqrt(1 - AB[s] - sigma**2) * eps[:, 0]
    np.testing.assert_allclose(mean[:, 0], expected, atol=2e-6)
    np.testing.assert_allclose(np.broadcast_to(std, (2000, 1))[:, 0], sigma, atol=5e-6)


def test_deterministic_ddim_is_euler_in_the_papers_variables():
    """Eq. 13: x / sqrt(ab) moves by eps times the change of sqrt((1 - ab) / ab), both ways."""
    t, s = np.array([1000, 500, 3, 0, 10]), np.array([990, 0, 2, 50, 900])
    x0, eps = bounded(5)
    x_t = jaxddim.q_sample(LINEAR, x0, t, eps)
    mean, std = jaxddim.ddim_step(LINEAR, x_t, jaxddim.Prediction(x0, eps), t, s)
    noise = np.sqrt((1 - AB) / AB)
    euler = x_t[:, 0] / np.sqrt(AB[t]) + (noise[s] - noise[t]) * eps[:, 0]
    # x / sqrt(ab) is 160 times x at t = 1000, and so is its rounding
    np.testing.assert_allclose(mean[:, 0], np.sqrt(AB[s]) * euler, atol=5e-5)
    assert std == 0


STEPS = [
    functools.partial(jaxddim.ddim_step, eta=0.0),
    functools.partial(jaxddim.ddim_step, eta=0.5),
    functools.partial(jaxddim.ddim_step, eta=1.0),
    functools.partial(jaxddim.ddpm_step, variance="small"),
    functools.partial(jaxddim.ddpm_step, variance="large"),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("t", [1, 7, 20])
def test_the_step_to_0_is_the_predicted_image_without_noise(step, t):
    pair = jaxddim.Prediction(jnp.full((2, 3), 0.3), jnp.ones((2, 3)))
    x_t = jaxddim.q_sample(SHORT, pair.x0, t, pair.eps)
    mean, std = jax.jit(lambda t, s: step(SHORT, x_t, pair, t, s))(t, 0)
    assert np.all(std == 0)
    np.testing.assert_allclose(mean, 0.3, atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_step_from_0_to_0_stays_there(eta):
    """As when examples of one batch finish at different steps; log SNR is infinite there."""
    x = jnp.full((2, 3), 0.3)
    pair = jaxddim.Prediction(x, jnp.ones((2, 3)))
    mean, std = jaxddim.ddim_step(SHORT, x, pair, jnp.array([0, 0]), jnp.array([0, 0]), eta=eta)
    chex.assert_trees_all_equal(mean, x)
    assert np.all(std == 0)


@pytest.mark.parametrize("step", STEPS)
def test_steps_take_times_per_example_and_differentiate_without_nan(step):
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    t, s = jnp.array([20, 9, 2, 1]), jnp.array([10, 8, 0, 0])

    def run(x, t, s):
        pair = jaxddim.from_v(SHORT, x, 0.1 * x, t)
        return step(SHORT, x, pair, t, s)

    mean, std = run(x, t, s)
    chex.assert_shape(mean, x.shape)
    assert std.shape in ((), (4, 1, 1, 1)) and np.all(std >= 0)
    for i in range(4):
        one = run(x[i : i + 1], int(t[i]), int(s[i]))
        chex.assert_trees_all_close(one.mean[0], mean[i], atol=2e-6)
        chex.assert_trees_all_close(
            np.asarray(one.std).squeeze(),
            np.broadcast_to(std, (4, 1, 1, 1))[i].squeeze(),
            atol=2e-6,
        )
    grad = jax.jit(jax.grad(lambda x: sum(map(jnp.sum, run(x, t, s)))))(x)
    chex.assert_tree_all_finite(grad)
    assert np.all(grad != 0)


@pytest.mark.parametrize("step", STEPS)
def test_steps_from_pure_noise_are_finite_under_zero_terminal_snr(step):
    schedule = jaxddim.zero_terminal_snr(SHORT)
    x = jnp.ones((2, 3))
    pair = jaxddim.from_v(schedule, x, -0.5 * x, 20)
    mean, std = step(schedule, x, pair, 20, 10)
    chex.assert_tree_all_finite((mean, std))
    alpha, sigma = schedule.scales(10)
    if isinstance(std, np.ndarray):  # eta = 0: along the circle of (x_0, eps) = (0.5, 1)
        np.testing.assert_allclose(mean, 0.5 * alpha + sigma, rtol=1e-6)


@pytest.mark.parametrize("eta", [1.0004, 2, -0.1, float("nan")])
def test_eta_outside_0_to_1_is_an_error(eta):
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="eta"):
        jaxddim.ddim_step(SHORT, x, jaxddim.Prediction(x, x), 10, 5, eta=eta)


def test_impossible_variances_and_times_are_errors():
    x = jnp.ones((2, 3))
    pair = jaxddim.Prediction(x, x)
    with pytest.raises(ValueError, match="variance"):
        jaxddim.ddpm_step(SHORT, x, pair, 10, 5, variance="learned")
    for t, s in ((21, 5), (10, -1)):
        for step in STEPS:
            with pytest.raises(ValueError, match=r"0\.\.20"):
                step(SHORT, x, pair, t, s)


def test_a_bfloat16_pair_is_stepped_in_float32():
    x0 = jnp.full((1, 1), 0.7, jnp.bfloat16)
    pair = jaxddim.Prediction(x0, x0)
    x_t = jnp.full((1, 1), 0.7)
    for step in STEPS:
        mean, _ = step(LINEAR, x_t, pair, 500, 499)
        chex.assert_type(mean, jnp.float32)
        wide = jaxddim.Prediction(*(a.astype(jnp.float32) for a in pair))
        chex.assert_trees_all_equal(mean, step(LINEAR, x_t, wide, 500, 499).mean)
