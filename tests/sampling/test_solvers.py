"""Solvers of higher order: their formulas, orders and laws on data where all is known.

For data N(M, C^2), or a mixture of such, on a line, the exact flow of DDIM's ODE keeps quantiles.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.optimize import brentq

import jaxddim
from jaxddim import Schedule, dpm_solver_pp_2m, heun, plms

M, C = 0.3, 0.5
LINEAR, KEY = jaxddim.linear(), jax.random.key(0)
SOLVERS = {
    "heun": heun(),
    "2m": dpm_solver_pp_2m(),
    "plms": plms(),
    "2m sde": dpm_solver_pp_2m(eta=1.0),
    "heun churn": heun(churn=0.2),
}
DETERMINISTIC = ("heun", "2m", "plms")


def gaussian_denoiser(schedule):
    """E[x_0 | x_t] of N(M, C^2), in the schedule's type."""

    def denoise_fn(x, t):
        alpha, sigma = schedule.scales(jnp.maximum(t, 1))
        x0 = (M * sigma**2 + C**2 * alpha * x) / (sigma**2 + C**2 * alpha**2)
        pair = jaxddim.from_x0(schedule, x, x0, jnp.maximum(t, 1))
        return pair._replace(x0=jnp.where(t == 0, x, pair.x0))

    return denoise_fn


# -- order -------------------------------------------------------------------------------


def even_schedule(T):
    """log_snr from 10 to -10 at even distances, in float64."""
    return Schedule(jnp.asarray(np.append(np.inf, np.linspace(10, -10, T))))


POINTS, WIDTH = np.array([-1.0, 0.2, 0.9]), 0.3


def exact_flow(schedule, x, t, s, points, width):
    """Each x_t moved to the point of the same quantile at s."""

    def cdf(x, t):
        alpha, sigma = (float(scale) for scale in schedule.scales(t))
        spread = np.hypot(alpha * width, sigma)
        return np.mean(scipy.stats.norm.cdf(x, alpha * points, spread))

    return np.array([brentq(lambda y, p: cdf(y, s) - p, -9, 9, (cdf(one, t),)) for one in x])


@pytest.mark.parametrize("data", ["gaussian", "mixture"])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("2m", 2), ("plms", 2)])
def test_the_order_of_convergence_to_the_exact_flow(name, order, data):
    T, end, numbers = 4096, 1024, np.array([64, 128, 256])
    with jax.enable_x64(True):
        schedule = even_schedule(T)
        points, width = (np.array([M]), C) if data == "gaussian" else (POINTS, WIDTH)
        denoise_fn = jaxddim.exact_denoiser(schedule, jnp.asarray(points)[:, None], std=width)
        x = jnp.linspace(-2, 2, 9)[:, None]
        exact = exact_flow(schedule, np.asarray(x)[:, 0], T, end, points, width)
        step = jaxddim.ddim_step if name == "ddim" else SOLVERS[name]
        errors = []
        for S in numbers:
            grid = np.linspace(T, end, S + 1).astype(int)
            found, _ = jaxddim.integrate(None, denoise_fn, schedule, grid, x, step=step)
            errors.append(np.sqrt(np.mean((np.asarray(found)[:, 0] - exact) ** 2)))
    slope, _ = np.polyfit(np.log(numbers), np.log(errors), 1)
    assert abs(slope + order) < 0.1, errors


