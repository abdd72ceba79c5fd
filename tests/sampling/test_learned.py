"""A learned variance: its ends, the bound with it, and what the hybrid loss trains."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import jaxddim
import jaxddim.models
from jaxddim import checks, likelihood
from jaxddim.sampling.noise import draw
from jaxddim.types import Gaussian

SCHEDULE, KEY = jaxddim.cosine(50), jax.random.key(0)
SHAPE = (4, 3, 3, 2)
X0 = jnp.asarray(np.random.default_rng(0).integers(0, 256, SHAPE) / 127.5 - 1, jnp.float32)
EPS = jax.random.normal(KEY, SHAPE)


def network(v, scale=0.3):
    """eps in the first half of the channels, v everywhere in the second."""
    return lambda x, index: jnp.concatenate([scale * x, jnp.full_like(x, v)], -1)


def denoiser(v, **options):
    return jaxddim.as_denoiser(SCHEDULE, network(v), learned_variance=True, **options)


@pytest.mark.parametrize("times", [(50, 40), (7, 6), (np.array([9, 5, 2, 1]), np.zeros(4, int))])
@pytest.mark.parametrize(("v", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_at_its_ends_the_variance_is_that_of_ddpm(v, variance, times):
    t, s = times
    pair = denoiser(v)(X0, t)
    found = jaxddim.learned_step(SCHEDULE, X0, pair, t, s)
    expected = jaxddim.ddpm_step(SCHEDULE, X0, pair, t, s, variance=variance)
    chex.assert_trees_all_close(found.mean, expected.mean)
    chex.assert_trees_all_close(
        found.std, jnp.broadcast_to(expected.std, SHAPE), rtol=1e-5, atol=1e-7
    )


def test_in_between_it_is_the_geometric_mean():
    t, s, v = 30, 25, 0.4
    stds = [
        jaxddim.ddpm_step(SCHEDULE, X0, denoiser(0.0)(X0, t), t, s, variance=variance).std
        for variance in ("small", "large")
    ]
    found = jaxddim.learned_step(SCHEDULE, X0, denoiser(v)(X0, t), t, s).std
    fraction = (v + 1) / 2
    np.testing.assert_allclose(found, stds[0] ** (1 - fraction) * stds[1] ** fraction, rtol=1e-5)


def test_a_sampler_with_the_least_variance_is_ddpms():
    grid = jaxddim.timesteps(50, 10)
    plain = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0.3 * x)
    found = jaxddim.sample(KEY, denoiser(-1.0), SCHEDULE, grid, SHAPE, step=jaxddim.learned_step)
    expected = jaxddim.sample(KEY, plain, SCHEDULE, grid, SHAPE, step=jaxddim.ddpm_step)
    chex.assert_trees_all_close(found, expected, atol=1e-5)
    for step in (jaxddim.heun(), jaxddim.dpm_solver_pp_2m(), jaxddim.ddim_step):
        pair = [
            jaxddim.sample(KEY, fn, SCHEDULE, grid, SHAPE, step=step)
            for fn in (denoiser(0.7), plain)
        ]
        chex.assert_trees_all_close(*pair, atol=1e-6)  # which need no variance


def test_the_bound_has_the_networks_variance():
    grid = jaxddim.timesteps(50, 50)
    bound = functools.partial(likelihood.variational_bound, KEY)
    options = {"clip_x0": False}
    large = bound(
        denoiser(1.0, **options), SCHEDULE, grid, X0,
        step=functools.partial(jaxddim.ddpm_step, variance="large"),
    )  # fmt: skip
    found = bound(denoiser(1.0, **options), SCHEDULE, grid, X0, step=jaxddim.learned_step)
    chex.assert_trees_all_close(found.steps, large.steps, rtol=1e-4)
    other = bound(denoiser(0.0, **options), SCHEDULE, grid, X0, step=jaxddim.learned_step)
    assert jnp.abs(other.steps - large.steps).max() > 0.01


def test_the_terms_of_the_bound_are_those_of_the_hybrid_loss():
    """At each time with the bound's own noise, t = 1 and its code length among them."""
    t = np.arange(1, 51)
    x0 = jnp.broadcast_to(X0[:1], (50, *SHAPE[1:]))
    noise = lambda x, index: jnp.concatenate([0.3 * x, jnp.sin(5 * x)], -1)  # noqa: E731
    fn = jaxddim.as_denoiser(SCHEDULE, noise, learned_variance=True, clip_x0=False)
    grid = jaxddim.timesteps(50, 50)
    bound = likelihood.variational_bound(KEY, fn, SCHEDULE, grid, X0[:1], step=jaxddim.learned_step)
    alpha, sigma = SCHEDULE.scales(t, 4)
    keys = checks.example_keys(KEY, 1)
    laws = (Gaussian(a * X0[:1], s) for a, s in zip(alpha, sigma, strict=True))
    x_t = jnp.concatenate([draw(keys, law, at) for law, at in zip(laws, t, strict=True)])
    eps, output = (x_t - alpha * x0) / sigma, noise(x_t, t)
    with_vlb, without = (
        jaxddim.hybrid_loss(SCHEDULE, output, x0, t, eps, vlb=vlb) for vlb in (1.0, 0.0)
    )
    found = np.append(bound.steps[:, 0], bound.decoder)[::-1]
    np.testing.assert_allclose(found, (with_vlb - without) / 50, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("clip_x0", [True, False])
@pytest.mark.parametrize("t", [20, np.array([50, 9, 0, 2])])
def test_guidance_keeps_the_conditional_variance(t, clip_x0):
    def labelled(x, index, label):
        label = jnp.reshape(label, (-1, 1, 1, 1))
        return jnp.concatenate([(0.3 + label) * x, jnp.full_like(x, 0.1) * label], -1)

    options = {"learned_variance": True, "clip_x0": clip_x0}
    given = {"null": 2, "scale": 3.0, "interval": (5, 40)}
    fn = jaxddim.as_guided_denoiser(SCHEDULE, labelled, 1, **given, **options)
    pair = fn(X0, t)
    np.testing.assert_allclose(pair.fraction, jnp.full(SHAPE, 0.55), rtol=1e-6)

    def means(x, index, label):
        return labelled(x, index, label)[..., : SHAPE[-1]]

    plain = jaxddim.as_guided_denoiser(SCHEDULE, means, 1, **given, clip_x0=clip_x0)
    chex.assert_trees_all_equal(pair[:2], tuple(plain(X0, t)))


# -- the hybrid loss ---------------------------------------------------------------------


def hybrid(output, t, **options):
    return jaxddim.hybrid_loss(SCHEDULE, output, X0, t, EPS, **options)


OUTPUT = jax.random.normal(jax.random.key(1), (*SHAPE[:-1], 2 * SHAPE[-1]))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("t", [2, 20, np.array([2, 9, 30, 49])])
def test_the_variational_part_is_a_kl_divergence(t, kind):
    """The divergence of two Gaussians from scipy's entropies and a Monte-Carlo mean is too rough:
    from float64 and the two steps' own numbers."""
    first, v = np.split(np.asarray(OUTPUT), 2, -1)
    x_t = jaxddim.q_sample(SCHEDULE, X0, t, EPS)
    s = np.asarray(t) - 1
    pair = getattr(jaxddim, f"from_{kind}")(SCHEDULE, x_t, first, t)
    mean = np.float64(jaxddim.ddpm_step(SCHEDULE, x_t, pair, t, s).mean)
    small, large = (
        np.float64(jaxddim.ddpm_step(SCHEDULE, x_t, pair, t, s, variance=name).std) ** 2
        for name in ("small", "large")
    )
    fraction = (np.float64(v) + 1) / 2
    log_variance = fraction * np.log(large) + (1 - fraction) * np.log(small)
    q_mean, q_std = jaxddim.q_posterior(SCHEDULE, X0, x_t, t, s)
    q_variance = np.float64(q_std) ** 2
    nats = 0.5 * (
        log_variance
        - np.log(q_variance)
        + (q_variance + (np.float64(q_mean) - mean) ** 2) / np.exp(log_variance)
        - 1
    )
    expected = 50 * np.mean(nats, (1, 2, 3)) / np.log(2)
    found = hybrid(OUTPUT, t, kind=kind, vlb=1.0) - hybrid(OUTPUT, t, kind=kind, vlb=0.0)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_at_time_1_it_is_the_code_length_of_the_pixels():
    x_1 = jaxddim.q_sample(SCHEDULE, X0, 1, EPS)
    first, v = np.split(np.asarray(OUTPUT), 2, -1)
    mean = np.float64(jaxddim.from_eps(SCHEDULE, x_1, first, 1).x0)
    ab = np.float64(SCHEDULE.alpha_bar)
    beta_1 = 1 - ab[1]
    posterior_2 = (1 - ab[1]) / (1 - ab[2]) * (1 - ab[2] / ab[1])
    fraction = (np.float64(v) + 1) / 2
    std = beta_1 ** (fraction / 2) * posterior_2 ** ((1 - fraction) / 2)
    x0, half = np.float64(X0), 1 / 255
    law = scipy.stats.norm(mean, std)
    low = np.where(x0 < -0.999, 0, law.cdf(x0 - half))
    high = np.where(x0 > 0.999, 1, law.cdf(x0 + half))
    expected = 50 * -np.mean(np.log2(high - low), (1, 2, 3))
    found = hybrid(OUTPUT, 1, vlb=1.0) - hybrid(OUTPUT, 1, vlb=0.0)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_the_variational_part_trains_the_variance_alone():
    def total(output, vlb):
        return jnp.sum(hybrid(output, np.array([1, 5, 20, 50]), vlb=vlb))

    plain, both = (jax.grad(total)(OUTPUT, vlb) for vlb in (0.0, 0.5))
    c = SHAPE[-1]
    chex.assert_trees_all_close(plain[..., :c], both[..., :c])
    assert not jnp.any(plain[..., c:]) and jnp.all(both[..., c:] != 0)
    chex.assert_tree_all_finite(both)


def test_without_it_the_loss_is_that_of_the_first_half():
    found = hybrid(OUTPUT, 9, vlb=0.0)
    expected = jaxddim.diffusion_loss(SCHEDULE, OUTPUT[..., :2], X0, 9, EPS)
    chex.assert_trees_all_close(found, expected)


BAD = {
    "no variance": (
        lambda: jaxddim.learned_step(SCHEDULE, X0, jaxddim.Prediction(X0, X0), 5, 4),
        "learned_variance=True",
    ),
    "an output without it": (
        lambda: jaxddim.as_denoiser(SCHEDULE, lambda x, i: x, learned_variance=True)(X0, 5),
        r"must have the shape of its input, \(4, 3, 3, 4\)",
    ),
    "an output with it": (
        lambda: jaxddim.as_denoiser(SCHEDULE, network(0.0))(X0, 5),
        "learned_variance=True",
    ),
    "vlb": (lambda: hybrid(OUTPUT, 5, vlb=-1.0), "vlb must be at least 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_training_step_moves_the_variance_by_the_bound_alone():
    model = jaxddim.models.MLP(features=(8,), out_channels=4)
    tx, x0 = optax.sgd(1.0), jnp.zeros((16, 2))
    network = jaxddim.own_network(
        lambda key: (model.init(key, jnp.zeros((1, 2)), jnp.zeros(1, int))["params"], {}),
        lambda params, stats, x, index, key: (model.apply({"params": params}, x, index), stats),
    )
    with pytest.raises(ValueError, match="must have the shape of its input"):
        _stepped(network, tx, x0, vlb=None)
    kernels = [_stepped(network, tx, x0, vlb=vlb)["output"]["kernel"] for vlb in (0.0, 0.1)]
    chex.assert_trees_all_close(kernels[0][:, :2], kernels[1][:, :2], rtol=1e-5)
    before = _stepped(network, optax.sgd(0.0), x0, vlb=0.1)["output"]["kernel"]
    chex.assert_trees_all_close(kernels[0][:, 2:], before[:, 2:])
    assert jnp.abs(kernels[1][:, 2:] - before[:, 2:]).max() > 1e-3


def _stepped(network, tx, x0, **options):
    state = jaxddim.create_state(jax.random.key(0), network, tx, (2,))
    step = functools.partial(
        jaxddim.train_step, apply_fn=network.apply, tx=tx, schedule=SCHEDULE, **options
    )
    return jax.jit(step)(state, x0)[0].params
