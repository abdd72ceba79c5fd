"""The multinomial process against enumeration and Bayes' rule; the documentation's example."""

import itertools
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxddim
from jaxddim import discrete

LINEAR = jaxddim.linear()
AB = np.append(1, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))  # of linear(1000), float64
SHORT = jaxddim.from_betas([0.1, 0.3, 0.5, 0.8, 1.0])
AB_SHORT = np.append(1, np.cumprod(1 - np.array([0.1, 0.3, 0.5, 0.8, 1.0])))
KEY = jax.random.key(0)
ETAS = [0.0, 0.3, 1.0]


def marginal(ab, K):
    """q(x_t | x_0) in float64, [x_0, x_t]."""
    return ab * np.eye(K) + (1 - ab) / K


def table(schedule, K, t, s, eta):
    """q_sigma(x_s | x_t, x_0) for all values, [x_0, x_t, x_s] in float64."""
    x0, x_t = (jnp.eye(K)[index] for index in np.indices((K, K)))
    return np.asarray(discrete.q_posterior(schedule, x0, x_t, t, s, eta=eta), np.float64)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("schedule", [LINEAR, jaxddim.cosine(1000)], ids=["linear", "cosine"])
@pytest.mark.parametrize("dtype, atol", [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_the_marginal_after_each_of_1000_steps_is_the_closed_form(schedule, dtype, atol, eta):
    """Exact probability vectors from q(x_T | x_0) through every q_sigma(x_s | x_t, x_0).

    In float64 the algebra is exact; in float32 rounding adds up over a thousand steps.
    """
    K, times, log_snr = 5, np.arange(1, 1001), np.asarray(schedule.log_snr, np.float64)
    ab = 1 / (1 + np.exp(-log_snr))
    with jax.enable_x64(dtype is np.float64):
        schedule = jaxddim.Schedule(jnp.asarray(log_snr, dtype))
        hot = [jnp.eye(K, dtype=dtype)[index][None].repeat(1000, 0) for index in np.indices((K, K))]
        rows = discrete.q_posterior(schedule, *hot, times, times - 1, eta=eta)
        assert rows.dtype == dtype
    rows = np.asarray(rows, np.float64)
    p = marginal(ab[1000], K)
    for t in times[::-1]:
        p = np.einsum("at,ats->as", p, rows[t - 1])
        np.testing.assert_allclose(p, marginal(ab[t - 1], K), atol=atol)


@given(eta=st.floats(0, 1), K=st.integers(2, 7), seed=st.integers(0, 2**32 - 1))
def test_any_number_of_jumps_keeps_the_marginal_and_the_weights_are_probabilities(eta, K, seed):
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 12)
    grid = np.append(np.sort(rng.choice(np.arange(1, 1001), count, replace=False))[::-1], 0)
    p = marginal(AB[grid[0]], K)
    for t, s in itertools.pairwise(grid):
        w = discrete.mixture(LINEAR, t, s, eta=eta)
        assert all(weight >= 0 for weight in w)
        np.testing.assert_allclose(sum(w), 1, atol=3e-7)
        p = np.einsum("at,ats->as", p, table(LINEAR, K, t, s, eta))
        np.testing.assert_allclose(p, marginal(AB[s], K), atol=1e-6)


def test_two_pixels_of_two_values_by_enumeration():
    """The joint q(x_1..x_T | x_0) for D = 2, K = 2, built backwards over all 4^T paths."""
    states = list(itertools.product(range(2), repeat=2))
    T = SHORT.num_steps
    for eta in ETAS:
        for x0 in states:
            joint = {}
            prior = marginal(AB_SHORT[T], 2)[list(x0)]
            tables = [None, *(table(SHORT, 2, t, t - 1, eta) for t in range(1, T + 1))]
            for path in itertools.product(states, repeat=T):  # x_1, .., x_T
                p = np.prod([prior[d][path[-1][d]] for d in range(2)])
                for t in range(T, 1, -1):
                    for d in range(2):
                        p *= tables[t][x0[d], path[t - 1][d], path[t - 2][d]]
                joint[path] = p
            np.testing.assert_allclose(sum(joint.values()), 1, atol=1e-6)
            for t in range(1, T + 1):
                hot = jnp.asarray(np.eye(2)[list(x0)][None], jnp.float32)
                one = np.asarray(discrete.q_marginal(SHORT, hot, t), np.float64)[0]
                for x in states:
                    mass = sum(p for path, p in joint.items() if path[t - 1] == x)
                    np.testing.assert_allclose(mass, one[0, x[0]] * one[1, x[1]], atol=1e-6)


@pytest.mark.parametrize("t, s", [(4, 2), (5, 4), (3, 1)])
def test_eta_1_weighs_x_t_as_the_markov_chain_does_and_no_sigma_is_the_chain(t, s):
    """The chain's posterior by Bayes' rule: q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)."""
    K, keep = 4, AB_SHORT[t] / AB_SHORT[s]
    forward = marginal(keep, K)
    of_s, of_t = (marginal(AB_SHORT[time], K) for time in (s, t))
    chain = of_s[:, None, :] * forward[None] / of_t[:, :, None]  # [x_0, x_t, x_s]
    np.testing.assert_allclose(chain.sum(-1), 1)
    noise = chain[0, 1, 2]  # of a value that is neither x_0 nor x_t
    sigma, of_x0 = chain[0, 1, 1] - noise, chain[0, 1, 0] - noise
    np.testing.assert_allclose(discrete.mixture(SHORT, t, s, eta=1.0).x_t, sigma, atol=1e-6)
    if keep > 0:  # for x_t = x_0 the same weights would give another result
        assert abs(chain[0, 0, 0] - (sigma + of_x0 + noise)) > 1e-2


@pytest.mark.parametrize("t, s", [(4, 2), (5, 4), (3, 1), (2, 0)])
def test_eta_0_is_the_largest_sigma_and_eta_draws_anew_in_proportion(t, s):
    ab_t, ab_s = AB_SHORT[t], AB_SHORT[s]
    sigma, of_x0, uniform = discrete.mixture(SHORT, t, s, eta=0.0)
    np.testing.assert_allclose([sigma, of_x0], [(1 - ab_s) / (1 - ab_t), 1 - sigma], atol=1e-6)
    assert uniform == 0
    drawn = discrete.mixture(SHORT, t, s, eta=0.6)
    np.testing.assert_allclose(drawn.uniform, 0.6 * (1 - ab_s) * (1 - ab_t / ab_s), atol=1e-6)
    assert s == 0 or drawn.x_t < sigma


def test_q_sample_keeps_values_as_often_as_alpha_bar_says():
    n = 25_000
    x0, t = jnp.arange(4)[:, None].repeat(n, 1), np.array([0, 1, 3, 5])
    x_t = np.asarray(discrete.q_sample(KEY, SHORT, x0, t, num_classes=4))
    for row in range(4):
        expected = marginal(AB_SHORT[t[row]], 4)[row]
        share = np.bincount(x_t[row], minlength=4) / n
        assert np.all(abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / n))


