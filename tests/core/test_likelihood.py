"""Likelihoods of Gaussian data against closed forms in float64; bins against SciPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import jaxddim
from jaxddim import likelihood

LINEAR, COSINE = jaxddim.linear(), jaxddim.cosine(100)
KEY = jax.random.key(0)
LARGE = functools.partial(jaxddim.ddpm_step, variance="large")
STEPS = {"small": jaxddim.ddpm_step, "large": LARGE}

# 8-bit data: a Gaussian rounded to the nearest value; the end values take the tails.
VALUES = np.arange(256) / 127.5 - 1
EDGES = scipy.stats.norm.cdf((VALUES[:-1] + 1 / 255 - 0.1) / 0.35)
MASS = np.diff(EDGES, prepend=0, append=1)
M = MASS @ VALUES
C = np.sqrt(MASS @ (VALUES - M) ** 2)
ENTROPY = -MASS @ np.log2(MASS)


def denoiser(schedule, m=M, c=C):
    """The best affine prediction of x_0, from a prior of precision 1 / c^2 and an observation."""

    def best_x0(x, index):
        alpha, sigma = schedule.scales(index + 1, x.ndim)
        return (m * sigma**2 + c**2 * alpha * x) / (sigma**2 + c**2 * alpha**2)

    return jaxddim.as_denoiser(schedule, best_x0, kind="x0", clip_x0=False)


def log_bin(mean, std):
    """log probability of each 8-bit value, [..., 256], float64; from the more precise tail."""
    edges = (VALUES[:-1] + 1 / 255 - mean) / std
    infinite = np.full((*edges.shape[:-1], 1), np.inf)
    low = np.concatenate([-infinite, edges], -1)
    high = np.concatenate([edges, infinite], -1)
    low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
    with np.errstate(divide="ignore"):
        a, b = scipy.special.log_ndtr(low), scipy.special.log_ndtr(high)
    return b + np.log(-np.expm1(a - b))


def closed_form(schedule, grid, variance):
    """The expected terms of the bound on this data, in bits; all from alpha_bar in float64."""
    log_snr = np.asarray(schedule.log_snr, np.float64)[grid]
    snr = np.exp(log_snr)
    ab = 1 / (1 + 1 / snr)
    with np.errstate(divide="ignore"):
        error = 1 / (1 / C**2 + snr)  # squared error of the best prediction
    prior = 0.5 * (ab[0] * (M**2 + C**2) - ab[0] - np.log1p(-ab[0]))
    t, s = slice(0, -2), slice(1, -1)
    gap = 1 - snr[t] / snr[s]
    small = (1 - ab[s]) * gap
    of_mean = ab[s] * gap**2 * error[t]
    p = small if variance == "small" else (1 - ab[t]) * gap
    steps = 0.5 * (small / p - 1 - np.log(small / p) + of_mean / p)

    std = np.sqrt((1 - ab[-2]) * (1 - snr[-3] / snr[-2]))
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    x_1 = np.sqrt(ab[-2]) * VALUES[:, None] + np.sqrt(1 - ab[-2]) * z  # [value, z]
    mean = (M * (1 - ab[-2]) + C**2 * np.sqrt(ab[-2]) * x_1) / (1 - ab[-2] + C**2 * ab[-2])
    log_p = np.stack([log_bin(row[:, None], std)[:, k] for k, row in enumerate(mean)])
    decoder = -MASS @ (log_p @ weight) / weight.sum()
    return prior / np.log(2), steps / np.log(2), decoder / np.log(2)


def images(shape):
    """8-bit data whose histogram matches MASS as closely as the number of values allows."""
    n = np.prod(shape)
    sorted_ = VALUES[np.searchsorted(EDGES, (np.arange(n) + 0.5) / n)]
    return jnp.asarray(np.random.default_rng(0).permutation(sorted_).reshape(shape), jnp.float32)


@functools.lru_cache
def bound_of_images(name, spacing, num_steps, variance, shape):
    """The code's bound for the best network, and the closed form."""
    schedule = {"linear": LINEAR, "cosine": COSINE}[name]
    grid = jaxddim.timesteps(schedule.num_steps, num_steps, spacing=spacing)
    run = jax.jit(
        lambda key, x0: likelihood.variational_bound(
            key, denoiser(schedule), schedule, grid, x0, step=STEPS[variance]
        )
    )
    return run(KEY, images(shape)), closed_form(schedule, np.asarray(grid), variance)


