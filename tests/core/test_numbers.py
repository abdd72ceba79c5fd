"""Hyper-parameters: one that is known is checked, and a JAX array gives the same numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim import discrete
from jaxddim.numerics import number
from tests.precision import MLP, training

SCHEDULE = jaxddim.cosine(20)
GRID, KEY = jaxddim.timesteps(20, 3), jax.random.key(0)
X, Y = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4)).astype(np.float32)
PAIR = jaxddim.Prediction(X, Y)
TOKENS, LOGITS, HOT = np.ones((3, 4), np.int32), np.ones((3, 4, 5), np.float32), np.eye(3)
FN = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0.1 * x)
FN_1, FN_2 = (
    jaxddim.as_denoiser(SCHEDULE, network, clip_x0=False)
    for network in (lambda x, index: jnp.sin(x), lambda x, index: 0.3 * x)
)


def sampled(step):
    return jaxddim.sample(KEY, FN, SCHEDULE, GRID, (3, 4), step=step)


@functools.cache
def prepared():
    return training(MLP(features=(4,), time_dim=4), (4, 2), 1, False)


def trained(ema):
    state, step, batch = prepared()
    state = state._replace(step=jnp.int32(1000))
    return functools.partial(step, ema=ema)(state, batch)[0].ema_params


TAKES = {  # a function of the hyper-parameter, a good value, and bad ones
    "q_posterior eta": (
        lambda eta: jaxddim.q_posterior(SCHEDULE, X, Y, 9, 5, eta=eta),
        0.5,
        (-0.1, 1.1, np.nan),
    ),
    "ddim_step eta": (
        lambda eta: jaxddim.ddim_step(SCHEDULE, X, PAIR, 9, 5, eta=eta),
        0.5,
        (-0.1, 1.1, np.nan),
    ),
    "sample eta": (
        lambda eta: sampled(functools.partial(jaxddim.ddim_step, eta=eta)),
        0.5,
        (-0.1, 1.1, np.nan),
    ),
    "sample eta 0": (lambda eta: sampled(functools.partial(jaxddim.ddim_step, eta=eta)), 0.0, ()),
    "encode eta 0": (
        lambda eta: jaxddim.ddim_step(SCHEDULE, X, PAIR, 0, 5, eta=eta).mean,
        0.0,
        (),
    ),
    "langevin_step snr": (
        lambda snr: jaxddim.langevin_step(SCHEDULE, X, PAIR, 9, snr=snr),
        0.25,
        (0.0, 1.0, np.nan),
    ),
    "q_forward eta": (
        lambda eta: jaxddim.q_forward(SCHEDULE, X, Y, 5, 9, eta=eta),
        0.5,
        (-0.1, 1.1, np.nan),
    ),
    "sample dpm_solver_pp_2m eta": (
        lambda eta: sampled(jaxddim.dpm_solver_pp_2m(eta=eta)),
        0.5,
        (),
    ),
    "sample heun churn": (lambda churn: sampled(jaxddim.heun(churn=churn)), 0.25, ()),
    "sample heun noise_scale": (
        lambda scale: sampled(jaxddim.heun(churn=0.2, noise_scale=scale)),
        0.5,
        (),
    ),
    "guide scale": (
        lambda scale: jaxddim.guide(FN_1, FN_2, scale=scale)(X, 9),
        2.5,
        (np.nan, np.inf),
    ),
    "guide rescale": (
        lambda phi: jaxddim.guide(FN_1, FN_2, scale=3.0, rescale=phi)(X, 9),
        0.5,
        (-0.1, 1.1, np.nan),
    ),
    "classifier_guide scale": (
        lambda scale: jaxddim.classifier_guide(
            FN_1, SCHEDULE, lambda x, t: jnp.sum(x**2, 1), scale=scale
        )(X, 9),
        2.5,
        (np.nan,),
    ),
    "corrector snr": (
        lambda snr: sampled(jaxddim.corrector(jaxddim.ddim_step, 1, snr)),
        0.25,
        (0.0, 1.0, np.nan),
    ),
    "clip low": (lambda low: jaxddim.clip(SCHEDULE, X, PAIR, 9, low=low), -0.5, (1.0, np.nan)),
    "clip high": (lambda high: jaxddim.clip(SCHEDULE, X, PAIR, 9, high=high), 0.5, (-1.0, np.nan)),
    "threshold quantile": (
        lambda quantile: jaxddim.threshold(SCHEDULE, X, PAIR, 9, quantile=quantile),
        0.75,
        (0.0, 1.1, np.nan),
    ),
    "min_snr gamma": (lambda gamma: jaxddim.min_snr(gamma)(jnp.arange(9.0)), 4.0, (0.0, np.nan)),
    "p2 gamma": (lambda gamma: jaxddim.p2(gamma)(jnp.arange(9.0)), 0.5, (-1.0, np.nan)),
    "p2 k": (lambda k: jaxddim.p2(k=k)(jnp.arange(9.0)), 0.5, (0.0, np.nan)),
    "discrete.mixture eta": (
        lambda eta: discrete.mixture(SCHEDULE, 9, 5, eta=eta),
        0.5,
        (-0.1, 1.1, np.nan),
    ),
    "discrete.q_posterior eta": (
        lambda eta: discrete.q_posterior(SCHEDULE, HOT, HOT, 9, 5, eta=eta),
        0.5,
        (-0.1, 1.1),
    ),
    "discrete.kl_loss eta": (
        lambda eta: discrete.kl_loss(SCHEDULE, LOGITS, TOKENS, TOKENS, 9, 5, eta=eta),
        0.5,
        (-0.1, 1.1),
    ),
    "discrete.sample eta": (
        lambda eta: discrete.sample(
            KEY,
            discrete.as_denoiser(lambda x, index: jnp.ones((*x.shape, 5))),
            SCHEDULE,
            GRID,
            (3, 4),
            num_classes=5,
            eta=eta,
        ),
        0.5,
        (-0.1, 1.1),
    ),
    "train_step ema": (trained, 0.5, (-0.1, 1.0, np.nan)),
}
TYPES = (np.float32, jnp.float32, float, np.float64, np.asarray, jnp.asarray, jnp.bfloat16)


@pytest.mark.parametrize("name", TAKES)
def test_every_type_of_number_gives_the_same_result_in_and_outside_of_jit(name):
    function, good, _ = TAKES[name]
    expected = function(good)
    for make in TYPES[: 2 if "sample" in name or "corrector" in name else None]:
        value = make(good)
        chex.assert_trees_all_close(function(value), expected, rtol=2e-6, atol=1e-6)
    for value in (np.float32(good), jnp.float32(good)):
        closed = jax.jit(lambda value=value: function(value))()
        chex.assert_trees_all_close(closed, expected, rtol=2e-6, atol=1e-6)
    traced = jax.jit(function)(good)
    chex.assert_trees_all_close(traced, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in TAKES if TAKES[name][2]])
def test_bad_numbers_are_errors_also_inside_of_jit(name):
    function, _, bad = TAKES[name]
    for value in bad:
        for make in (float, np.float32, np.float64, np.asarray):
            for call in (function, lambda value: jax.jit(lambda: function(value))()):
                with pytest.raises(ValueError, match=name.split()[1]):
                    call(make(value))


STATIC = {  # what shapes and tables are made from
    "timesteps fraction": lambda n: jaxddim.timesteps(1000, 5, fraction=n),
    "linear beta_end": lambda n: jaxddim.linear(100, beta_end=n),
    "quadratic beta_end": lambda n: jaxddim.quadratic(100, beta_end=n),
    "const beta_end": lambda n: jaxddim.const(100, beta_end=n),
    "sigmoid beta_end": lambda n: jaxddim.sigmoid(100, beta_end=n),
    "cosine offset": lambda n: jaxddim.cosine(20, offset=n),
    "from_alpha_bar max_beta": lambda n: jaxddim.from_alpha_bar(
        lambda u: np.exp(-12 * u), 20, max_beta=n
    ),
    "zero_terminal_snr": lambda n: jaxddim.zero_terminal_snr(SCHEDULE),
}


@pytest.mark.parametrize("name", STATIC)
def test_every_type_of_number_makes_the_same_table_in_and_outside_of_jit(name):
    function = STATIC[name]
    for make in (float, np.float32, jnp.float32):
        value = make(0.5)
        for call in (function, lambda value: jax.jit(lambda: function(value))()):
            chex.assert_trees_all_close(call(value), function(0.5), rtol=1e-6)


@pytest.mark.parametrize("value", ["0.5", None, 1j, [0.2, 3.0]])
def test_what_is_no_number_in_the_range_is_an_error(value):
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\], got"):
        jaxddim.ddim_step(SCHEDULE, X, PAIR, 9, 5, eta=value)


def test_a_known_number_stays_one_of_python_and_an_array_becomes_float32():
    rule = "size", "be positive", lambda size: size > 0
    for value in (3, np.int64(3), np.float64(3), np.float32(3), np.asarray(3.0)):
        assert type(number(value, *rule)) in (int, float) and number(value, *rule) == 3
    for value in (jnp.asarray(3), jnp.bfloat16(3), jnp.float32(-1), np.array([1.0, 2.0])):
        assert number(value, *rule).dtype == np.float32