@pytest.mark.parametrize("spacing", ["log_snr", "karras", "linear"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_twenty_steps_end_at_most_half_as_far_from_the_exact_flow_as_ddims(name, spacing):
    schedule = jaxddim.linear()
    x_T = jnp.linspace(-2, 2, 9)[:, None]
    exact = M + C * x_T  # x_T is N(0, 1) but for 4e-5 of the signal

    def error(step, S):
        grid = jaxddim.timesteps(1000, S, spacing=spacing, schedule=schedule)
        denoise_fn = gaussian_denoiser(schedule)
        x, _ = jaxddim.integrate(None, denoise_fn, schedule, grid, x_T, step=step)
        return float(jnp.sqrt(jnp.mean((x - exact) ** 2)))

    assert error(SOLVERS[name], 20) < error(jaxddim.ddim_step, 20) / 2


# -- the papers' formulas ----------------------------------------------------------------


def alpha_sigma(schedule, t):
    log_snr = np.asarray(schedule.log_snr, np.float64)[t]
    return np.exp(-np.logaddexp(0, -log_snr) / 2), np.exp(-np.logaddexp(0, log_snr) / 2)


def best(x, alpha, sigma):
    return (M * sigma**2 + C**2 * alpha * x) / (sigma**2 + C**2 * alpha**2)


def edm_algorithm_2(schedule, grid, x):
    """arXiv 2206.00364, in x / alpha and sigma / alpha."""
    sigmas = [np.divide(*alpha_sigma(schedule, t)[::-1]) for t in grid]
    x = x / alpha_sigma(schedule, grid[0])[0]

    def slope(x, sigma):
        alpha = 1 / np.sqrt(1 + sigma**2)
        return (x - best(alpha * x, alpha, sigma * alpha)) / sigma

    for here, there in itertools.pairwise(sigmas):
        d = slope(x, here)
        ahead = x + (there - here) * d
        x = ahead if there == 0 else x + (there - here) * (d + slope(ahead, there)) / 2
    return x


def dpm_solver_pp_algorithm_2(schedule, grid, x):
    """arXiv 2211.01095, with its h, r and D."""
    lambdas = np.asarray(schedule.log_snr, np.float64)[grid] / 2
    h, before = np.diff(lambdas), None
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(schedule, t), alpha_sigma(schedule, s)
        x0 = best(x, alpha, sigma)
        r = None if before is None or s == 0 else h[i - 1] / h[i]
        D = x0 if r is None else (1 + 1 / (2 * r)) * x0 - before / (2 * r)
        x, before = sigma_s / sigma * x - alpha_s * np.expm1(-h[i]) * D, x0
    return x


def pndm(schedule, grid, x):
    """arXiv 2202.09778: its transfer part, and its multistep part after an improved Euler step."""

    def transfer(x, eps, t, s):
        (ab_t, ab_s) = (alpha_sigma(schedule, time)[0] ** 2 for time in (t, s))
        roots = np.sqrt((1 - ab_s) * ab_t) + np.sqrt((1 - ab_t) * ab_s)
        return np.sqrt(ab_s / ab_t) * x - (ab_s - ab_t) / (np.sqrt(ab_t) * roots) * eps

    def eps_at(x, t):
        alpha, sigma = alpha_sigma(schedule, t)
        return (x - alpha * best(x, alpha, sigma)) / sigma

    past = []
    for t, s in itertools.pairwise(grid):
        past.append(eps_at(x, t))
        e = past[::-1]
        if len(past) == 1:
            eps = (e[0] + eps_at(transfer(x, e[0], t, s), s)) / 2
        elif len(past) == 2:
            eps = (3 * e[0] - e[1]) / 2
        elif len(past) == 3:
            eps = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            eps = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        x = transfer(x, eps, t, s)
    return x


FORMULAS = {"heun": edm_algorithm_2, "2m": dpm_solver_pp_algorithm_2, "plms": pndm}


@pytest.mark.parametrize("spacing", ["linear", "karras"])
@pytest.mark.parametrize("name", FORMULAS)
def test_a_solver_takes_the_steps_of_its_paper(name, spacing):
    grid = jaxddim.timesteps(1000, 12, spacing=spacing, schedule=LINEAR)
    x_T = jnp.linspace(-2, 2, 9)[:, None]
    x = jaxddim.decode(gaussian_denoiser(LINEAR), LINEAR, grid, x_T, step=SOLVERS[name])
    expected = FORMULAS[name](LINEAR, np.asarray(grid), np.asarray(x_T, np.float64))
    np.testing.assert_allclose(x, expected, atol=2e-5)


# -- laws of the stochastic ones ---------------------------------------------------------


def propagate(law, matrix, offset, variance):
    """Mean and covariance after an affine map, with noise in the first component."""
    mean, covariance = law
    noise = np.zeros_like(covariance)
    noise[0, 0] = variance
    return matrix @ mean + offset, matrix @ covariance @ matrix.T + noise


def law_of_2m_sde(schedule, grid):
    """Mean and variance of its samples: x and the last x_0 together are Gaussian."""
    lambdas = np.asarray(schedule.log_snr, np.float64)[grid] / 2
    h, law = np.diff(lambdas), (np.zeros(2), np.diag([1.0, 0.0]))
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        (alpha, sigma), (alpha_s, sigma_s) = alpha_sigma(schedule, t), alpha_sigma(schedule, s)
        constant = best(0.0, alpha, sigma)
        slope = best(1.0, alpha, sigma) - constant
        w = 0.0 if i == 0 or s == 0 else h[i] / h[i - 1] / 2
        drawn = -np.expm1(-2 * h[i])
        of_x = sigma_s / sigma * np.exp(-h[i]) if s else 0.0
        of_D = alpha_s * drawn
        matrix = np.array([[of_x + of_D * (1 + w) * slope, -of_D * w], [slope, 0]])
        offset = np.array([of_D * (1 + w) * constant, constant])
        law = propagate(law, matrix, offset, sigma_s**2 * drawn)
    return law[0][0], law[1][0, 0]


def law_of_churn(schedule, grid, gamma):
    """Mean and variance: sigma / alpha is raised by 1 + gamma, rounded to a time, then Heun's."""
    ratios = np.exp(-np.asarray(schedule.log_snr, np.float64) / 2)
    mean, variance = 0.0, 1 / alpha_sigma(schedule, grid[0])[0] ** 2  # of x / alpha

    def heuns(x, here, there):
        def slope(x, sigma):
            alpha = 1 / np.sqrt(1 + sigma**2)
            return (x - best(alpha * x, alpha, sigma * alpha)) / sigma

        d = slope(x, here)
        ahead = x + (there - here) * d
        return ahead if there == 0 else x + (there - here) * (d + slope(ahead, there)) / 2

    for t, s in itertools.pairwise(grid):
        u = t + np.argmin(np.abs(np.log(ratios[t:] / ratios[t] / (1 + gamma))))
        variance += ratios[u] ** 2 - ratios[t] ** 2
        b = heuns(0.0, ratios[u], ratios[s])
        a = heuns(1.0, ratios[u], ratios[s]) - b
        mean, variance = a * mean + b, a * a * variance
    return mean, variance


LAWS = {
    "2m sde": law_of_2m_sde,
    "heun churn": functools.partial(law_of_churn, gamma=0.2),
}


@pytest.mark.parametrize("spacing", ["linear", "log_snr"])
@pytest.mark.parametrize("name", LAWS)
def test_the_law_of_a_stochastic_solver(name, spacing):
    grid = jaxddim.timesteps(1000, 15, spacing=spacing, schedule=LINEAR)
    mean, variance = LAWS[name](LINEAR, np.asarray(grid))
    denoise_fn = gaussian_denoiser(LINEAR)
    x = jaxddim.sample(KEY, denoise_fn, LINEAR, grid, (500, 200), step=SOLVERS[name])
    x = np.asarray(x, np.float64)
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / x.size)
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / x.size)