MANY, FEW = (64, 256, 256, 3), (16, 64, 64, 3)
TO_A_THOUSANDTH = [("linear", "linear", 10, variance, MANY) for variance in STEPS]
CASES = [
    *TO_A_THOUSANDTH,
    ("linear", "quadratic", 20, "large", FEW),
    ("cosine", "linear", 100, "small", FEW),
]


@pytest.mark.parametrize("case", CASES)
def test_every_term_of_the_bound_is_the_closed_form_on_gaussian_data(case):
    bound, (prior, steps, decoder) = bound_of_images(*case)
    n = np.prod(case[-1])
    np.testing.assert_allclose(bound.prior.mean(), prior, atol=1e-6)
    # the square of a normal variable of mean square L has standard deviation sqrt(2) L
    np.testing.assert_allclose(bound.steps.mean(1), steps, rtol=5 * np.sqrt(2 / n))
    np.testing.assert_allclose(bound.decoder.mean(), decoder, atol=5 * 1.2 / np.sqrt(n))


@pytest.mark.parametrize("case", TO_A_THOUSANDTH)
def test_the_bound_on_gaussian_data_is_the_analytic_one_to_a_thousandth_of_a_bit(case):
    bound, (prior, steps, decoder) = bound_of_images(*case)
    analytic = prior + steps.sum() + decoder
    assert abs(float(bound.total.mean()) - analytic) < 1e-3
    assert analytic > ENTROPY


@pytest.mark.parametrize("variance", STEPS)
def test_no_model_codes_the_data_in_fewer_bits_than_their_entropy(variance):
    """The best network cannot, and any other needs more."""
    grid, x0 = jnp.arange(100, -1, -1), images(FEW)

    @jax.jit
    def excess(m, c):
        denoise_fn = denoiser(COSINE, m, c)
        bound = likelihood.variational_bound(
            KEY, denoise_fn, COSINE, grid, x0, step=STEPS[variance]
        )
        return bound.total.mean() - ENTROPY

    best = excess(M, C)
    assert best > 0
    for m, c in [(0.0, C), (M, 0.5 * C), (M, 2 * C)]:
        assert excess(m, c) > best + 0.02
    if variance == "large":
        assert best < 0.15


def test_the_bound_of_ddim_with_eta_1_is_that_of_ddpm_and_without_a_variance_there_is_none():
    grid, x0 = jaxddim.timesteps(100, 10), images((2, 8, 8, 3))
    bound = lambda step: likelihood.variational_bound(  # noqa: E731
        KEY, denoiser(COSINE), COSINE, grid, x0, step=step
    )
    ddim = bound(functools.partial(jaxddim.ddim_step, eta=1.0))
    chex.assert_trees_all_close(ddim, bound(jaxddim.ddpm_step), atol=1e-4)
    with pytest.raises(ValueError, match="deterministic"):
        bound(jaxddim.ddim_step)


def test_pure_noise_at_t_T_costs_nothing():
    schedule = jaxddim.zero_terminal_snr(COSINE)
    bound = likelihood.variational_bound(
        KEY, denoiser(schedule), schedule, jnp.arange(100, -1, -1), images((2, 8, 8, 3))
    )
    assert np.all(bound.prior == 0)
    chex.assert_tree_all_finite(bound)


def test_the_bound_can_be_trained_on():
    """The gradient is finite, and 0 at the best scale c."""
    x0 = images((16, 64, 64, 3))

    def total(log_c):
        denoise_fn = denoiser(COSINE, M, jnp.exp(log_c))
        grid = jaxddim.timesteps(100, 10)
        return likelihood.variational_bound(KEY, denoise_fn, COSINE, grid, x0).total.mean()

    slope = jax.jit(jax.grad(total))
    assert slope(np.log(C / 2)) < -0.1 and slope(np.log(2 * C)) > 0.1
    assert abs(slope(np.log(C))) < 0.02


@pytest.mark.parametrize("std", [1e-3, 7e-3, 0.1, 1.0])
def test_bins_keep_their_digits_in_float32(std):
    """Against SciPy in float64; also where both cdfs round to 0 or to 1."""
    mean = np.linspace(-1.5, 1.5, 31)[:, None].astype(np.float32)
    got = likelihood.discretized_log_prob(
        jaxddim.Gaussian(jnp.asarray(mean), jnp.float32(std)), jnp.asarray(VALUES, jnp.float32)
    )
    expected = log_bin(mean.astype(np.float64), std)
    # an error of 6e-8 in x_0 and the mean is multiplied by distance / std^2 in the result
    sensitivity = (1 + abs(VALUES - mean)) / std**2
    assert np.all(abs(got - expected) < 2e-7 * sensitivity + 1e-5 * abs(expected) + 1e-5)
    np.testing.assert_allclose(np.exp(np.asarray(got, np.float64)).sum(1), 1, atol=2e-4)


