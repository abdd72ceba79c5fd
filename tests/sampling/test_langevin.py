"""Langevin dynamics against distributions known in closed form."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from tests.sampling.test_sampling_gaussian import AB, DENOISE, LINEAR, C, M, closed_form

KEY = jax.random.key(0)
TIME = 100
SNR = 0.2
STEP = 2 * SNR**2 * (1 - AB[TIME])  # h, in the symbols of the module

# -- a Gaussian mixture of data ------------------------------------------------------

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-0.6, 0.0], [0.5, 0.4]])
COVARIANCES = np.array([[[0.06, 0.02], [0.02, 0.1]], [[0.08, -0.03], [-0.03, 0.05]]])


def mixture_at(t):
    """Means and covariances of q(x_t), whose components stay Gaussian."""
    return np.sqrt(AB[t]) * MEANS, AB[t] * COVARIANCES + (1 - AB[t]) * np.eye(2)


def score(x, index):
    """The gradient of the log-density at TIME, by differentiation."""
    means, covariances = mixture_at(TIME)

    def log_density(x):
        components = [
            jnp.log(weight) + jax.scipy.stats.multivariate_normal.logpdf(x, mean, covariance)
            for weight, mean, covariance in zip(WEIGHTS, means, covariances, strict=True)
        ]
        return jax.nn.logsumexp(jnp.stack(components))

    return jax.vmap(jax.grad(log_density))(x)


def test_from_noise_at_a_fixed_time_the_walk_finds_the_mean_and_covariance_of_a_mixture():
    """Up to sampling error and the first-order bias in h: h / 2v for the smallest v."""
    denoise_fn = jaxddim.as_denoiser(LINEAR, score, kind="score", clip_x0=False)
    step = functools.partial(jaxddim.langevin_step, snr=SNR)
    n = 4000
    start = jax.random.normal(jax.random.key(1), (n, 2))
    grid = jnp.full(2001, TIME)
    run = jax.jit(lambda x: jaxddim.integrate(KEY, denoise_fn, LINEAR, grid, x, step=step)[0])
    x = np.asarray(run(start), np.float64)

    means, covariances = mixture_at(TIME)
    mean = WEIGHTS @ means
    spread = means - mean
    covariance = np.einsum("k,kij->ij", WEIGHTS, covariances)
    covariance += np.einsum("k,ki,kj->ij", WEIGHTS, spread, spread)
    bias = STEP / 2 / np.linalg.eigvalsh(covariances).min()
    assert bias < 0.04
    variance = np.diag(covariance)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(variance / n))
    scale = np.sqrt(np.outer(variance, variance))
    error = np.abs(np.cov(x.T) - covariance) / scale
    assert np.all(error < bias + 5 * np.sqrt(2 / n)), error
    assert np.abs(np.cov(start.T) - covariance).max() > 0.5  # the start was not there already


def test_of_a_gaussian_the_walk_keeps_the_mean_and_the_variance_up_to_the_stated_bias():
    """The step is affine: x' = a x + b + std z, and a, b, std give its stationary law."""
    for t, snr in itertools.product((TIME, 400, 900), (0.1, SNR, 0.7)):
        v = AB[t] * C**2 + 1 - AB[t]  # the variance of q(x_t) for data N(M, C^2)
        h = 2 * (snr**2) * (1 - AB[t])
        x = jnp.array([[0.0], [1.0]])
        mean, std = jaxddim.langevin_step(LINEAR, x, DENOISE(x, jnp.int32(t)), t, snr=snr)
        b = float(mean[0, 0])
        a = float(mean[1, 0]) - b
        np.testing.assert_allclose(b / (1 - a), np.sqrt(AB[t]) * M, rtol=1e-3)
        np.testing.assert_allclose(float(std) ** 2 / (1 - a * a), v / (1 - h / (2 * v)), rtol=1e-3)
        assert v / (1 - h / (2 * v)) <= v / (1 - snr**2)


