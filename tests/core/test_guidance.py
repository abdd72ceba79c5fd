"""Guidance on data where every class has a known denoiser."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim import Prediction

SCHEDULE = jaxddim.cosine(100)
KEY = jax.random.key(0)
MEANS = jnp.array([[-0.6, 0.1], [0.5, 0.4], [0.2, -0.7]])
WIDTH, CHANCES = 0.3, np.array([0.5, 0.2, 0.3])
X = jax.random.normal(KEY, (6, 2))
TIMES = [1, 20, 60, 100]


def of_class(c):
    return jaxddim.exact_denoiser(SCHEDULE, MEANS[c][None], std=WIDTH)


EVERY = jaxddim.exact_denoiser(SCHEDULE, MEANS, std=WIDTH, weights=CHANCES)
CLASS = of_class(1)


def log_prob_of(c):
    """log q(c | x_t) of the mixture, by Bayes' rule."""

    def log_prob(x, t):
        alpha, sigma = SCHEDULE.scales(t)
        variance = (alpha * WIDTH) ** 2 + sigma**2
        distance = jnp.sum((x[:, None] - alpha * MEANS) ** 2, -1)
        return jax.nn.log_softmax(jnp.log(CHANCES) - distance / (2 * variance))[:, c]

    return log_prob


def consistent(pair, x, t):
    alpha, sigma = SCHEDULE.scales(t)
    np.testing.assert_allclose(alpha * pair.x0 + sigma * pair.eps, x, atol=2e-4)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("c", range(3))
def test_guidance_by_the_true_classifier_is_the_denoiser_of_the_class(c, t):
    guided = jaxddim.classifier_guide(EVERY, SCHEDULE, log_prob_of(c), scale=1.0)
    pair = guided(X, jnp.int32(t))
    chex.assert_trees_all_close(pair.eps, of_class(c)(X, jnp.int32(t)).eps, atol=1e-4)
    consistent(pair, X, t)


def test_the_classifiers_gradient_is_multiplied():
    t = jnp.int32(40)
    once, thrice = (
        jaxddim.classifier_guide(EVERY, SCHEDULE, log_prob_of(1), scale=w)(X, t) for w in (1.0, 3.0)
    )
    plain = EVERY(X, t)
    chex.assert_trees_all_close(thrice.eps - plain.eps, 3 * (once.eps - plain.eps), atol=1e-5)
    consistent(thrice, X, 40)


@pytest.mark.parametrize("t", TIMES)
def test_guided_gaussian_classes_in_closed_form(t):
    """x_0 is affine in the mean: guidance by w is the denoiser of a class at m_u + w (m_c - m_u).

    A step's law follows: that of DDIM with this x_0.
    """
    w, one, other = 2.5, MEANS[1], MEANS[0]
    guided = jaxddim.guide(of_class(1), of_class(0), scale=w)
    moved = jaxddim.exact_denoiser(SCHEDULE, (other + w * (one - other))[None], std=WIDTH)
    t, s = jnp.int32(t), t // 2
    found, expected = (
        jaxddim.ddim_step(SCHEDULE, X, fn(X, t), t, s, eta=0.6) for fn in (guided, moved)
    )
    chex.assert_trees_all_close(found, expected, atol=2e-4)
    alpha, sigma = SCHEDULE.scales(t)
    g = alpha * WIDTH**2 / ((alpha * WIDTH) ** 2 + sigma**2)
    mean = other + w * (one - other)
    chex.assert_trees_all_close(guided(X, t).x0, mean + g * (X - alpha * mean), atol=2e-4)


@pytest.mark.parametrize("scale", [1, 1.0, np.float32(1), jnp.float32(1)])
def test_a_scale_of_1_is_the_conditional_denoiser_exactly(scale):
    for t in TIMES:
        t = jnp.int32(t)
        found = jaxddim.guide(CLASS, EVERY, scale=scale)(X, t)
        chex.assert_trees_all_equal(found, CLASS(X, t))


