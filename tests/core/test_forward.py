"""The forward process against Bayes' rule on the joint Gaussian of a path, in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxddim

BETAS = np.array([0.02, 0.1, 0.25, 0.4, 0.6, 0.8, 0.99])
SHORT = jaxddim.from_betas(BETAS)
AB = np.append(1, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))  # of linear(1000), float64
LINEAR = jaxddim.linear()


def joint(x0=1.0):
    """Mean and covariance of (x_1..x_T) given x_0, from the precision matrix of the chain.

    log q = -sum_t (x_t - sqrt(1 - beta_t) x_{t-1})^2 / (2 beta_t) is quadratic in the path.
    """
    n = len(BETAS)
    precision, shift = np.diag(1 / BETAS), np.zeros(n)
    for t in range(1, n):
        a = np.sqrt(1 - BETAS[t])
        precision[t - 1, t - 1] += a * a / BETAS[t]
        precision[t, t - 1] = precision[t - 1, t] = -a / BETAS[t]
    shift[0] = np.sqrt(1 - BETAS[0]) / BETAS[0] * x0
    covariance = np.linalg.inv(precision)
    return covariance @ shift, covariance


def coefficients(step):
    """(k_0, k_t) of an affine ``step(x0, x_t) -> mean`` that has no constant term."""
    zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    assert np.all(step(zero, zero) == 0)
    return float(step(one, zero)[0, 0]), float(step(zero, one)[0, 0])


def test_q_sample_is_the_marginal_of_the_chain():
    mean, covariance = joint(x0=2.0)
    t = np.arange(1, len(BETAS) + 1)
    ones = jnp.ones((len(t), 1))
    np.testing.assert_allclose(
        jaxddim.q_sample(SHORT, 2 * ones, t, 0 * ones)[:, 0], mean, rtol=1e-6
    )
    scale = jaxddim.q_sample(SHORT, 0 * ones, t, ones)[:, 0]
    np.testing.assert_allclose(scale**2, np.diag(covariance), rtol=1e-6)


def test_q_step_has_the_variance_and_scale_of_its_beta():
    for t, beta in enumerate(BETAS, 1):
        of_x, of_eps = coefficients(lambda x, eps, t=t: jaxddim.q_step(SHORT, x, t, eps))
        np.testing.assert_allclose([of_x**2, of_eps**2], [1 - beta, beta], rtol=2e-6)
    t = np.arange(1, 1001)
    x = jnp.ones((1000, 1))
    np.testing.assert_allclose(
        jaxddim.q_step(LINEAR, 0 * x, t, x)[:, 0] ** 2, np.linspace(1e-4, 0.02, 1000), rtol=2e-4
    )


def test_q_step_works_with_traced_times_and_rejects_0():
    x = jnp.ones((3, 2))
    step = lambda t: jaxddim.q_step(SHORT, x, t, x)  # noqa: E731
    chex.assert_trees_all_close(jax.jit(step)(4), step(4), rtol=1e-6)
    chex.assert_trees_all_close(step(jnp.array([4, 1, 7]))[2], step(7)[2], rtol=1e-6)
    assert np.all(np.isnan(jax.jit(step)(0)))
    for t in (0, 8, np.int32(0), np.array([1, 0, 1])):
        with pytest.raises(ValueError, match=r"0\.\.7"):
            step(t)


def test_posterior_is_bayes_rule_on_the_joint_for_every_pair_of_times():
    _, covariance = joint()
    mean, _ = joint(x0=1.0)  # linear in x_0, so this is its coefficient
    for t in range(2, len(BETAS) + 1):
        for s in range(1, t):
            of_x_t = covariance[s - 1, t - 1] / covariance[t - 1, t - 1]
            of_x0 = mean[s - 1] - of_x_t * mean[t - 1]
            variance = covariance[s - 1, s - 1] - of_x_t * covariance[s - 1, t - 1]

            def step(x0, x_t, t=t, s=s):
                return jaxddim.q_posterior(SHORT, x0, x_t, t, s).mean

            np.testing.assert_allclose(coefficients(step), [of_x0, of_x_t], atol=1e-6)
            one = jnp.ones((1, 1))
            std = float(jaxddim.q_posterior(SHORT, one, one, t, s).std)
            np.testing.assert_allclose(std**2, variance, atol=1e-6, rtol=1e-6)


def test_posterior_of_neighbours_is_the_ddpm_papers_from_betas():
    t = np.arange(1, 1001)
    beta, ab, ab_prev = np.linspace(1e-4, 0.02, 1000), AB[1:], AB[:-1]
    of_x0 = np.sqrt(ab_prev) * beta / (1 - ab)
    of_x_t = np.sqrt(1 - beta) * (1 - ab_prev) / (1 - ab)
    variance = (1 - ab_prev) / (1 - ab) * beta
    one = jnp.ones((1000, 1))
    got = jaxddim.q_posterior(LINEAR, one, 0 * one, t, t - 1)
    chex.assert_shape(got.std, (1000, 1))
    np.testing.assert_allclose(got.mean[:, 0], of_x0, atol=1e-6)
    np.testing.assert_allclose(got.std[:, 0] ** 2, variance, atol=1e-6, rtol=1e-4)
    got = jaxddim.q_posterior(LINEAR, 0 * one, one, t, t - 1)
    np.testing.assert_allclose(got.mean[:, 0], of_x_t, atol=1e-6)


@given(eta=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_lemma_1_the_marginal_does_not_depend_on_eta(eta, seed):
    """x_t ~ q(x_t | x_0), then x_s ~ q_sigma(x_s | x_t, x_0), has the marginal q(x_s | x_0)."""
    pairs = np.random.default_rng(seed).integers(0, 1001, (500, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = np.concatenate([pairs, np.ones((500 - len(pairs), 2), int) * [0, 1000]])
    s, t = np.sort(pairs, axis=1).T
    one = jnp.ones((500, 1))
    of_x0, std = jaxddim.q_posterior(LINEAR, one, 0 * one, t, s, eta=eta)
    of_x_t, _ = jaxddim.q_posterior(LINEAR, 0 * one, one, t, s, eta=eta)
    of_x0, of_x_t = (np.asarray(k, np.float64)[:, 0] for k in (of_x0, of_x_t))
    std = np.broadcast_to(np.asarray(std, np.float64), (500, 1))[:, 0]
    np.testing.assert_allclose(of_x0 + of_x_t * np.sqrt(AB[t]), np.sqrt(AB[s]), atol=1e-6)
    np.testing.assert_allclose(of_x_t**2 * (1 - AB[t]) + std**2, 1 - AB[s], atol=1e-6)
    song = eta * np.sqrt((1 - AB[s]) / (1 - AB[t])) * np.sqrt(1 - AB[t] / AB[s])  # DDIM, eq. 16
    np.testing.assert_allclose(std, song, atol=5e-6)


def test_posterior_at_time_0_is_the_image_and_at_eta_0_draws_nothing():
    x0, x_t = jnp.full((2, 3), 0.3), jnp.ones((2, 3))
    for t in (1, 3, 7):
        mean, std = jaxddim.q_posterior(SHORT, x0, x_t, t, 0)
        chex.assert_trees_all_equal(mean, x0)
        assert std == 0
    assert jaxddim.q_posterior(SHORT, x0, x_t, 7, 3, eta=0.0).std == 0


@pytest.mark.parametrize("eta", [1.0004, -0.1, 2, float("nan")])
def test_eta_outside_0_to_1_is_an_error(eta):
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="eta"):
        jaxddim.q_posterior(SHORT, x, x, 7, 3, eta=eta)


def test_times_per_example_equal_one_call_an_example():
    x0, x_t, eps = jax.random.normal(jax.random.key(0), (3, 4, 2, 2, 3))
    t, s = jnp.array([7, 5, 2, 1]), jnp.array([3, 4, 0, 0])
    every = (
        jaxddim.q_sample(SHORT, x0, t, eps),
        jaxddim.q_step(SHORT, x0, t, eps),
        jaxddim.q_posterior(SHORT, x0, x_t, t, s, eta=0.7).mean,
        jaxddim.q_posterior(SHORT, x0, x_t, t, s, eta=0.7).std,
    )
    chex.assert_shape(every, [(4, 2, 2, 3)] * 3 + [(4, 1, 1, 1)])
    for i in range(4):
        a, b, e, ti, si = x0[i : i + 1], x_t[i : i + 1], eps[i : i + 1], int(t[i]), int(s[i])
        one = (
            jaxddim.q_sample(SHORT, a, ti, e)[0],
            jaxddim.q_step(SHORT, a, ti, e)[0],
            jaxddim.q_posterior(SHORT, a, b, ti, si, eta=0.7).mean[0],
            jaxddim.q_posterior(SHORT, a, b, ti, si, eta=0.7).std.reshape(1, 1, 1),
        )
        chex.assert_trees_all_close(tuple(a[i] for a in every), one, atol=1e-6)
    batched = jax.vmap(lambda x, t, e: jaxddim.q_sample(SHORT, x[None], t, e[None])[0])
    chex.assert_trees_all_close(batched(x0, t, eps), every[0], atol=1e-6)


# -- the forward process of DDIM ---------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("s", "t"), [(1, 2), (1, 7), (3, 4), (2, 6), (5, 5)])
def test_the_forward_process_and_the_posterior_have_one_joint_law(s, t, eta):
    """(x_s, x_t) given x_0, from either end: each is affine in the other, with noise."""
    ab = np.append(1, np.cumprod(1 - BETAS))
    zero = jnp.zeros((1, 1))
    (f0, fs), (p0, pt) = (
        coefficients(lambda x0, x_s: jaxddim.q_forward(SHORT, x0, x_s, s, t, eta=eta).mean),
        coefficients(lambda x0, x_t: jaxddim.q_posterior(SHORT, x0, x_t, t, s, eta=eta).mean),
    )
    up = float(jaxddim.q_forward(SHORT, zero, zero, s, t, eta=eta).std)
    down = float(jaxddim.q_posterior(SHORT, zero, zero, t, s, eta=eta).std)
    (a_s, v_s), (a_t, v_t) = ((np.sqrt(ab[i]), 1 - ab[i]) for i in (s, t))
    np.testing.assert_allclose([f0 + fs * a_s, p0 + pt * a_t], [a_t, a_s], atol=1e-6)  # means
    np.testing.assert_allclose([fs**2 * v_s + up**2, pt**2 * v_t + down**2], [v_t, v_s], rtol=2e-6)
    np.testing.assert_allclose(fs * v_s, pt * v_t, rtol=2e-6)  # covariance


@pytest.mark.parametrize("t", [1, 2, 5, 7])
def test_with_eta_1_the_forward_process_is_the_markov_chain(t):
    x0, x_prev, eps = jax.random.normal(jax.random.key(0), (3, 4, 3))
    x_prev = x0 if t == 1 else x_prev
    mean, std = jaxddim.q_forward(SHORT, x0, x_prev, t - 1, t, eta=1.0)
    expected = jaxddim.q_step(SHORT, x_prev, t, eps)
    chex.assert_trees_all_close(mean + std * eps, expected, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_from_clean_images_the_forward_process_is_the_marginal(eta):
    x0, eps = jax.random.normal(jax.random.key(0), (2, 4, 3))
    mean, std = jaxddim.q_forward(SHORT, x0, x0, 0, 5, eta=eta)
    chex.assert_trees_all_close(mean + std * eps, jaxddim.q_sample(SHORT, x0, 5, eps), atol=1e-6)


def test_gradients_at_the_clean_end_are_finite():
    def total(x):
        mean, std = jaxddim.q_posterior(SHORT, x, 2 * x, jnp.array([7, 1]), jnp.array([3, 0]))
        return jnp.sum(mean) + jnp.sum(jaxddim.q_sample(SHORT, x, 0, x)) + jnp.sum(std)

    def of_schedule(log_snr):
        schedule, one = jaxddim.Schedule(log_snr), jnp.ones((2, 1))
        t, s = jnp.array([7, 7]), jnp.array([3, 0])
        mean, std = jaxddim.q_posterior(schedule, one, one, t, s)
        return jnp.sum(mean) + jnp.sum(std) + jnp.sum(jaxddim.q_sample(schedule, one, s, one))

    chex.assert_tree_all_finite(jax.jit(jax.grad(total))(jnp.ones((2, 3))))
    chex.assert_tree_all_finite(jax.jit(jax.grad(of_schedule))(SHORT.log_snr))