# Two correlated binary pixels, and the best network: Bayes' rule over the four images.
DATA = jnp.array([[0.5, 0.05], [0.1, 0.35]])
STATES = np.array(list(itertools.product(range(2), repeat=2)))


def best_logits(x_t, t):
    """log q(x_0[d] | x_t) for each pixel d, [b, 2, 2]."""
    ab = SHORT.alpha_bar[t]
    noise = ab * jnp.eye(2) + (1 - ab) / 2
    joint = DATA * noise[x_t[:, 0]][:, :, None] * noise[x_t[:, 1]][:, None]
    return jnp.log(jnp.stack([joint.sum(2), joint.sum(1)], 1))


def model_distribution(grid, eta):
    """Exact p(x_0) of the four images, over every path of the grid; float64."""
    p = np.full(4, 1 / 4)
    for t, s in itertools.pairwise(grid):
        log_p = discrete.step(SHORT, STATES, best_logits(STATES, t), t, s, eta=eta)
        pixel = np.exp(np.asarray(log_p, np.float64))  # [x_t, d, x_s[d]]
        p = p @ (pixel[:, 0, STATES[:, 0]] * pixel[:, 1, STATES[:, 1]])
    return p


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("grid", [[5, 4, 3, 2, 1, 0], [5, 2, 0], [5, 0]])
def test_samples_are_distributed_as_all_paths_together_say(grid, eta):
    n = 40_000
    sample = jax.jit(
        lambda key: discrete.sample(
            key, best_logits, SHORT, np.array(grid), (n, 2), num_classes=2, eta=eta
        )
    )
    x = sample(KEY)
    chex.assert_type(x, jnp.int32)
    expected = model_distribution(grid, eta)
    np.testing.assert_allclose(expected.sum(), 1, atol=1e-6)
    share = np.bincount(np.asarray(x) @ [2, 1], minlength=4) / n
    assert np.all(abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n))