def test_a_scale_of_0_is_the_unconditional_one_and_each_image_may_have_its_own():
    t = jnp.int32(30)
    found = jaxddim.guide(CLASS, EVERY, scale=0.0)(X, t)
    chex.assert_trees_all_close(found, EVERY(X, t), atol=1e-5)
    scales = jnp.arange(6.0)
    found = jax.jit(lambda w: jaxddim.guide(CLASS, EVERY, scale=w)(X, t))(scales)
    for i in range(6):
        alone = jaxddim.guide(CLASS, EVERY, scale=float(i))(X, t)
        chex.assert_trees_all_close(found.x0[i], alone.x0[i], atol=1e-4)


def test_an_interval_of_times():
    guided = jaxddim.guide(CLASS, EVERY, scale=3.0)
    within = jaxddim.guide(CLASS, EVERY, scale=3.0, interval=(20, 60))
    for t, inside in ((19, False), (20, True), (60, True), (61, False)):
        t = jnp.int32(t)
        expected = (guided if inside else CLASS)(X, t)
        chex.assert_trees_all_close(within(X, t), expected, atol=1e-6)
    t = jnp.array([1, 19, 20, 60, 61, 100])
    each = within(X, t)
    for i in range(6):
        alone = within(X[i : i + 1], t[i])
        chex.assert_trees_all_close(each.x0[i], alone.x0[0], atol=1e-5)


@pytest.mark.parametrize("t", TIMES)
def test_rescaling_gives_x0_the_deviation_of_the_conditional_one(t):
    t = jnp.int32(t)
    x = jax.random.normal(KEY, (5, 4, 4, 1))

    def network(scale):
        return lambda x, index: scale * x + 0.1 * jnp.cumsum(x, 1)

    one, other = (
        jaxddim.as_denoiser(SCHEDULE, network(scale), kind="v", clip_x0=False)
        for scale in (0.2, -0.4)
    )
    plain = jaxddim.guide(one, other, scale=5.0)(x, t)
    full, half = (jaxddim.guide(one, other, scale=5.0, rescale=phi)(x, t) for phi in (1.0, 0.5))
    deviations = [jnp.std(x0, (1, 2, 3)) for x0 in (full.x0, one(x, t).x0)]
    chex.assert_trees_all_close(*deviations, rtol=1e-4)
    chex.assert_trees_all_close(half.x0, (full.x0 + plain.x0) / 2, rtol=1e-4, atol=1e-5)
    consistent(full, x, t)


def test_rescaling_changes_nothing_where_both_agree():
    t = jnp.int32(30)
    found = jaxddim.guide(CLASS, CLASS, scale=4.0, rescale=1.0)(X, t)
    chex.assert_trees_all_close(found, CLASS(X, t), atol=1e-6)


# -- one network -------------------------------------------------------------------------

CALLS = []


def network(x, index, label):
    """v of the mixture's classes; class 3 is the null class."""
    CALLS.append(x.shape)
    t, rows = index + 1, jnp.arange(len(x))
    pairs = [fn(x, t) for fn in (*map(of_class, range(3)), EVERY)]
    x0 = jnp.stack([pair.x0 for pair in pairs])[label, rows]
    return jaxddim.target("v", SCHEDULE, x0, jaxddim.from_x0(SCHEDULE, x, x0, t).eps, t)


LABELS = jnp.array([0, 1, 2, 1, 0, 2])
one_network = functools.partial(
    jaxddim.as_guided_denoiser, SCHEDULE, network, LABELS, null=3, kind="v"
)


def by_two(scale, **options):
    """The same guidance with two denoisers, each of its own network."""
    one, other = (
        jaxddim.as_denoiser(
            SCHEDULE, lambda x, index, y=y: network(x, index, y), kind="v", clip_x0=False
        )
        for y in (LABELS, jnp.full(6, 3))
    )
    return jaxddim.guide(one, other, scale=scale, **options)


