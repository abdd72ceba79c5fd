"""Denoisers in closed form: against brute force, Gaussian formulas and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim

COSINE = jaxddim.cosine(1000)
RNG = np.random.default_rng(0)


def brute_force(schedule, data, x, t, std=0.0, weights=None):
    """The posterior mean in float64, every difference written out."""
    log_snr = np.asarray(schedule.log_snr, np.float64)[t]
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))
    data, x = np.asarray(data, np.float64), np.asarray(x, np.float64)
    r2 = (alpha * std) ** 2 + sigma**2
    difference = (x[:, None] - alpha * data[None]).reshape(len(x), len(data), -1)
    logit = -np.square(difference).sum(-1) / (2 * r2)
    logit = logit + np.log(np.ones(len(data)) if weights is None else np.asarray(weights))
    p = np.exp(logit - logit.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    mean = (p @ data.reshape(len(data), -1)).reshape(x.shape)
    return (sigma**2 * mean + alpha * std**2 * x) / r2


@pytest.mark.parametrize("t", [1, 30, 300, 700, 1000])
@pytest.mark.parametrize(
    ("shape", "n", "block"), [((2,), 7, 3), ((4, 4, 3), 50, 16), ((3,), 5, 1), ((2, 2, 1), 9, 100)]
)
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_the_exact_denoiser_is_the_posterior_mean(t, shape, n, block, std):
    data = RNG.normal(size=(n, *shape)).astype(np.float32)
    weights = RNG.uniform(0.1, 1, n)
    x = RNG.normal(size=(6, *shape)).astype(np.float32)
    for given in (None, weights):
        fn = jaxddim.exact_denoiser(COSINE, data, std=std, weights=given, block=block)
        pair = fn(jnp.asarray(x), jnp.int32(t))
        np.testing.assert_allclose(
            pair.x0, brute_force(COSINE, data, x, t, std, given), rtol=1e-4, atol=1e-4
        )
        alpha, sigma = COSINE.scales(t)
        np.testing.assert_allclose(alpha * pair.x0 + sigma * pair.eps, x, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_data_and_images_of_any_float_type_are_compared_in_float32(dtype):
    data = jnp.asarray(RNG.normal(size=(20, 3)), dtype)
    x = jnp.asarray(RNG.normal(size=(4, 3)), dtype)
    found = jaxddim.exact_denoiser(COSINE, data)(x, jnp.int32(300)).x0
    assert found.dtype == jnp.float32
    wide = [np.asarray(a.astype(jnp.float32)) for a in (data, x)]
    np.testing.assert_allclose(found, brute_force(COSINE, *wide, 300), rtol=1e-4, atol=1e-4)


def test_a_far_offset_of_all_points_costs_no_digits():
    data = RNG.normal(size=(30, 8)).astype(np.float32)
    x = RNG.normal(size=(4, 8)).astype(np.float32)
    alpha, _ = COSINE.scales(200)
    near = jaxddim.exact_denoiser(COSINE, data)(x, 200).x0
    far = jaxddim.exact_denoiser(COSINE, data + 64)(x + float(alpha) * 64, 200).x0
    np.testing.assert_allclose(far - 64, near, atol=1e-3)


def test_times_may_differ_and_t_0_answers_with_the_image():
    data, x = RNG.normal(size=(9, 2)), jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
    fn = jaxddim.exact_denoiser(COSINE, data)
    together = fn(x, jnp.array([0, 10, 900]))
    for i, t in enumerate((0, 10, 900)):
        alone = fn(x[i : i + 1], jnp.int32(t))
        np.testing.assert_allclose(together.x0[i], alone.x0[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together.x0[0], x[0])
    np.testing.assert_allclose(together.eps[0], fn(x, jnp.int32(1)).eps[0], rtol=1e-5)


def test_sampling_with_it_draws_the_data_with_their_weights():
    data = jnp.array([[-2.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    weights = jnp.array([1.0, 2.0, 1.0])

    @jax.jit
    def draw(key, data, weights):
        fn = jaxddim.exact_denoiser(COSINE, data, weights=weights)  # traced data
        return jaxddim.sample(key, fn, COSINE, jaxddim.timesteps(1000, 50), (4000, 2))

    found = np.asarray(draw(jax.random.key(0), data, weights))
    distance = np.linalg.norm(found[:, None] - data, axis=-1)
    assert distance.min(1).max() < 0.05
    share = np.bincount(distance.argmin(1), minlength=3) / len(found)
    np.testing.assert_allclose(share, [0.25, 0.5, 0.25], atol=0.04)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((4, 2), int)}, "scale 8-bit"),
        ({"data": np.zeros((0, 2))}, "must be points"),
        ({"data": 1.0}, "must be points"),
        ({"std": -1.0}, "std must be at least 0"),
        ({"weights": np.ones(3)}, "weights must be 4"),
        ({"weights": np.zeros(4)}, "positive"),
        ({"block": 0}, "block must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"data": np.zeros((4, 2))} | change
    with pytest.raises(ValueError, match=message):
        jaxddim.exact_denoiser(COSINE, arguments.pop("data"), **arguments)
    with pytest.raises(ValueError, match="the data are"):
        jaxddim.exact_denoiser(COSINE, np.zeros((4, 2)))(jnp.zeros((1, 3)), 5)


def correlated(n, shape):
    """Smooth random images with a mean, and with correlated colours."""
    height, width, channels = shape
    noise = RNG.normal(size=(n, *shape))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)
    mixed = smooth @ (np.eye(channels) + 0.5)
    return 0.1 * mixed + np.linspace(-0.5, 0.5, height * width * channels).reshape(shape)


@pytest.mark.parametrize("shape", [(6, 4, 3), (4, 4, 1), (5, 7, 2)])
def test_moments_are_those_of_the_images(shape):
    data = correlated(400, shape)
    found = jaxddim.moments(data)
    np.testing.assert_allclose(found.mean, data.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std, np.sqrt(np.square(data - data.mean(0)).mean()), rtol=1e-5)
    np.testing.assert_allclose(found.colours @ found.colours.T, np.eye(shape[2]), atol=1e-6)
    flipped = jaxddim.moments(data, flip=True)
    both = jaxddim.moments(np.concatenate([data, data[:, :, ::-1]]))
    for ours, theirs in zip(flipped, both, strict=True):
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=2e-4, atol=1e-5)
    pixels = np.clip(np.round((data + 1) * 127.5), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(jaxddim.moments(pixels).std, found.std, rtol=0.05)


@pytest.mark.parametrize("t", [1, 200, 600, 1000])
def test_gaussian_x0_is_the_best_linear_guess_of_gaussian_images(t):
    """Regression of x_0 on x_t with the covariance that the moments stand for."""
    shape = (4, 3, 2)
    found = jaxddim.moments(correlated(500, shape))
    basis = np.einsum(
        "ki,lj,ab->klbija",
        *(jaxddim.ideal.cosines(n) for n in shape[:2]),
        found.colours.astype(np.float64),
    ).reshape(24, 24)
    covariance = basis.T @ np.diag(found.variance.reshape(-1).astype(np.float64)) @ basis
    log_snr = float(COSINE.log_snr[t])
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))
    gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(24))
    x = RNG.normal(size=(5, *shape)).astype(np.float32)
    mean = found.mean.reshape(-1)
    expected = mean + (x.reshape(5, -1) - alpha * mean) @ gain.T
    answer = jaxddim.gaussian_x0(COSINE, found, jnp.asarray(x), t)
    np.testing.assert_allclose(np.reshape(answer, (5, -1)), expected, rtol=1e-3, atol=1e-4)
    error = np.trace(covariance - alpha * gain @ covariance) / 24
    np.testing.assert_allclose(
        jaxddim.gaussian_error(found, COSINE.log_snr[t]), error, rtol=1e-3, atol=1e-6
    )