def test_one_step_draws_the_pixels_apart_and_more_steps_bring_them_together():
    data = np.asarray(DATA, np.float64)
    apart = np.outer(data.sum(1), data.sum(0)).ravel()
    np.testing.assert_allclose(model_distribution([5, 0], 0.0), apart, atol=1e-6)
    distance = [
        abs(model_distribution(grid, 0.0) - data.ravel()).sum() / 2
        for grid in ([5, 0], [5, 3, 0], [5, 4, 3, 2, 1, 0])
    ]
    assert distance[0] > 1.1 * distance[1] > 1.1**2 * distance[2]


@pytest.mark.parametrize("eta", ETAS)
def test_for_one_pixel_the_best_network_gives_the_data_back_exactly(eta):
    """p(x_s | x_t) is then the mean of q_sigma(x_s | x_t, x_0) over q(x_0 | x_t), on any grid."""
    data = np.array([0.6, 0.3, 0.1])
    for grid in ([5, 4, 3, 2, 1, 0], [5, 3, 0]):
        p = np.full(3, 1 / 3)
        for t, s in itertools.pairwise(grid):
            noise = marginal(AB_SHORT[t], 3)  # [x_t, x_0]
            logits = jnp.log(jnp.asarray(data * noise, jnp.float32))
            log_p = discrete.step(SHORT, jnp.arange(3), logits, t, s, eta=eta)
            p = p @ np.exp(np.asarray(log_p, np.float64))
        np.testing.assert_allclose(p, data, atol=1e-6)


@pytest.mark.parametrize("eta", ETAS)
def test_the_loss_over_all_steps_bounds_the_code_length(eta):
    """L_T is 0 here; the other terms, in expectation over x_t, against the exact -log p(x_0)."""
    grid = [5, 3, 2, 1, 0]
    bound = np.zeros(4)
    for t, s in itertools.pairwise(grid):
        noise = marginal(AB_SHORT[t], 2)
        for i, x0 in enumerate(STATES):
            x0 = np.tile(x0, (4, 1))
            q = noise[x0[:, 0], STATES[:, 0]] * noise[x0[:, 1], STATES[:, 1]]
            loss = discrete.kl_loss(SHORT, best_logits(STATES, t), x0, STATES, t, s, eta=eta)
            chex.assert_shape(loss, (4,))
            assert np.all(loss >= -1e-6)
            bound[i] += 2 * q @ np.asarray(loss, np.float64)  # the loss is a mean over two pixels
    data = np.asarray(DATA, np.float64).ravel()
    assert np.all(bound >= -np.log(model_distribution(grid, eta)) - 1e-5)
    assert data @ bound >= -data @ np.log(data) - 1e-5


@pytest.mark.parametrize("eta", ETAS)
def test_the_loss_is_least_where_the_network_knows_the_posterior(eta):
    data, t, s = np.array([0.6, 0.3, 0.1]), 3, 2
    noise = marginal(AB_SHORT[t], 3)
    joint = jnp.asarray((data * noise).ravel(), jnp.float32)  # [x_t, x_0]
    x_t, x0 = np.divmod(np.arange(9), 3)

    def expected_loss(logits):
        return joint @ discrete.kl_loss(SHORT, logits[x_t], x0, x_t, t, s, eta=eta)

    best = jnp.log(joint.reshape(3, 3))
    chex.assert_trees_all_close(jax.grad(expected_loss)(best), jnp.zeros((3, 3)), atol=1e-6)
    for i in range(3):
        assert expected_loss(best.at[i, i].add(0.3)) > expected_loss(best) + 1e-4


def test_the_loss_at_s_0_is_the_reconstruction_term():
    logits = jax.random.normal(KEY, (3, 4, 5))
    x0, x_t = jnp.ones((3, 4), int), jnp.array([[0, 1, 2, 3]] * 3)
    expected = -jax.nn.log_softmax(logits)[:, :, 1].mean(1)
    for eta in ETAS:
        loss = discrete.kl_loss(LINEAR, logits, x0, x_t, 1, 0, eta=eta)
        chex.assert_trees_all_close(loss, expected, rtol=1e-5)