OPTIONS = [{}, {"interval": (10, 50)}, {"rescale": 0.7}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("t", [5, 40, np.array([1, 9, 10, 50, 51, 100])])
def test_one_call_of_a_network_gives_what_two_give(t, options):
    t = jnp.asarray(t)
    pair = one_network(scale=2.0, clip_x0=False, **options)(X, t)
    chex.assert_trees_all_close(pair, by_two(2.0, **options)(X, t), atol=1e-4)


def test_the_network_is_called_once_with_every_image_twice():
    CALLS.clear()
    one_network(scale=2.0)(X, jnp.int32(40))
    assert CALLS == [(12, 2)]
    CALLS.clear()
    one_network(scale=1.0)(X, jnp.int32(40))
    assert CALLS == [(6, 2)]


def test_clipping_comes_after_guidance():
    t = jnp.int32(60)
    pair = by_two(6.0)(X, t)
    clipped = one_network(scale=6.0)(X, t)
    assert jnp.abs(pair.x0).max() > 1
    expected = jaxddim.clip(SCHEDULE, X, pair, t)
    chex.assert_trees_all_close(clipped, expected, atol=1e-4)
    plain = jaxddim.as_denoiser(SCHEDULE, lambda x, index: network(x, index, LABELS), kind="v")
    for t in (1, 60, 100):
        t = jnp.int32(t)
        chex.assert_trees_all_equal(one_network(scale=1.0)(X, t), plain(X, t))


def test_guided_samples_come_from_the_class():
    grid = jaxddim.timesteps(100, 20)
    labels = jnp.arange(300) % 3
    fn = jaxddim.as_guided_denoiser(SCHEDULE, network, labels, null=3, scale=1.5, kind="v")
    x = jaxddim.sample(KEY, fn, SCHEDULE, grid, (300, 2), step=jaxddim.dpm_solver_pp_2m())
    nearest = jnp.argmin(jnp.sum((x[:, None] - MEANS) ** 2, -1), -1)
    assert jnp.mean(nearest == labels) > 0.97


BAD = {
    "scale": (lambda: jaxddim.guide(CLASS, EVERY, scale=np.nan), "scale must be a number"),
    "rescale": (
        lambda: jaxddim.guide(CLASS, EVERY, scale=2.0, rescale=1.5),
        r"rescale must lie in \[0, 1\]",
    ),
    "interval": (
        lambda: jaxddim.guide(CLASS, EVERY, scale=2.0, interval=(9, 3)),
        "interval must be times",
    ),
    "labels": (
        lambda: jaxddim.as_guided_denoiser(SCHEDULE, network, 0.5, null=3, scale=2.0),
        "label must be whole numbers",
    ),
    "two labels": (
        lambda: jaxddim.as_guided_denoiser(SCHEDULE, network, [0, 1], null=3, scale=2.0)(X, 5),
        "label must be a scalar or one for each of the 6",
    ),
    "a network without labels": (
        lambda: jaxddim.as_guided_denoiser(SCHEDULE, lambda x, i: x, 0, null=3, scale=2.0),
        r"\(x, index, label\)",
    ),
    "log_prob": (
        lambda: jaxddim.classifier_guide(EVERY, SCHEDULE, lambda x, t: x, scale=1.0)(X, 5),
        "one number for each of the 6 images",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_clipped_denoiser_is_warned_of():
    clipped = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0 * x)
    for call in (
        lambda: jaxddim.guide(CLASS, clipped, scale=2.0),
        lambda: jaxddim.classifier_guide(clipped, SCHEDULE, log_prob_of(0), scale=2.0),
    ):
        with pytest.warns(UserWarning, match="clips x_0 before it"):
            call()


@pytest.mark.parametrize("name", ["guide", "classifier", "one network"])
def test_no_nan_where_nothing_is_left_of_the_image(name):
    schedule = jaxddim.zero_terminal_snr(SCHEDULE)
    plain = jaxddim.as_denoiser(schedule, lambda x, index: 0.1 * x, kind="v", clip_x0=False)
    fn = {
        "guide": lambda: jaxddim.guide(plain, plain, scale=3.0, rescale=0.5),
        "classifier": lambda: jaxddim.classifier_guide(
            plain, schedule, lambda x, t: 0 * jnp.sum(x, -1), scale=2.0
        ),
        "one network": lambda: jaxddim.as_guided_denoiser(
            schedule, lambda x, i, y: 0.1 * x, 0, null=1, scale=2.0, rescale=0.5, kind="v"
        ),
    }[name]()
    with jax.debug_nans(True):
        for t in (0, 50, 100):
            assert isinstance(fn(X, t), Prediction)
