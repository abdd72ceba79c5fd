"""Samplers on data N(M, C^2), where everything is known in closed form.

The best prediction is E[x_0 | x_t], affine in x_t. So every step is affine, and the mean and
variance of the samples follow in float64 from the papers' formulas and betas alone.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim

M, C = 0.3, 0.5
LINEAR = jaxddim.linear()
AB = np.append(1, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))


def best_x0(x, index):
    """Bayes' rule: a prior of precision 1 / C^2, an observation x / sqrt(ab) of precision SNR."""
    ab = LINEAR.alpha_bar[index + 1].reshape(-1, *[1] * (x.ndim - 1))
    return (M * (1 - ab) + C**2 * jnp.sqrt(ab) * x) / (1 - ab + C**2 * ab)


DENOISE = jaxddim.as_denoiser(LINEAR, best_x0, kind="x0", clip_x0=False)


def closed_form(grid, method, eta=0.0):
    """(A, B, V): x at the end of the grid is A x_T + B plus noise of variance V; float64."""
    A, B, V = 1.0, 0.0, 0.0
    for t, s in itertools.pairwise(grid):
        snr, ab_t, ab_s = AB[t] / (1 - AB[t]), AB[t], AB[s]
        # x_0 = p x + q, the posterior mean
        p = snr / (snr + 1 / C**2) / np.sqrt(ab_t)
        q = M / C**2 / (snr + 1 / C**2)
        if method == "ddim":  # arXiv 2010.02502, eq. 12 and 16
            variance = eta**2 * (1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)
            along = np.sqrt(1 - ab_s - variance) / np.sqrt(1 - ab_t)
            a = np.sqrt(ab_s) * p + along * (1 - np.sqrt(ab_t) * p)
            b = np.sqrt(ab_s) * q - along * np.sqrt(ab_t) * q
        else:  # arXiv 2006.11239, eq. 6-7, with the beta of the whole jump from s to t
            beta = 1 - ab_t / ab_s
            of_x0 = np.sqrt(ab_s) * beta / (1 - ab_t)
            a = np.sqrt(ab_t / ab_s) * (1 - ab_s) / (1 - ab_t) + of_x0 * p
            b = of_x0 * q
            variance = beta * (1 - ab_s) / (1 - ab_t) if method == "small" else beta * (s > 0)
        A, B, V = a * A, a * B + b, a * a * V + variance
    return A, B, V


STEPS = {
    "ddim 0": (jaxddim.ddim_step, ("ddim", 0.0)),
    "ddim 0.5": (functools.partial(jaxddim.ddim_step, eta=0.5), ("ddim", 0.5)),
    "ddim 1": (functools.partial(jaxddim.ddim_step, eta=1.0), ("ddim", 1.0)),
    "ddpm small": (jaxddim.ddpm_step, ("small",)),
    "ddpm large": (functools.partial(jaxddim.ddpm_step, variance="large"), ("large",)),
}


@functools.lru_cache
def sampler(name):
    step = STEPS[name][0]
    return jax.jit(
        lambda key, grid: jaxddim.sample(key, DENOISE, LINEAR, grid, (500, 200), step=step)
    )


@pytest.mark.parametrize("spacing", ["linear", "quadratic", "leading"])
@pytest.mark.parametrize("name", STEPS)
def test_samples_have_the_mean_and_variance_of_the_closed_form(name, spacing):
    grid = jaxddim.timesteps(1000, 10, spacing=spacing)
    A, B, V = closed_form(np.asarray(grid), *STEPS[name][1])
    mean, variance = B, A * A + V  # x_T is N(0, 1)
    x = np.asarray(sampler(name)(jax.random.key(0), grid), np.float64)
    n = x.size
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / n)


def test_the_closed_form_tends_to_the_data():
    """Checks the reference above: with all 1000 steps each method reaches N(M, C^2)."""
    grid = np.arange(1000, -1, -1)
    for _, (method, *eta) in STEPS.values():
        A, B, V = closed_form(grid, method, *eta)
        np.testing.assert_allclose([B, np.sqrt(A * A + V)], [M, C], rtol=1e-2)


