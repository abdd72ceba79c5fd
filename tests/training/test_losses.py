"""Losses: known values, and the same loss whatever the network predicts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim

SCHEDULE = jaxddim.cosine(20)
T = np.arange(1, 20)  # without T itself, where x_0 has no digits left
KINDS = ["eps", "x0", "v", "score"]
SHAPE = (len(T), 4, 4, 3)


@pytest.mark.parametrize(
    "norm, expected",
    [
        ("l1", [0.5, 3.0, (0.5 + 3) / 2]),
        ("l2", [0.25, 9.0, (0.25 + 9) / 2]),
        ("huber", [0.125, 2.5, (0.125 + 2.5) / 2]),
    ],
)
def test_norms_have_their_known_values_averaged_over_the_image(norm, expected):
    eps = jnp.zeros((3, 2, 2, 2))
    output = jnp.stack([jnp.full((2, 2, 2), 0.5), jnp.full((2, 2, 2), -3.0),
                        jnp.full((2, 2, 2), 0.5).at[0].set(3.0)])  # fmt: skip
    loss = jaxddim.diffusion_loss(SCHEDULE, output, 7 + eps, 5, eps, norm=norm)
    chex.assert_shape(loss, (3,))
    chex.assert_type(loss, jnp.float32)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_l2_is_the_default_and_huber_joins_smoothly():
    zero = jnp.zeros((1, 1))
    loss = lambda d, norm="l2": jaxddim.diffusion_loss(  # noqa: E731
        SCHEDULE, jnp.full((1, 1), d), zero, 5, zero, norm=norm
    )[0]
    assert loss(3.0) == 9
    slopes = [jax.grad(lambda d: loss(d, "huber"))(d) for d in (-2.0, 0.0, 0.5, 0.999, 1.001, 9.0)]
    np.testing.assert_allclose(slopes, [-1, 0, 0.5, 0.999, 1, 1])


def outputs_with_error(kind, seed=0):
    """x_0, eps, and the output of a network of this kind whose eps is off by a known amount."""
    rng = np.random.default_rng(seed)
    x0, eps, error = (jnp.asarray(a, jnp.float32) for a in rng.normal(size=(3, *SHAPE)))
    x_t = jaxddim.q_sample(SCHEDULE, x0, T, eps)
    wrong = jaxddim.from_eps(SCHEDULE, x_t, eps + error, T)
    return x0, eps, jaxddim.target(kind, SCHEDULE, *wrong, T), np.mean(error**2, (1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_output_has_no_loss(kind):
    x0, eps, _, _ = outputs_with_error(kind)
    output = jaxddim.target(kind, SCHEDULE, x0, eps, T)
    loss = jaxddim.diffusion_loss(SCHEDULE, output, x0, T, eps, kind=kind)
    chex.assert_trees_all_close(loss, jnp.zeros(len(T)), atol=1e-10)


def test_losses_of_the_kinds_differ_by_the_signal_to_noise_ratio():
    """|eps error|^2 = SNR |x0 error|^2 = SNR / (SNR + 1) |v error|^2 = sigma^2 |score error|^2."""
    ab = np.asarray(SCHEDULE.alpha_bar, np.float64)[T]
    factor = {"eps": 1, "x0": ab / (1 - ab), "v": ab, "score": 1 - ab}
    for kind in KINDS:
        x0, eps, output, error = outputs_with_error(kind)
        loss = jaxddim.diffusion_loss(SCHEDULE, output, x0, T, eps, kind=kind)
        np.testing.assert_allclose(factor[kind] * loss, error, rtol=2e-3)


@pytest.mark.parametrize("make", [jaxddim.min_snr, lambda kind: jaxddim.p2(0.7, 2.0, kind=kind)])
def test_a_weighting_is_the_same_loss_for_every_kind(make):
    losses = []
    for kind in KINDS:
        x0, eps, output, _ = outputs_with_error(kind)
        losses.append(
            jaxddim.diffusion_loss(
                SCHEDULE, output, x0, T, eps, kind=kind, weighting=make(kind=kind)
            )
        )
    for loss in losses[1:]:
        chex.assert_trees_all_close(loss, losses[0], rtol=2e-3)
    assert np.std(losses[0]) > 0.1


def test_min_snr_and_p2_have_their_published_values():
    log_snr = jnp.log(jnp.array([0.5, 2.0, 10.0]))
    for kind, expected in (
        ("eps", [1, 1, 0.5]),
        ("x0", [0.5, 2, 5]),
        ("v", [0.5 / 1.5, 2 / 3, 5 / 11]),
    ):
        np.testing.assert_allclose(jaxddim.min_snr(5.0, kind=kind)(log_snr), expected, rtol=1e-6)
    np.testing.assert_allclose(jaxddim.p2(1.0, 1.0)(log_snr), [2 / 3, 1 / 3, 1 / 11], rtol=1e-6)
    np.testing.assert_allclose(jaxddim.p2(0.5, 2.0)(log_snr), [2.5**-0.5, 0.5, 12**-0.5], rtol=1e-6)
    np.testing.assert_allclose(jaxddim.p2(0.0)(log_snr), 1)


@pytest.mark.parametrize("make", [jaxddim.min_snr, jaxddim.p2])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_at_clean_and_at_pure_noise_are_finite(make, kind):
    limits = {("eps", 0): 1, ("x0", 0): 0, ("v", 0): 0, ("score", 0): 1}
    weight = make(kind=kind)(jnp.array([-jnp.inf, 80.0]))
    assert weight[0] == limits[kind, 0]
    assert np.isfinite(weight[1]) and weight[1] >= 0


def test_weighting_sees_the_log_snr_of_each_example():
    zero = jnp.zeros((3, 2))
    t = jnp.array([1, 10, 19])
    loss = jaxddim.diffusion_loss(
        SCHEDULE, zero + 1, zero, t, zero, weighting=lambda log_snr: log_snr
    )
    np.testing.assert_allclose(loss, SCHEDULE.log_snr[t])
    scalar = jaxddim.diffusion_loss(
        SCHEDULE, zero + 1, zero, 10, zero, weighting=lambda log_snr: log_snr
    )
    np.testing.assert_allclose(scalar, [SCHEDULE.log_snr[10]] * 3)


def test_bfloat16_outputs_are_compared_in_float32():
    """1 and 1.003 are equal in bfloat16, but their difference counts."""
    output = jnp.full((2, 64), 1.0, jnp.bfloat16)
    eps = jnp.full((2, 64), 1.003)
    loss = jaxddim.diffusion_loss(SCHEDULE, output, eps, 5, eps, norm="l1")
    chex.assert_type(loss, jnp.float32)
    np.testing.assert_allclose(loss, 0.003, rtol=1e-3)


def test_the_loss_runs_under_jit_vmap_and_grad():
    x0, eps, output, _ = outputs_with_error("v")

    def loss(output, x0, t, eps):
        return jaxddim.diffusion_loss(
            SCHEDULE, output, x0, t, eps, kind="v", weighting=jaxddim.min_snr(kind="v")
        )

    expected = loss(output, x0, T, eps)
    chex.assert_trees_all_close(jax.jit(loss)(output, x0, T, eps), expected, rtol=1e-5)
    each = jax.vmap(lambda o, x, t, e: loss(o[None], x[None], t, e[None])[0])(output, x0, T, eps)
    chex.assert_trees_all_close(each, expected, rtol=1e-5)
    grad = jax.jit(jax.grad(lambda o: jnp.sum(loss(o, x0, T, eps))))(output)
    chex.assert_tree_all_finite(grad)
    assert np.all(np.any(grad != 0, axis=(1, 2, 3)))


def test_impossible_requests_are_errors():
    x = jnp.ones((2, 3))
    for options in ({"norm": "l3"}, {"kind": "epsilon"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            jaxddim.diffusion_loss(SCHEDULE, x, x, 5, x, **options)
    for shapes in ((x[:1], x, x), (x, x[:, :1], x), (x, x, x[:, 0])):
        with pytest.raises(ValueError, match="shape"):
            jaxddim.diffusion_loss(SCHEDULE, *shapes[:2], 5, shapes[2])
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match="gamma"):
            jaxddim.min_snr(bad)
    for gamma, k in ((-1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="gamma"):
            jaxddim.p2(gamma, k)
    for make in (jaxddim.min_snr, jaxddim.p2):
        with pytest.raises(ValueError, match="kind"):
            make(kind="noise")


# -- a mask ------------------------------------------------------------------------------

X0, EPS = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
OUTPUT = np.random.default_rng(1).normal(size=X0.shape).astype(np.float32)


def masked(mask, output=OUTPUT, norm="l2"):
    return jaxddim.diffusion_loss(SCHEDULE, output, X0, [5, 9, 1], EPS, norm=norm, mask=mask)


def test_a_mask_of_examples_leaves_out_those_that_fill_up_the_batch():
    rest = np.where(np.array([True, False, True])[:, None, None, None], OUTPUT, np.nan)
    loss = masked(np.array([True, False, True]), rest)
    expected = masked(None)
    np.testing.assert_allclose(loss, [expected[0], 0, expected[2]], rtol=1e-6)
    grad = jax.grad(lambda output: jnp.sum(masked(np.array([True, False, True]), output)))(rest)
    assert np.all(np.isfinite(grad)) and np.all(grad[1] == 0)


@pytest.mark.parametrize("norm", ["l1", "l2", "huber"])
def test_a_mask_of_pixels_is_the_mean_over_what_counts(norm):
    mask = np.random.default_rng(2).random((3, 4, 4, 1)) < 0.4
    loss = masked(mask, norm=norm)
    for i in range(3):
        rows = np.nonzero(mask[i, ..., 0])
        one = jaxddim.diffusion_loss(
            SCHEDULE, OUTPUT[i][rows][None], X0[i][rows][None], 5, EPS[i][rows][None], norm=norm
        )
        np.testing.assert_allclose(loss[i], one[0], rtol=1e-6)
    assert masked(np.zeros((3, 1, 1, 1), bool)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "mask", [np.ones(3), np.ones(4, bool), np.ones((3, 4), bool), np.ones((3, 4, 4, 3), bool), True]
)
def test_other_masks_are_errors(mask):
    with pytest.raises(ValueError, match="mask must be booleans of shape"):
        masked(mask)