def test_at_snr_of_root_half_the_mean_is_the_whole_way_to_the_denoised_image():
    x = jax.random.normal(KEY, (3, 5))
    pair = DENOISE(x, jnp.int32(TIME))
    mean, std = jaxddim.langevin_step(LINEAR, x, pair, TIME, snr=0.5**0.5)
    alpha, sigma = LINEAR.scales(TIME)
    np.testing.assert_allclose(mean, alpha * pair.x0, atol=1e-6)
    np.testing.assert_allclose(std, 2**0.5 * sigma, rtol=1e-6)


def test_clean_images_stay_as_they_are_and_each_image_has_its_own_time():
    x = jax.random.normal(KEY, (3, 4, 4, 1))
    t = jnp.array([0, 10, 700])
    pair = jaxddim.from_eps(LINEAR, x, jnp.cos(x), t)
    mean, std = jaxddim.langevin_step(LINEAR, x, pair, t, snr=SNR)
    chex.assert_shape(std, (3, 1, 1, 1))
    np.testing.assert_array_equal(mean[0], x[0])
    assert std[0] == 0
    for i in (1, 2):
        alone = jaxddim.langevin_step(
            LINEAR, x[i : i + 1], jax.tree.map(lambda a, i=i: a[i : i + 1], pair), t[i], snr=SNR
        )
        np.testing.assert_allclose(mean[i], alone.mean[0], atol=1e-6)
        np.testing.assert_allclose(std[i, 0, 0, 0], alone.std, rtol=1e-6)


# -- predictor-corrector -------------------------------------------------------------

STEPS = {"ddim": jaxddim.ddim_step, "small": jaxddim.ddpm_step}


def corrected_closed_form(grid, method, corrections, snr):
    """Mean and variance of x at the end of the grid, from N(0, 1); float64."""
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise(grid):
        v = AB[t] * C**2 + 1 - AB[t]
        h = 2 * snr**2 * (1 - AB[t])
        for _ in range(corrections):  # x + h score + sqrt(2 h) z, score = -(x - alpha_t M) / v
            mean += h / v * (np.sqrt(AB[t]) * M - mean)
            variance = (1 - h / v) ** 2 * variance + 2 * h
        A, B, V = closed_form([t, s], method)
        mean, variance = A * mean + B, A * A * variance + V
    return mean, variance


@pytest.mark.parametrize("corrections", [1, 3])
@pytest.mark.parametrize("method", STEPS)
def test_predictor_corrector_has_the_mean_and_variance_of_the_closed_form(method, corrections):
    grid = jaxddim.timesteps(1000, 8)
    step = jaxddim.corrector(STEPS[method], corrections, 0.4)
    run = jax.jit(lambda key: jaxddim.sample(key, DENOISE, LINEAR, grid, (500, 200), step=step))
    x = np.asarray(run(KEY), np.float64)
    mean, variance = corrected_closed_form(np.asarray(grid), method, corrections, 0.4)
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / x.size)
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / x.size)


def test_the_closed_form_keeps_the_law_of_the_data():
    """Checks the reference above; corrections reduce the error of a short grid."""
    for method in STEPS:
        mean, variance = corrected_closed_form(np.arange(1000, -1, -1), method, 2, 0.1)
        np.testing.assert_allclose([mean, np.sqrt(variance)], [M, C], rtol=0.01)
    short = jaxddim.timesteps(1000, 20).tolist()
    _, without = corrected_closed_form(short, "ddim", 0, 0.1)
    _, corrected = corrected_closed_form(short, "ddim", 20, 0.3)
    assert abs(corrected / C**2 - 1) < 0.5 * abs(without / C**2 - 1)


SCHEDULE = jaxddim.cosine(20)
GRID = jaxddim.timesteps(20, 4)
X_T = jax.random.normal(jax.random.key(9), (3, 2))


def network(x, index):
    return jnp.tanh(x + 0.1 * index[:, None]) + 0.2 * jnp.roll(x, 1, axis=1)


NETWORK = jaxddim.as_denoiser(SCHEDULE, network)
CORRECTED = jaxddim.corrector(jaxddim.ddpm_step, 2, SNR)