def test_a_network_that_is_sure_has_a_finite_loss_and_gradient():
    """exp(-200) is 0 in float32, but its logarithm is finite."""
    x0, x_t = jnp.array([[0, 1]]), jnp.array([[0, 2]])
    logits = jnp.array([[[0.0, 200.0, 0.0], [0.0, -200.0, 0.0]]])
    for eta in ETAS:
        for t, s in ((5, 4), (2, 1), (1, 0)):
            loss = lambda logits: discrete.kl_loss(SHORT, logits, x0, x_t, t, s, eta=eta)[0]  # noqa: B023, E731
            value, grad = jax.value_and_grad(loss)(logits)
            assert np.isfinite(value) and value > 0.01
            chex.assert_tree_all_finite(grad)
    sure = lambda logits: discrete.kl_loss(SHORT, logits, x0, x0, 1, 0)[0]  # noqa: E731
    np.testing.assert_allclose(sure(logits), (200 + 200 + np.log(2)) / 2, rtol=1e-6)


def test_example_i_does_not_depend_on_the_batch_and_times_may_differ():
    grid = np.array([5, 3, 1, 0])
    draw = lambda n, first: discrete.sample(  # noqa: E731
        KEY, best_logits, SHORT, grid, (n, 2), num_classes=2, eta=0.5, first_index=first
    )
    all_ = draw(64, 0)
    chex.assert_trees_all_equal(all_[40:47], draw(7, 40))
    assert len(np.unique(np.asarray(all_), axis=0)) > 2

    logits = jax.random.normal(KEY, (3, 2, 4))
    x0, x_t = jnp.array([[0, 1], [2, 3], [1, 1]]), jnp.array([[3, 1], [0, 3], [1, 2]])
    t, s = jnp.array([5, 3, 1]), jnp.array([2, 1, 0])
    together = jax.jit(lambda t, s: discrete.kl_loss(SHORT, logits, x0, x_t, t, s, eta=0.3))(t, s)
    for i in range(3):
        one = slice(i, i + 1)
        alone = discrete.kl_loss(
            SHORT, logits[one], x0[one], x_t[one], int(t[i]), int(s[i]), eta=0.3
        )
        chex.assert_trees_all_close(together[one], alone, rtol=1e-5)


def test_networks_are_asked_with_the_index_t_minus_1():
    denoise_fn = discrete.as_denoiser(lambda x, index: jnp.stack([x + index[:, None]] * 2, -1))
    asked = denoise_fn(jnp.zeros((3, 2), int), jnp.int32(7))
    chex.assert_trees_all_equal(asked, jnp.full((3, 2, 2), 6))
    chex.assert_trees_all_equal(denoise_fn(jnp.zeros((3, 2), int), jnp.int32(0)), 0 * asked)


def test_impossible_requests_are_errors():
    x, hot, logits = jnp.zeros((2, 3), int), jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4))
    for eta in (1.0004, -0.1, float("nan")):
        with pytest.raises(ValueError, match="eta"):
            discrete.step(SHORT, x, logits, 3, 2, eta=eta)
    with pytest.raises(ValueError, match=r"0\.\.5"):
        discrete.step(SHORT, x, logits, 6, 2)
    with pytest.raises(ValueError, match="one_hot"):
        discrete.q_posterior(SHORT, x, x, 3, 2)
    with pytest.raises(ValueError, match="one shape"):
        discrete.q_posterior(SHORT, hot[:1], hot, 3, 2)
    with pytest.raises(ValueError, match="axis of K"):
        discrete.step(SHORT, x[:, :2], logits, 3, 2)
    with pytest.raises(ValueError, match="one shape"):
        discrete.kl_loss(SHORT, logits, x[:1], x, 3, 2)
    with pytest.raises(ValueError, match=r"\(2, 3, 5\)"):
        discrete.sample(KEY, lambda x, t: logits, SHORT, np.array([5, 0]), (2, 3), num_classes=5)


def test_the_example_of_the_documentation_learns_its_words():
    """Letters drawn independently, each from its true distribution, would seldom form a word."""
    text = (Path(__file__).parents[2] / "docs" / "theory" / "discrete.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict = {}
    exec(code, names)
    words, share = names["words"], np.asarray(names["share"], np.float64)
    written = np.array([names["written"].count(word) for word in words]) / len(names["written"])
    letters = [{} for _ in words[0]]
    for word, p in zip(words, share, strict=True):
        for place, letter in zip(letters, word, strict=True):
            place[letter] = place.get(letter, 0) + p
    chance = sum(np.prod([p[c] for p, c in zip(letters, word, strict=True)]) for word in words)
    assert chance < 0.1
    assert written.sum() > 0.9
    assert abs(written - share).sum() / 2 < 0.1