@pytest.mark.parametrize("spacing", ["linear", "quadratic", "trailing", "linspace"])
def test_decoding_is_the_affine_map_of_the_closed_form(spacing):
    grid = jaxddim.timesteps(1000, 25, spacing=spacing)
    A, B, _ = closed_form(np.asarray(grid), "ddim", 0.0)
    x_T = jnp.linspace(-3, 3, 13)[:, None]
    x_0 = jaxddim.decode(DENOISE, LINEAR, grid, x_T)
    np.testing.assert_allclose(x_0, A * np.asarray(x_T, np.float64) + B, atol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
def reconstruction_error(grid, refine):
    """Root mean squared error of encoding and decoding."""
    x0 = M + C * jnp.linspace(-2, 2, 41)[:, None]
    x_T = jaxddim.encode(DENOISE, LINEAR, grid, x0, refine=refine)
    back = jaxddim.decode(DENOISE, LINEAR, grid, x_T)
    return jnp.sqrt(jnp.mean((back - x0) ** 2))


def test_reconstruction_error_falls_at_first_order():
    steps = np.array([100, 300, 1000])
    errors = [reconstruction_error(jaxddim.timesteps(1000, n), 0) for n in steps]
    slope, _ = np.polyfit(np.log(steps), np.log(errors), 1)
    assert abs(slope + 1) < 0.05
    assert errors[-1] > 1e-3  # far above rounding, so the slope is the method's


@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
def test_refining_once_cuts_the_reconstruction_error_a_hundredfold(spacing):
    grid = jaxddim.timesteps(1000, 50, spacing=spacing)
    errors = [reconstruction_error(grid, refine) for refine in range(4)]
    assert errors[0] > 100 * errors[1]
    assert errors[1] > 5 * errors[2]
    assert errors[3] < 1e-5


@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
def test_refining_converges_where_nothing_is_left_of_the_image(spacing):
    """The cosine schedule ends at alpha = 5e-5, where eps is x_T to rounding."""
    schedule = jaxddim.cosine(1000)
    grid = jaxddim.timesteps(1000, 50, spacing=spacing)
    x0 = M + C * jnp.linspace(-2, 2, 41)[:, None]

    def best(x, index):
        ab = schedule.alpha_bar[index + 1].reshape(-1, 1)
        return (M * (1 - ab) + C**2 * jnp.sqrt(ab) * x) / (1 - ab + C**2 * ab)

    denoise_fn = jaxddim.as_denoiser(schedule, best, kind="x0", clip_x0=False)
    errors = []
    for refine in range(3):
        x_T = jaxddim.encode(denoise_fn, schedule, grid, x0, refine=refine)
        errors.append(jnp.abs(jaxddim.decode(denoise_fn, schedule, grid, x_T) - x0).max())
    assert errors[0] > 300 * errors[1]
    assert errors[1] > 5 * errors[2]
    assert errors[2] < 1e-5


def test_one_step_of_encoding_stays_finite():
    x_T = jaxddim.encode(DENOISE, LINEAR, jaxddim.timesteps(1000, 1), jnp.ones((1, 2)), refine=2)
    assert float(jnp.abs(x_T).max()) < 10


def test_encoding_with_many_steps_finds_the_noise_of_the_exact_flow():
    """The probability flow maps N(M, C^2) to N(0, 1) monotonically: x_T = (x_0 - M) / C."""
    z = jnp.linspace(-2, 2, 9)[:, None]
    x_T = jaxddim.encode(DENOISE, LINEAR, jaxddim.timesteps(1000, 1000), M + C * z, refine=1)
    chex.assert_trees_all_close(x_T, z, atol=0.02)


def test_encoding_rejects_a_negative_refine():
    with pytest.raises(ValueError, match="refine"):
        jaxddim.encode(DENOISE, LINEAR, jaxddim.timesteps(1000, 5), jnp.ones((1, 2)), refine=-1)
