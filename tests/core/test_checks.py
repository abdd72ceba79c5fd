"""What is wrong is said: outputs, keys, grids, times and classes that would give nonsense."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxddim
from jaxddim import checks, discrete, likelihood
from jaxddim.models import MLP

SCHEDULE = jaxddim.cosine(20)
GRID = jaxddim.timesteps(20, 4)
KEY = jax.random.key(0)
X = jnp.linspace(-1, 1, 8).reshape(4, 2)
PAIR = jaxddim.Prediction(X, X)
DENOISE = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0.1 * x, kind="v", clip_x0=False)
LOGITS = jnp.zeros((4, 2, 3))
TOKENS = jnp.zeros((4, 2), jnp.int32)
STEP = functools.partial(jaxddim.ddim_step, eta=1.0)


def spell(x, t):
    return jnp.zeros((*x.shape, 3))


def with_denoiser(denoise_fn):
    """Every function that takes a denoiser."""
    return {
        "integrate": lambda: jaxddim.integrate(KEY, denoise_fn, SCHEDULE, GRID, X),
        "corrector": lambda: jaxddim.sample(
            KEY, denoise_fn, SCHEDULE, GRID, X.shape, step=jaxddim.corrector(STEP, 1, 0.1)
        ),
        "sample": lambda: jaxddim.sample(KEY, denoise_fn, SCHEDULE, GRID, X.shape),
        "decode": lambda: jaxddim.decode(denoise_fn, SCHEDULE, GRID, X),
        "encode": lambda: jaxddim.encode(denoise_fn, SCHEDULE, GRID, X, refine=1),
        "interpolate": lambda: jaxddim.interpolate(denoise_fn, SCHEDULE, GRID, X, X, jnp.ones(1)),
        "bound": lambda: likelihood.variational_bound(KEY, denoise_fn, SCHEDULE, GRID, X),
        "ode": lambda: likelihood.ode_log_likelihood(KEY, denoise_fn, SCHEDULE, GRID, X),
        "bits": lambda: likelihood.ode_bits_per_dim(KEY, denoise_fn, SCHEDULE, GRID, X),
    }


# -- what a network returns ----------------------------------------------------------

WRONG = {  # the shape of x, the output, what is said
    "one coordinate": ((4, 2), jnp.zeros((4, 1)), r"\(4, 2\), got \(4, 1\)"),
    "grey for RGB": ((2, 4, 4, 3), jnp.zeros((2, 4, 4, 1)), r"\(2, 4, 4, 3\), got \(2, 4, 4, 1\)"),
    "no batch": ((2, 4, 4, 3), jnp.zeros((4, 4, 3)), "batch axis is missing"),
    "no coordinates": ((4, 2), jnp.zeros(4), r"got \(4,\)"),
    "a scalar": ((4, 2), jnp.zeros(()), r"got \(\)"),
    "one example": ((4, 2), jnp.zeros((1, 2)), r"got \(1, 2\)"),
    "one more axis": ((4, 2), jnp.zeros((1, 4, 2)), r"got \(1, 4, 2\)"),
    "variances too": ((2, 4, 4, 3), jnp.zeros((2, 4, 4, 6)), "first half of its channels"),
    "a pair": ((4, 2), (X, {}), "got a tuple of 2.*mutable"),
    "a tuple of 1": ((4, 2), (X,), "got a tuple of 1"),
    "a list": ((4, 2), [0.0, 0.0], "got a list of 2"),
    "a dict": ((4, 2), {"sample": X}, "got a dict"),
    "a number": ((4, 2), 0.0, "got a float"),
    "nothing": ((4, 2), None, "got a NoneType"),
}


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("name", WRONG)
def test_an_output_of_another_shape_is_an_error(name, kind):
    shape, output, match = WRONG[name]
    x = jnp.ones(shape)
    denoise_fn = jaxddim.as_denoiser(SCHEDULE, lambda x, index: output, kind=kind)
    convert = getattr(jaxddim, f"from_{kind}")
    for call in (
        lambda: denoise_fn(x, 5),
        lambda: jax.eval_shape(denoise_fn, x, jnp.int32(5)),
        lambda: convert(SCHEDULE, x, output, 5),
    ):
        with pytest.raises(ValueError, match=match):
            call()


DENOISERS = {
    "a network": (lambda x, t: x, "must return a Prediction"),
    "one coordinate": (lambda x, t: jaxddim.Prediction(x[:, :1], x[:, :1]), r"got \(4, 1\)"),
    "one wide eps": (lambda x, t: jaxddim.Prediction(x, x[:1]), "eps must have the shape"),
    "numbers": (lambda x, t: jaxddim.Prediction(x, 0.0), "eps must be one array"),
    "three": (lambda x, t: (x, x, x), "must return a Prediction"),
    "no function": (SCHEDULE, "denoise_fn must be a function"),
}


@pytest.mark.parametrize("function", with_denoiser(None))
@pytest.mark.parametrize("name", DENOISERS)
def test_a_denoiser_that_returns_no_prediction_is_an_error(name, function):
    wrong, match = DENOISERS[name]
    if name != "no function":
        inner = wrong
        wrong = lambda x, t: inner(x.reshape(-1, 2)[:4], t)  # noqa: E731
    with pytest.raises(ValueError, match=match):
        with_denoiser(wrong)[function]()


@pytest.mark.parametrize("function", with_denoiser(None))
def test_a_pair_that_is_no_named_tuple_will_do(function):
    run = with_denoiser(lambda x, t: tuple(DENOISE(x, t)))[function]
    jax.tree.map(np.testing.assert_array_equal, run(), with_denoiser(DENOISE)[function]())


SHORT = jaxddim.Prediction(X[:, :1], X[:, :1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: jaxddim.ddim_step(SCHEDULE, X, X, 5, 4),
        lambda: jaxddim.ddim_step(SCHEDULE, X, jaxddim.Prediction(X, X[:, :1]), 5, 4),
        lambda: jaxddim.ddpm_step(SCHEDULE, X, SHORT, 5, 4),
        lambda: jaxddim.langevin_step(SCHEDULE, X, SHORT, 5, snr=0.1),
        lambda: jaxddim.clip(SCHEDULE, X, SHORT, 5),
        lambda: jaxddim.threshold(SCHEDULE, X, SHORT, 5),
        lambda: jaxddim.threshold(SCHEDULE, X[0], jaxddim.Prediction(X[0], X[0]), 5),
        lambda: jaxddim.diffusion_loss(SCHEDULE, X[:, :1], X, 5, X),
        lambda: jaxddim.diffusion_loss(SCHEDULE, (X, {}), X, 5, X),
        lambda: discrete.step(SCHEDULE, TOKENS, (LOGITS, {}), 5, 4),
        lambda: discrete.step(SCHEDULE, TOKENS, LOGITS[..., 0], 5, 4),
        lambda: discrete.as_denoiser(lambda x, index: LOGITS[:1])(TOKENS, 5),
        lambda: discrete.as_denoiser(lambda x, index: (LOGITS, {}))(TOKENS, 5),
        lambda: discrete.sample(
            KEY, lambda x, t: (LOGITS, {}), SCHEDULE, GRID, (4, 2), num_classes=3
        ),
    ],
)
def test_steps_and_losses_take_predictions_of_the_images_shape(call):
    with pytest.raises(ValueError, match=r"shape|axis of K|one array|Prediction"):
        call()


@pytest.mark.parametrize(
    "make", [functools.partial(jaxddim.as_denoiser, SCHEDULE), discrete.as_denoiser]
)
@pytest.mark.parametrize("network", [None, X, MLP(), MLP().apply, 3])
def test_a_network_without_its_variables_is_an_error(make, network):
    with pytest.raises(ValueError, match=r"function \(x, index\) -> output"):
        make(network)


def test_a_bound_network_is_a_function():
    model = MLP(features=(4,))
    variables = model.init(KEY, X, jnp.zeros(4, jnp.int32))
    pair = jaxddim.as_denoiser(SCHEDULE, model.bind(variables))(X, 5)
    same = jaxddim.as_denoiser(SCHEDULE, lambda x, i: model.apply(variables, x, i))(X, 5)
    np.testing.assert_array_equal(pair.x0, same.x0)


NOT_A_SCHEDULE = [np.linspace(1e-4, 0.02, 20), 1000, None, GRID, DENOISE]


@pytest.mark.parametrize("wrong", NOT_A_SCHEDULE, ids=["betas", "T", "None", "grid", "denoiser"])
@pytest.mark.parametrize(
    "call",
    [
        lambda s: jaxddim.q_sample(s, X, 5, X),
        lambda s: jaxddim.q_step(s, X, 5, X),
        lambda s: jaxddim.q_posterior(s, X, X, 5, 4),
        lambda s: jaxddim.from_eps(s, X, X, 5),
        lambda s: jaxddim.from_score(s, X, X, 5),
        lambda s: jaxddim.target("eps", s, X, X, 5),
        lambda s: jaxddim.clip(s, X, PAIR, 5),
        lambda s: jaxddim.as_denoiser(s, lambda x, index: x, kind="v"),
        lambda s: jaxddim.ddim_step(s, X, PAIR, 5, 4),
        lambda s: jaxddim.ddpm_step(s, X, PAIR, 5, 4),
        lambda s: jaxddim.langevin_step(s, X, PAIR, 5, snr=0.1),
        lambda s: jaxddim.integrate(KEY, DENOISE, s, GRID, X),
        lambda s: jaxddim.sample(KEY, DENOISE, s, GRID, X.shape),
        lambda s: jaxddim.encode(DENOISE, s, GRID, X),
        lambda s: jaxddim.decode(DENOISE, s, GRID, X),
        lambda s: jaxddim.zero_terminal_snr(s),
        lambda s: jaxddim.diffusion_loss(s, X, X, 5, X),
        lambda s: likelihood.variational_bound(KEY, DENOISE, s, GRID, X),
        lambda s: likelihood.ode_log_likelihood(KEY, DENOISE, s, GRID, X),
        lambda s: discrete.q_sample(KEY, s, TOKENS, 5, num_classes=3),
        lambda s: discrete.q_marginal(s, LOGITS, 5),
        lambda s: discrete.step(s, TOKENS, LOGITS, 5, 4),
        lambda s: discrete.sample(KEY, spell, s, GRID, (4, 2), num_classes=3),
    ],
)
def test_what_is_no_schedule_is_an_error(call, wrong):
    with pytest.raises(ValueError, match="schedule must be a Schedule, such as"):
        call(wrong)


# -- keys ----------------------------------------------------------------------------

WITH_KEYS = {
    "integrate": lambda key: jaxddim.integrate(key, DENOISE, SCHEDULE, GRID, X, step=STEP)[0],
    "sample": lambda key: jaxddim.sample(key, DENOISE, SCHEDULE, GRID, X.shape, step=STEP),
    "bound": lambda key: likelihood.variational_bound(key, DENOISE, SCHEDULE, GRID, X).total,
    "ode": lambda key: likelihood.ode_log_likelihood(
        key, DENOISE, SCHEDULE, GRID, X, probe="gaussian"
    ),
    "bits": lambda key: likelihood.ode_bits_per_dim(key, DENOISE, SCHEDULE, GRID, X),
    "discrete": lambda key: discrete.sample(key, spell, SCHEDULE, GRID, (4, 2), num_classes=3),
}
WITH_A_KEY = WITH_KEYS | {
    "q_sample": lambda key: discrete.q_sample(key, SCHEDULE, TOKENS, 15, num_classes=3),
    "create_state": lambda key: jaxddim.create_state(
        key, MLP(features=(4,), time_dim=4), optax.sgd(1.0), (2,)
    ).params["output"]["kernel"],
}


@pytest.mark.parametrize("function", WITH_A_KEY)
@pytest.mark.parametrize(
    "wrong",
    [0, None, "0", 1.5, X, np.uint32(3), jnp.zeros(3, jnp.uint32), jnp.zeros((), jnp.int32)],
    ids=str,
)
def test_what_is_no_key_is_an_error(wrong, function):
    with pytest.raises(ValueError, match="key must be a random key, such as"):
        WITH_A_KEY[function](wrong)


@pytest.mark.parametrize("function", WITH_A_KEY)
@pytest.mark.parametrize("number", [(1,), (3,), (5,), (4, 1), (1, 4), (0,)])
def test_another_number_of_keys_than_examples_is_an_error(number, function):
    with pytest.raises(ValueError, match="single random key"):
        WITH_A_KEY[function](jax.random.split(KEY, number))


@pytest.mark.parametrize("function", WITH_KEYS)
def test_a_key_for_each_example_is_the_key_that_is_folded(function):
    keys = checks.example_keys(KEY, 4)
    np.testing.assert_array_equal(WITH_KEYS[function](keys), WITH_KEYS[function](KEY))


# -- grids ---------------------------------------------------------------------------

WITH_A_GRID = {
    "sample": lambda grid: jaxddim.sample(KEY, DENOISE, SCHEDULE, grid, X.shape),
    "decode": lambda grid: jaxddim.decode(DENOISE, SCHEDULE, grid, X),
    "encode": lambda grid: jaxddim.encode(DENOISE, SCHEDULE, grid, X),
    "interpolate": lambda grid: jaxddim.interpolate(DENOISE, SCHEDULE, grid, X, X, jnp.ones(2)),
    "bound": lambda grid: likelihood.variational_bound(KEY, DENOISE, SCHEDULE, grid, X),
    "ode": lambda grid: likelihood.ode_log_likelihood(KEY, DENOISE, SCHEDULE, grid, X),
    "bits": lambda grid: likelihood.ode_bits_per_dim(KEY, DENOISE, SCHEDULE, grid, X),
    "discrete": lambda grid: discrete.sample(KEY, spell, SCHEDULE, grid, (4, 2), num_classes=3),
    "integrate": lambda grid: jaxddim.integrate(KEY, DENOISE, SCHEDULE, grid, X),
}
FOR_NO_ONE = {
    "of another schedule": ([1000, 500, 0], r"0\.\.20"),
    "to -1": ([15, 10, 5, -1], r"0\.\.20.*ends the grid"),
    "of floats": ([20.0, 10.0, 0.0], "whole numbers, got float"),
    "of halves": ([20, 10.5, 0], "whole numbers, got float"),
    "of truths": ([True, True, False], "whole numbers, got bool"),
    "of one time": ([20], "vector"),
    "of none": ([], "vector"),
    "a number": (20, "vector"),
    "in rows": ([[20, 10, 0]], "vector"),
}
FOR_NO_SAMPLER = {
    "rising": ([0, 10, 20], "end in 0"),
    "rising in between": ([20, 5, 10, 0], "decrease"),
    "without the 0": ([20, 10, 5], "end in 0"),
    "that is clean twice": ([20, 10, 0, 0], "reach 0 only at the end"),
    "that comes back": ([20, 10, 0, 10, 0], "decrease"),
}


@pytest.mark.parametrize("make", [list, np.array, jnp.array], ids=["list", "numpy", "jax"])
@pytest.mark.parametrize("function", WITH_A_GRID)
@pytest.mark.parametrize("name", FOR_NO_ONE | FOR_NO_SAMPLER)
def test_an_impossible_grid_is_an_error(name, function, make):
    grid, match = (FOR_NO_ONE | FOR_NO_SAMPLER)[name]
    if np.ndim(grid) == 0 and make is list:
        make = int
    if function == "integrate" and name in FOR_NO_SAMPLER:
        assert np.all(np.isfinite(WITH_A_GRID[function](make(grid))[0]))
        return
    with pytest.raises(ValueError, match=match):
        WITH_A_GRID[function](make(grid))


@pytest.mark.parametrize("function", WITH_A_GRID)
def test_a_traced_grid_passes_and_a_traced_float_does_not(function):
    jax.eval_shape(WITH_A_GRID[function], jnp.array([20, 5, 10]))
    with pytest.raises(ValueError, match="whole numbers"):
        jax.eval_shape(WITH_A_GRID[function], jnp.array([20.0, 10.0, 0.0]))


def test_a_grid_of_a_sampler_may_stay_and_one_of_a_likelihood_may_not():
    grid = [20, 20, 10, 0]
    np.testing.assert_allclose(
        WITH_A_GRID["sample"](grid), WITH_A_GRID["sample"]([20, 10, 0]), atol=1e-6
    )
    with pytest.raises(ValueError, match="decrease"):
        WITH_A_GRID["bound"](grid)


# -- times ---------------------------------------------------------------------------

WITH_TIMES = {
    "scales": SCHEDULE.scales,
    "log_snr_at": SCHEDULE.log_snr_at,
    "q_sample": lambda t: jaxddim.q_sample(SCHEDULE, X, t, X),
    "q_step": lambda t: jaxddim.q_step(SCHEDULE, X, t, X),
    "q_posterior": lambda t: jaxddim.q_posterior(SCHEDULE, X, X, t, 0),
    "q_posterior's s": lambda s: jaxddim.q_posterior(SCHEDULE, X, X, 20, s),
    "from_eps": lambda t: jaxddim.from_eps(SCHEDULE, X, X, t),
    "from_x0": lambda t: jaxddim.from_x0(SCHEDULE, X, X, t),
    "from_v": lambda t: jaxddim.from_v(SCHEDULE, X, X, t),
    "from_score": lambda t: jaxddim.from_score(SCHEDULE, X, X, t),
    "target": lambda t: jaxddim.target("eps", SCHEDULE, X, X, t),
    "clip": lambda t: jaxddim.clip(SCHEDULE, X, PAIR, t),
    "threshold": lambda t: jaxddim.threshold(SCHEDULE, X, PAIR, t),
    "as_denoiser": lambda t: DENOISE(X, t),
    "ddim_step": lambda t: jaxddim.ddim_step(SCHEDULE, X, PAIR, t, 0),
    "ddim_step's s": lambda s: jaxddim.ddim_step(SCHEDULE, X, PAIR, 20, s),
    "ddpm_step": lambda t: jaxddim.ddpm_step(SCHEDULE, X, PAIR, t, 0),
    "ddpm_step's s": lambda s: jaxddim.ddpm_step(SCHEDULE, X, PAIR, 20, s),
    "langevin_step": lambda t: jaxddim.langevin_step(SCHEDULE, X, PAIR, t, snr=0.1),
    "diffusion_loss": lambda t: jaxddim.diffusion_loss(SCHEDULE, X, X, t, X),
    "mixture": lambda t: discrete.mixture(SCHEDULE, t, 0),
    "mixture's s": lambda s: discrete.mixture(SCHEDULE, 20, s),
    "q_marginal": lambda t: discrete.q_marginal(SCHEDULE, LOGITS, t),
    "discrete.q_sample": lambda t: discrete.q_sample(KEY, SCHEDULE, TOKENS, t, num_classes=3),
    "discrete.q_posterior": lambda t: discrete.q_posterior(SCHEDULE, LOGITS, LOGITS, t, 0),
    "discrete.step": lambda t: discrete.step(SCHEDULE, TOKENS, LOGITS, t, 0),
    "kl_loss": lambda t: discrete.kl_loss(SCHEDULE, LOGITS, TOKENS, TOKENS, t, 0),
    "discrete.as_denoiser": discrete.as_denoiser(lambda x, index: LOGITS).__call__,
}
WITH_TIMES["discrete.as_denoiser"] = functools.partial(
    lambda fn, t: fn(TOKENS, t), discrete.as_denoiser(lambda x, index: LOGITS)
)
MAKE = {
    "int": int,
    "numpy": np.int64,
    "jax": jnp.int32,
    "list": lambda t: [5, 5, 5, t],
    "array": lambda t: np.array([5, t, 5, 5]),
    "jax array": lambda t: jnp.array([t, 5, 5, 5]),
}


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("function", WITH_TIMES)
def test_a_time_outside_the_schedule_is_an_error(function, make):
    for t in (-1, 21):
        if t > 0 and function == "discrete.as_denoiser":  # it knows no schedule
            continue
        with pytest.raises(ValueError, match=r"must be at least|must lie in"):
            WITH_TIMES[function](MAKE[make](t))
    with pytest.raises(ValueError, match="whole numbers"):
        WITH_TIMES[function](np.asarray(MAKE[make](5)) * 1.0)
    WITH_TIMES[function](MAKE[make](5))


NEEDS_NOISE = ["q_step", "q_posterior", "ddpm_step", "mixture", "discrete.step", "kl_loss"]


@pytest.mark.parametrize("function", NEEDS_NOISE)
def test_a_step_that_starts_from_clean_images_is_an_error(function):
    with pytest.raises(ValueError, match="at least 1"):
        WITH_TIMES[function](0)
    with pytest.raises(ValueError, match="at least 1"):
        jaxddim.target("score", SCHEDULE, X, X, jnp.array([1, 0, 1, 1]))


@pytest.mark.parametrize(
    "call",
    [
        lambda t, s: jaxddim.q_posterior(SCHEDULE, X, X, t, s),
        lambda t, s: jaxddim.ddpm_step(SCHEDULE, X, PAIR, t, s),
        lambda t, s: jaxddim.ddim_step(SCHEDULE, X, PAIR, t, s, eta=0.5),
        lambda t, s: discrete.mixture(SCHEDULE, t, s),
        lambda t, s: discrete.step(SCHEDULE, TOKENS, LOGITS, t, s),
    ],
)
def test_a_random_step_towards_more_noise_is_an_error(call):
    for t, s in ((5, 6), (jnp.array([9, 9, 9, 5]), 6), ([5, 9, 9, 9], np.array([6, 1, 1, 1]))):
        with pytest.raises(ValueError, match="s must not be above t"):
            call(t, s)
    jax.eval_shape(call, 5, 6)
    jaxddim.ddim_step(SCHEDULE, X, PAIR, 5, 6)  # encodes


# -- classes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda x: discrete.q_sample(KEY, SCHEDULE, x, 5, num_classes=3),
        lambda x: discrete.step(SCHEDULE, x, LOGITS, 5, 4),
        lambda x: discrete.kl_loss(SCHEDULE, LOGITS, x, TOKENS, 5, 4),
        lambda x: discrete.kl_loss(SCHEDULE, LOGITS, TOKENS, x, 5, 4),
    ],
)
def test_a_class_that_is_none_of_them_is_an_error(call):
    for value in (-1, 3):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            call(TOKENS.at[1, 1].set(value))
    with pytest.raises(ValueError, match="whole numbers"):
        call(TOKENS * 1.0)
    call(TOKENS + 2)
    jax.eval_shape(call, TOKENS - 1)


# -- interpolation -------------------------------------------------------------------


@pytest.mark.parametrize(
    "z0, z1, weight, match",
    [
        (X[0], X[1], 0.5, r"z\[None\]"),
        (X[0, 0], X[0, 0], 0.5, r"z\[None\]"),
        (X, X[:1], 0.5, "one shape"),
        (X, X[0], 0.5, "one shape"),
        (X, X, jnp.ones(3), "weight must be"),
        (X, X, jnp.ones(1), "weight must be"),
        (X, X, jnp.ones((4, 1)), "weight must be"),
    ],
)
def test_noises_that_cannot_be_interpolated_are_an_error(z0, z1, weight, match):
    with pytest.raises(ValueError, match=match):
        jaxddim.slerp(z0, z1, weight)
    if jnp.ndim(weight) == 0:
        with pytest.raises(ValueError, match=match):
            jaxddim.interpolate(DENOISE, SCHEDULE, GRID, z0, z1, jnp.ones(2))