def test_bins_far_out_have_finite_gradients():
    def total(mean, std):
        x0 = jnp.asarray(VALUES, jnp.float32)
        return jnp.sum(likelihood.discretized_log_prob(jaxddim.Gaussian(mean, std), x0))

    for mean, std in ((0.0, 1e-3), (2.0, 1e-2), (-1.0, 1e-3), (0.3, 10.0)):
        chex.assert_tree_all_finite(jax.grad(total, (0, 1))(jnp.full(256, mean), jnp.float32(std)))


def ode(schedule, num_steps, denoise_fn, x0, *, key=KEY, spacing="linear", **options):
    grid = jaxddim.timesteps(schedule.num_steps, num_steps, spacing=spacing)
    return jax.jit(
        lambda x0: likelihood.ode_log_likelihood(key, denoise_fn, schedule, grid, x0, **options)
    )(x0)


Z = np.random.default_rng(0).normal(size=(200, 12))


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize(
    "schedule",
    [LINEAR, COSINE, jaxddim.zero_terminal_snr(LINEAR)],
    ids=["linear", "cosine", "zero"],
)
def test_the_ode_likelihood_of_gaussian_data_is_exact_to_a_hundredth_of_a_nat(schedule, probe):
    m, c = 0.3, 0.5
    log_prob = ode(
        schedule, 50, denoiser(schedule, m, c), jnp.asarray(m + c * Z, jnp.float32), probe=probe
    )
    error = (np.asarray(log_prob) - scipy.stats.norm.logpdf(m + c * Z, m, c).sum(1)) / Z.shape[1]
    if probe == "rademacher":  # zero variance for a diagonal Jacobian
        assert abs(error).max() < 1e-2
    else:
        assert error.std() > 0.05
        assert abs(error.mean()) < 1e-2 + 4 * error.std() / np.sqrt(len(Z))


def test_the_ode_likelihood_is_of_second_order():
    """Narrow data, so that the method's error exceeds those of float32 and of a finite T."""
    schedule, c, steps = jaxddim.cosine(1000), 0.1, np.array([50, 100, 200])
    exact = scipy.stats.norm.logpdf(0.2, 0, c)
    errors = [
        abs(float(ode(schedule, n, denoiser(schedule, 0.0, c), jnp.full((1, 1), 0.2))[0]) - exact)
        for n in steps
    ]
    slope, _ = np.polyfit(np.log(steps), np.log(errors), 1)
    assert abs(slope + 2) < 0.2


CORNERS = np.array([[-0.6, 0.2], [0.5, 0.5], [0.1, -0.7]])
WIDTH = 0.2


def of_corners(x, t):
    """E[x_0 | x_t] for a mixture of three Gaussians in the plane."""
    alpha, sigma = COSINE.scales(t)
    variance = alpha**2 * WIDTH**2 + sigma**2
    away = x[:, None] - alpha * CORNERS
    responsible = jax.nn.softmax(-jnp.sum(away**2, -1) / (2 * variance), 1)[..., None]
    each = CORNERS + alpha * WIDTH**2 / variance * away
    return jaxddim.from_x0(COSINE, x, jnp.sum(responsible * each, 1), t)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_the_ode_likelihood_of_a_mixture_is_its_density_and_hutchinson_is_unbiased(probe):
    """Jacobians that are not diagonal: estimates vary, their mean is the log-density."""
    points = np.array([[-0.5, 0.1], [0.0, 0.0], [0.4, 0.8], [0.1, -0.9]])
    square = ((points[:, None] - CORNERS) ** 2).sum(-1)
    density = np.mean(np.exp(-square / (2 * WIDTH**2)), 1) / (2 * np.pi * WIDTH**2)
    n = 2000
    x0 = jnp.asarray(np.repeat(points, n, 0), jnp.float32)
    estimates = ode(COSINE, 100, of_corners, x0, probe=probe).reshape(4, n)
    mean, error = np.mean(estimates, 1), np.std(estimates, 1) / np.sqrt(n)
    assert np.all(np.std(estimates, 1) > 0.02)
    assert np.all(abs(mean - np.log(density)) < 5 * error + 2e-2)