@functools.lru_cache
def compiled(step=CORRECTED, keep=0):
    return jax.jit(
        lambda key, grid, x: jaxddim.integrate(
            key, NETWORK, SCHEDULE, grid, x, step=step, keep=keep
        )
    )


def test_corrections_come_before_the_step_each_with_its_own_prediction_and_noise():
    x = X_T
    for t, s in itertools.pairwise(GRID.tolist()):
        walk = functools.partial(jaxddim.langevin_step, snr=SNR)
        for visit, step in enumerate([walk, walk, jaxddim.ddpm_step]):
            keys = [
                jax.random.fold_in(jax.random.fold_in(KEY, i), t + 21 * visit) for i in range(3)
            ]
            noise = jnp.stack([jax.random.normal(key, (2,)) for key in keys])
            mean, std = step(SCHEDULE, x, NETWORK(x, t), t, s)
            x = mean + std * noise
    chex.assert_trees_all_close(compiled()(KEY, GRID, X_T)[0], x, atol=1e-5)


def test_no_correction_is_the_step_alone():
    alone = compiled(jaxddim.ddpm_step)(KEY, GRID, X_T)
    none = compiled(jaxddim.corrector(jaxddim.ddpm_step, 0, SNR))(KEY, GRID, X_T)
    chex.assert_trees_all_equal(alone, none)
    assert not np.allclose(alone[0], compiled()(KEY, GRID, X_T)[0], atol=1e-2)


def test_a_corrected_image_does_not_depend_on_its_batch():
    draw = functools.partial(jaxddim.sample, KEY, NETWORK, SCHEDULE, GRID, step=CORRECTED)
    chex.assert_trees_all_close(draw((1, 2), first_index=5)[0], draw((8, 2))[5], atol=1e-6)


def test_a_corrected_run_resumes_bit_for_bit_and_keeps_the_states_of_its_grid():
    x, path = compiled(keep=5)(KEY, GRID, X_T)
    assert path.t.tolist() == GRID.tolist()
    half, _ = compiled()(KEY, GRID[:3], X_T)
    chex.assert_trees_all_equal(compiled()(KEY, GRID[2:], half)[0], compiled()(KEY, GRID, X_T)[0])
    chex.assert_trees_all_close((path.x[2], path.x[-1]), (half, x), atol=1e-6)
    chex.assert_trees_all_close(path.x0[2], NETWORK(half, GRID[2]).x0, atol=1e-5)


def test_however_many_corrections_the_network_is_compiled_once():
    counts = []
    for corrections in (0, 5):
        calls = []

        def counted(x, t, calls=calls):
            calls.append(t)
            return NETWORK(x, t)

        step = jaxddim.corrector(jaxddim.ddim_step, corrections, SNR)
        jax.eval_shape(
            lambda x, step=step, counted=counted: jaxddim.integrate(
                KEY, counted, SCHEDULE, GRID, x, step=step
            ),
            X_T,
        )
        counts.append(len(calls))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("snr", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_walk_that_stands_still_or_diverges_is_an_error(snr):
    pair = NETWORK(X_T, 5)
    with pytest.raises(ValueError, match=r"snr must lie in \(0, 1\)"):
        jaxddim.langevin_step(SCHEDULE, X_T, pair, 5, snr=snr)
    with pytest.raises(ValueError, match="snr"):
        jaxddim.corrector(jaxddim.ddim_step, 1, snr)


def test_impossible_corrections_are_errors():
    with pytest.raises(ValueError, match="num_corrections must be at least 0, got -1"):
        jaxddim.corrector(jaxddim.ddim_step, -1, SNR)
    with pytest.raises(ValueError, match="t must be at least 0 and lie in"):
        jaxddim.langevin_step(SCHEDULE, X_T, NETWORK(X_T, 5), 21, snr=SNR)
    with pytest.raises(ValueError, match="a function such as ddim_step, or a Solver, got tuple"):
        jaxddim.integrate(KEY, NETWORK, SCHEDULE, GRID, X_T, step=())
