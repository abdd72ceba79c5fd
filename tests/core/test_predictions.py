"""Predictions: every kind converts to the pair (x_0, eps) and back, clipping keeps the pair
consistent, and a network is called with the right index."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import jaxddim

SCHEDULE = jaxddim.cosine(20)
FROM = {
    "eps": jaxddim.from_eps,
    "x0": jaxddim.from_x0,
    "v": jaxddim.from_v,
    "score": jaxddim.from_score,
}
KINDS = list(FROM)


def drawn(seed=0, shape=(4, 3, 3, 2)):
    """Clean images, noise, times 1..19 (not T = 20, where cosine leaves no digits of x_0); x_t."""
    rng = np.random.default_rng(seed)
    x0 = jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)
    eps = jnp.asarray(rng.normal(size=shape), jnp.float32)
    t = rng.integers(1, 20, shape[0])
    return x0, eps, t, jaxddim.q_sample(SCHEDULE, x0, t, eps)


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1), scalar=st.booleans())
def test_target_then_from_returns_the_pair(kind, seed, scalar):
    x0, eps, t, x_t = drawn(seed)
    if scalar:
        t = int(t[0])
        x_t = jaxddim.q_sample(SCHEDULE, x0, t, eps)
    output = jaxddim.target(kind, SCHEDULE, x0, eps, t)
    pair = FROM[kind](SCHEDULE, x_t, output, t)
    chex.assert_trees_all_close(pair, jaxddim.Prediction(x0, eps), atol=2e-5)


def test_targets_are_the_defined_quantities():
    x0, eps, t, x_t = drawn()
    ab = np.asarray(SCHEDULE.alpha_bar, np.float64)[t].reshape(-1, 1, 1, 1)

    def q_log_density(x_t):
        return jnp.sum(-((x_t - np.sqrt(ab) * x0) ** 2) / (2 * (1 - ab)))

    chex.assert_trees_all_equal(jaxddim.target("eps", SCHEDULE, x0, eps, t), eps)
    chex.assert_trees_all_equal(jaxddim.target("x0", SCHEDULE, x0, eps, t), x0)
    score = jaxddim.target("score", SCHEDULE, x0, eps, t)
    chex.assert_trees_all_close(score, jax.grad(q_log_density)(x_t), rtol=1e-3, atol=1e-3)
    # v is the velocity of x_t along the circle (alpha, sigma) = (cos phi, sin phi)
    v = jaxddim.target("v", SCHEDULE, x0, eps, t)
    phi, step = np.arccos(np.sqrt(ab)), 1e-3
    ahead, behind = (
        np.cos(p) * np.asarray(x0, np.float64) + np.sin(p) * np.asarray(eps, np.float64)
        for p in (phi + step, phi - step)
    )
    np.testing.assert_allclose(v, (ahead - behind) / (2 * step), atol=1e-5)


def test_kinds_at_the_clean_end_leave_the_image_alone():
    x = jnp.linspace(-1, 1, 6).reshape(2, 3)
    for kind in ("eps", "v", "score"):
        chex.assert_trees_all_equal(FROM[kind](SCHEDULE, x, 3 * x, 0).x0, x)
    pair = jaxddim.from_x0(SCHEDULE, x, x, 0)
    chex.assert_trees_all_equal(pair, jaxddim.Prediction(x, 0 * x))
    for kind in KINDS:
        grad = jax.grad(lambda x, f=FROM[kind]: sum(map(jnp.sum, f(SCHEDULE, x, x, 0))))(x)
        chex.assert_tree_all_finite(grad)


def assert_consistent(x_t, pair, t):
    ab = 1 / (1 + np.exp(-np.asarray(SCHEDULE.log_snr, np.float64)[t].reshape(-1, 1, 1, 1)))
    np.testing.assert_allclose(np.sqrt(ab) * pair.x0 + np.sqrt(1 - ab) * pair.eps, x_t, atol=5e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    low=st.floats(-2, -0.125, width=32),
    width=st.floats(0.25, 2, width=32),
)
def test_clipping_bounds_x0_and_moves_eps_to_match(seed, low, width):
    _, eps, t, x_t = drawn(seed)
    high = low + width
    wrong = jaxddim.from_eps(SCHEDULE, x_t, 1.5 * eps, t)
    clipped = jaxddim.clip(SCHEDULE, x_t, wrong, t, low=low, high=high)
    assert_consistent(x_t, clipped, t)
    inside = (wrong.x0 >= low) & (wrong.x0 <= high)
    assert clipped.x0.min() >= low and clipped.x0.max() <= np.float32(high)
    expected = np.where(inside, wrong.x0, np.where(wrong.x0 < low, np.float32(low), high))
    np.testing.assert_allclose(clipped.x0, expected, rtol=1e-6, atol=1e-6)


def test_clip_defaults_to_images_in_minus_1_to_1_and_wants_an_interval():
    x = jnp.array([[-3.0, -0.5, 0.5, 3.0]])
    pair = jaxddim.from_x0(SCHEDULE, x, x, 5)
    assert jaxddim.clip(SCHEDULE, x, pair, 5).x0.tolist() == [[-1, -0.5, 0.5, 1]]
    with pytest.raises(ValueError, match="low"):
        jaxddim.clip(SCHEDULE, x, pair, 5, low=1.0, high=1.0)


def test_threshold_scales_each_image_by_its_own_quantile():
    x_t = jnp.ones((3, 11, 1, 1))
    ramp = jnp.arange(11.0).reshape(11, 1, 1)
    x0 = jnp.stack([ramp, -ramp / 2, ramp / 20])  # the 0.8 quantiles of abs are 8, 4 and 0.4
    t = np.array([5, 9, 12])
    pair = jaxddim.threshold(SCHEDULE, x_t, jaxddim.from_x0(SCHEDULE, x_t, x0, t), t, quantile=0.8)
    ramp = np.minimum(np.arange(11) / 8, 1)
    expected = [ramp, -ramp, np.arange(11) / 20]  # never scaled up
    np.testing.assert_allclose(pair.x0[..., 0, 0], expected, atol=1e-6)
    assert_consistent(x_t, pair, t)
    for quantile in (0.0, 1.1):
        with pytest.raises(ValueError, match="quantile"):
            jaxddim.threshold(SCHEDULE, x_t, pair, t, quantile=quantile)


def test_as_denoiser_feeds_the_0_based_index_of_each_example():
    seen = []

    def apply_fn(x, index):
        chex.assert_shape(index, (3,))
        chex.assert_type(index, jnp.int32)
        seen.append(index)
        return 0 * x

    denoise_fn = jaxddim.as_denoiser(SCHEDULE, apply_fn)
    x = jnp.ones((3, 2))
    for t in (1, 20, 0, jnp.int32(7), np.int64(7), jnp.array([20, 1, 3]), np.array([20, 1, 3])):
        denoise_fn(x, t)
    assert [index.tolist() for index in seen] == [
        [0, 0, 0], [19, 19, 19], [0, 0, 0], [6, 6, 6], [6, 6, 6], [19, 0, 2], [19, 0, 2],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_as_denoiser_reads_the_output_as_its_kind(kind):
    x0, eps, t, x_t = drawn()
    output = jaxddim.target(kind, SCHEDULE, x0, eps, t)
    pair = jaxddim.as_denoiser(SCHEDULE, lambda x, index: output, kind=kind)(x_t, t)
    chex.assert_trees_all_close(pair, jaxddim.Prediction(x0, eps), atol=2e-5)


def test_as_denoiser_clips_by_default_and_not_where_told():
    x = jnp.full((2, 3), 4.0)
    apply_fn = lambda x, index: 0 * x  # noqa: E731
    clipped = jaxddim.as_denoiser(SCHEDULE, apply_fn)(x, 10)
    raw = jaxddim.as_denoiser(SCHEDULE, apply_fn, clip_x0=False)(x, 10)
    assert np.all(clipped.x0 == 1) and np.all(clipped.eps > 0)
    np.testing.assert_allclose(raw.x0, 4 / np.sqrt(SCHEDULE.alpha_bar[10]), rtol=1e-6)
    assert np.all(raw.eps == 0)


def test_a_function_a_linen_module_and_an_nnx_module_are_the_same_network():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x, index):
            w = self.param("w", nn.initializers.constant(0.3), (2,))
            return w * x + index[:, None] / 20

    class Nnx(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.full(2, 0.3))

        def __call__(self, x, index):
            return self.w[...] * x + index[:, None] / 20

    linen, module = Linen(), Nnx()
    params = linen.init(jax.random.key(0), jnp.ones((3, 2)), jnp.zeros(3, jnp.int32))
    graph, state = nnx.split(module)
    grid = jaxddim.timesteps(20, 5)

    def sample(apply_fn):
        denoise_fn = jaxddim.as_denoiser(SCHEDULE, apply_fn)
        return jaxddim.sample(jax.random.key(1), denoise_fn, SCHEDULE, grid, (3, 2))

    images = [
        sample(lambda x, index: 0.3 * x + index[:, None] / 20),
        jax.jit(lambda params: sample(lambda x, i: linen.apply(params, x, i)))(params),
        jax.jit(lambda state: sample(lambda x, i: nnx.merge(graph, state)(x, i)))(state),
        sample(module),
    ]
    for image in images[1:]:
        chex.assert_trees_all_close(image, images[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_outputs_are_used_in_float32(kind):
    x0, eps, t, x_t = drawn()
    output = jaxddim.target(kind, SCHEDULE, x0, eps, t).astype(jnp.bfloat16)
    pair = FROM[kind](SCHEDULE, x_t, output, t)
    chex.assert_type(list(pair), jnp.float32)
    expected = FROM[kind](SCHEDULE, x_t, output.astype(jnp.float32), t)
    chex.assert_trees_all_equal(pair, expected)


def test_impossible_kinds_are_errors():
    x = jnp.ones((2, 3))
    for call in (
        lambda: jaxddim.as_denoiser(SCHEDULE, lambda x, i: x, kind="epsilon"),
        lambda: jaxddim.target("noise", SCHEDULE, x, x, 3),
    ):
        with pytest.raises(ValueError, match="kind"):
            call()
    silent = jaxddim.zero_terminal_snr(SCHEDULE)
    for kind in ("eps", "score"):
        with pytest.raises(ValueError, match="zero terminal SNR"):
            jaxddim.as_denoiser(silent, lambda x, i: x, kind=kind)
    for kind in ("x0", "v"):
        pair = jaxddim.as_denoiser(silent, lambda x, i: 0.5 * x, kind=kind)(x, 20)
        chex.assert_tree_all_finite(pair)
        np.testing.assert_allclose(pair.x0, 0.5 if kind == "x0" else -0.5)
        np.testing.assert_allclose(pair.eps, 1)