def test_the_network_is_asked_neither_at_0_nor_at_T():
    def nowhere_else(x, t):
        pair = denoiser(COSINE, 0.0, 0.5)(x, t)
        broken = (t == 0) | (t == 100)
        return jax.tree.map(lambda a: jnp.where(broken, jnp.nan, a), pair)

    x0 = jnp.zeros((1, 1))
    log_prob = ode(COSINE, 50, nowhere_else, x0)
    np.testing.assert_allclose(log_prob, scipy.stats.norm.logpdf(0, 0, 0.5), atol=1e-2)


def test_an_eps_network_that_is_a_little_off_is_still_followed_through_to_T():
    """At T its error is divided by alpha_T = 5e-5; if included, it would dominate."""
    schedule = jaxddim.cosine(1000)
    best = denoiser(schedule, 0.0, 0.5)

    def off(x, t):
        return jaxddim.from_eps(schedule, x, best(x, t).eps + 1e-3 * jnp.sin(3 * x), t)

    x0 = jnp.linspace(-1, 1, 5)[:, None]
    exact = scipy.stats.norm.logpdf(np.linspace(-1, 1, 5), 0, 0.5)
    np.testing.assert_allclose(ode(schedule, 50, off, x0), exact, atol=0.05)


def test_bits_of_8_bit_images_along_the_ode_are_their_entropy():
    """Plus what a Gaussian loses on rounded data with clipped tails, which has a closed form."""
    x0 = images((64, 24, 24, 3))
    grid = jaxddim.timesteps(1000, 50, spacing="quadratic")
    run = lambda key: likelihood.ode_bits_per_dim(  # noqa: E731
        key, denoiser(LINEAR), LINEAR, grid, x0
    )
    bits = jax.jit(run)(KEY)
    chex.assert_shape(bits, (64,))
    variance = C**2 + (2 / 255) ** 2 / 12  # with the uniform noise
    nats = 0.5 * np.log(2 * np.pi * C**2) + variance / (2 * C**2)
    expected = nats / np.log(2) + np.log2(255 / 2)
    assert abs(float(bits.mean()) - expected) < 0.004
    assert ENTROPY < expected < ENTROPY + 0.03


FUNCTIONS = [likelihood.variational_bound, likelihood.ode_log_likelihood,
             likelihood.ode_bits_per_dim]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_value_of_an_image_does_not_depend_on_the_batch(function):
    grid, x0 = jaxddim.timesteps(100, 5), images((6, 4, 4, 3))
    network = lambda x, t: jaxddim.from_eps(COSINE, x, jnp.tanh(x @ jnp.ones((3, 3))), t)  # noqa: E731
    run = jax.jit(
        lambda key, x0, first: function(key, network, COSINE, grid, x0, first_index=first)
    )
    together = run(KEY, x0, 10)
    alone = run(KEY, x0[4:], 14)
    keys = jax.vmap(functools.partial(jax.random.fold_in, KEY))(10 + jnp.arange(6))
    for other, part in ((alone, slice(4, None)), (run(keys, x0, 0), slice(None))):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(other), strict=True):
            chex.assert_trees_all_close(a[..., part], b, rtol=1e-5)
    again = run(jax.random.key(1), x0, 10)
    assert np.any(jax.tree.leaves(again)[-1] != jax.tree.leaves(together)[-1])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_memory_does_not_grow_with_the_number_of_steps(function):
    x0 = jnp.zeros((4, 32, 32, 3))

    def temporary(num_steps):
        grid = jaxddim.timesteps(100, num_steps)
        run = jax.jit(lambda x0: function(KEY, denoiser(COSINE), COSINE, grid, x0))
        return run.lower(x0).compile().memory_analysis().temp_size_in_bytes

    assert temporary(100) < temporary(10) + x0.nbytes / 2


@pytest.mark.parametrize("function", FUNCTIONS)
def test_impossible_requests_are_errors(function):
    x0 = jnp.zeros((2, 3))
    run = functools.partial(function, KEY, denoiser(COSINE), COSINE)
    for grid in ([100, 0], 100, [[100, 50, 0]]):
        with pytest.raises(ValueError, match="S >= 2"):
            run(np.array(grid), x0)
    with pytest.raises(ValueError, match="end in 0"):
        run(np.array([100, 50, 1]), x0)
    if function is not likelihood.variational_bound:
        with pytest.raises(ValueError, match="rademacher, gaussian"):
            run(np.array([100, 50, 0]), x0, probe="sphere")