@pytest.mark.parametrize("name", LAWS)
def test_the_laws_tend_to_the_data(name):
    """Checks the references above."""
    grid = np.arange(1000, -1, -1)
    mean, variance = LAWS[name](LINEAR, grid)
    np.testing.assert_allclose([mean, np.sqrt(variance)], [M, C], rtol=1e-2)


def test_churn_draws_only_in_its_interval_and_scales_its_noise():
    grid, shape = jaxddim.timesteps(1000, 8), (200, 20)
    run = functools.partial(jaxddim.sample, KEY, gaussian_denoiser(LINEAR), LINEAR, grid, shape)
    plain = run(step=heun())
    nowhere = run(step=heun(churn=0.3, interval=(1e4, 1e5)))
    chex.assert_trees_all_close(nowhere, plain, atol=1e-6)
    weak, strong = (
        run(step=heun(churn=0.3, interval=(0.1, 1.0), noise_scale=scale)) for scale in (0.5, 2.0)
    )
    assert weak.std() < plain.std() < strong.std()


def test_more_churn_than_the_papers_limit_is_the_limit():
    grid = jaxddim.timesteps(1000, 4)
    run = functools.partial(jaxddim.sample, KEY, gaussian_denoiser(LINEAR), LINEAR, grid, (2, 3))
    most, more = (run(step=heun(churn=churn)) for churn in (2**0.5 - 1, 9.0))
    chex.assert_trees_all_close(most, more, atol=1e-6)


# -- ends, memory and cost ---------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_data_of_a_single_point_are_found_in_any_number_of_steps(name):
    schedule = jaxddim.zero_terminal_snr(jaxddim.cosine(100))
    denoise_fn = jaxddim.exact_denoiser(schedule, jnp.array([[0.4, -0.7]]))
    for S in (1, 2, 5):
        grid = jaxddim.timesteps(100, S, spacing="log_snr", schedule=schedule)
        x = jaxddim.sample(KEY, denoise_fn, schedule, grid, (3, 2), step=SOLVERS[name])
        np.testing.assert_allclose(x, np.tile([0.4, -0.7], (3, 1)), atol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "zero terminal SNR"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_where_nothing_is_left_of_the_image_the_first_step_stays_exact(name, schedule):
    made = jaxddim.cosine(1000)
    made = made if schedule == "cosine" else jaxddim.zero_terminal_snr(made)
    x_T = jnp.linspace(-2, 2, 9)[:, None]
    grid = jaxddim.timesteps(1000, 20)
    x = jaxddim.decode(gaussian_denoiser(made), made, grid, x_T, step=SOLVERS[name])
    np.testing.assert_allclose(x, M + C * x_T, atol=0.02)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_step_is_ddims(name):
    x_T = jax.random.normal(KEY, (4, 3))
    run = functools.partial(
        jaxddim.integrate, KEY, gaussian_denoiser(LINEAR), LINEAR, [1000, 0], x_T
    )
    chex.assert_trees_all_close(run(step=SOLVERS[name])[0], run()[0], atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_image_i_does_not_depend_on_the_batch(name):
    grid = jaxddim.timesteps(1000, 5)
    run = functools.partial(jaxddim.sample, KEY, gaussian_denoiser(LINEAR), LINEAR, grid)
    many = run((8, 3), step=SOLVERS[name])
    one = run((1, 3), step=SOLVERS[name], first_index=5)
    chex.assert_trees_all_close(many[5:6], one, atol=1e-6)


EVALUATIONS = {
    "heun": lambda S: 2 * S - 1,
    "heun churn": lambda S: 2 * S - 1,
    "2m": lambda S: S,
    "2m sde": lambda S: S,
    "plms": lambda S: S + (S > 1),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_solver_costs(name):
    calls = []

    def counted(x, t):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x = jax.pure_callback(lambda x: (calls.append(1), np.asarray(x))[1], shape, x)
        return gaussian_denoiser(LINEAR)(x, t)

    for S in (1, 2, 6):
        calls.clear()
        grid = jaxddim.timesteps(1000, S)
        run = jax.jit(
            lambda grid: jaxddim.sample(KEY, counted, LINEAR, grid, (2, 3), step=SOLVERS[name])
        )
        run(grid).block_until_ready()
        assert len(calls) == EVALUATIONS[name](S)


@pytest.mark.parametrize("name", SOLVERS)
def test_snapshots_hold_the_prediction_for_their_image(name):
    grid, denoise_fn = jaxddim.timesteps(1000, 6), gaussian_denoiser(LINEAR)
    x_T = jax.random.normal(KEY, (4, 3))
    step = SOLVERS[name]
    _, path = jaxddim.integrate(KEY, denoise_fn, LINEAR, grid, x_T, step=step, keep=4)
    for x, x0, t in zip(*path, strict=True):
        chex.assert_trees_all_close(denoise_fn(x, t).x0, x0, atol=1e-5)


def test_heun_encodes_and_decodes_at_second_order():
    schedule, numbers, errors = jaxddim.linear(), [25, 50, 100], []
    x0 = M + C * jnp.linspace(-2, 2, 9)[:, None]
    for S in numbers:
        grid = jaxddim.timesteps(1000, S)
        run = functools.partial(
            jaxddim.integrate, None, gaussian_denoiser(schedule), schedule, step=heun()
        )
        x_T, _ = run(grid[:-1][::-1], x0)
        errors.append(float(jnp.abs(run(grid[:-1], x_T)[0] - x0).max()))
    slope, _ = np.polyfit(np.log(numbers), np.log(errors), 1)
    assert slope < -1.8, errors


BAD = {
    "churn": (lambda: heun(churn=-0.1), "churn must be at least 0"),
    "interval": (lambda: heun(churn=0.1, interval=(2.0, 1.0)), "interval must be"),
    "noise_scale": (lambda: heun(noise_scale=0.0), "noise_scale must be positive"),
    "eta": (lambda: dpm_solver_pp_2m(eta=1.5), r"eta must lie in \[0, 1\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_settings_are_errors(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


# -- keys and records --------------------------------------------------------------------


def test_no_key_is_needed_where_nothing_is_drawn():
    grid, x_T = jaxddim.timesteps(1000, 4), jax.random.normal(KEY, (4, 3))
    run = functools.partial(
        jaxddim.integrate, denoise_fn=gaussian_denoiser(LINEAR), schedule=LINEAR,
        timesteps=grid, x=x_T,
    )  # fmt: skip
    for step in (jaxddim.ddim_step, *(SOLVERS[name] for name in DETERMINISTIC)):
        chex.assert_trees_all_equal(run(None, step=step)[0], run(KEY, step=step)[0])
    for step in (jaxddim.ddpm_step, SOLVERS["2m sde"], SOLVERS["heun churn"]):
        with pytest.raises(ValueError, match="draws noise, so key must be a random key"):
            run(None, step=step)


def test_a_record_of_every_step():
    grid, x_T = jaxddim.timesteps(1000, 5), jax.random.normal(KEY, (4, 3))
    run = functools.partial(
        jaxddim.integrate, None, gaussian_denoiser(LINEAR), LINEAR, grid, x_T, step=plms()
    )

    def record(x, prediction, t):
        return {"norm": jnp.linalg.norm(x), "x0": prediction.x0[0], "t": t}

    x, records = run(record=record)
    last, path = run(keep=6)
    chex.assert_trees_all_close(x, last, atol=1e-6)
    np.testing.assert_array_equal(records["t"], grid[:-1])
    np.testing.assert_allclose(records["x0"], path.x0[:-1, 0], rtol=1e-6)
    norms = [np.linalg.norm(x) for x in path.x[:-1]]
    np.testing.assert_allclose(records["norm"], norms, rtol=1e-6)
    for bad in ({"record": record, "keep": 2}, {"record": lambda x: x}):
        with pytest.raises(ValueError, match="record must be a function"):
            run(**bad)
