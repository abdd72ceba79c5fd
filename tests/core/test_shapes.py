"""Arrays that would broadcast to a result that nobody asked for are errors, as a table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim import Gaussian, Prediction, Solver, discrete

SCHEDULE = jaxddim.cosine(20)
X = jnp.ones((4, 2))
PAIR = Prediction(X, X)
VALUES = jnp.zeros((4, 2), jnp.int32)
CHANCES = jnp.full((4, 2, 3), 1 / 3)
OTHERS = {"column": X[:, :1], "row": X[:1], "vector": X[0], "transposed": X.T}

TWO_ARRAYS = {
    "q_sample": lambda y: jaxddim.q_sample(SCHEDULE, X, 5, y),
    "q_step": lambda y: jaxddim.q_step(SCHEDULE, X, 5, y),
    "q_posterior": lambda y: jaxddim.q_posterior(SCHEDULE, X, y, 5, 3),
    "q_forward": lambda y: jaxddim.q_forward(SCHEDULE, X, y, 3, 5, eta=0.5),
    "target eps": lambda y: jaxddim.target("eps", SCHEDULE, X, y, 5),
    "target v": lambda y: jaxddim.target("v", SCHEDULE, X, y, 5),
    "from_eps": lambda y: jaxddim.from_eps(SCHEDULE, X, y, 5),
    "ddim_step": lambda y: jaxddim.ddim_step(SCHEDULE, X, Prediction(y, y), 5, 3),
    "ddpm_step": lambda y: jaxddim.ddpm_step(SCHEDULE, X, Prediction(y, y), 5, 3),
    "langevin_step": lambda y: jaxddim.langevin_step(SCHEDULE, X, Prediction(y, y), 5, snr=0.1),
    "clip": lambda y: jaxddim.clip(SCHEDULE, X, Prediction(y, y), 5),
    "threshold": lambda y: jaxddim.threshold(SCHEDULE, X, Prediction(y, y), 5),
    "diffusion_loss": lambda y: jaxddim.diffusion_loss(SCHEDULE, X, X, 5, y),
    "slerp": lambda y: jaxddim.slerp(X, y, 0.5),
    "step that returns it": lambda y: jaxddim.integrate(
        jax.random.key(0),
        lambda x, t: PAIR,
        SCHEDULE,
        [5, 0],
        X,
        step=lambda *_: Gaussian(y, np.zeros((), np.float32)),
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", TWO_ARRAYS)
def test_arrays_of_two_shapes_are_an_error(name, other):
    with pytest.raises(ValueError, match="shape"):
        TWO_ARRAYS[name](OTHERS[other])


TIMES = {
    "q_sample": lambda t: jaxddim.q_sample(SCHEDULE, X, t, X),
    "q_step": lambda t: jaxddim.q_step(SCHEDULE, X, t, X),
    "q_posterior": lambda t: jaxddim.q_posterior(SCHEDULE, X, X, t, 0),
    "q_forward": lambda t: jaxddim.q_forward(SCHEDULE, X, X, 0, t, eta=0.5),
    "target": lambda t: jaxddim.target("v", SCHEDULE, X, X, t),
    "from_eps": lambda t: jaxddim.from_eps(SCHEDULE, X, X, t),
    "from_x0": lambda t: jaxddim.from_x0(SCHEDULE, X, X, t),
    "clip": lambda t: jaxddim.clip(SCHEDULE, X, PAIR, t),
    "ddim_step": lambda t: jaxddim.ddim_step(SCHEDULE, X, PAIR, t, 0),
    "ddpm_step": lambda t: jaxddim.ddpm_step(SCHEDULE, X, PAIR, t, 0),
    "langevin_step": lambda t: jaxddim.langevin_step(SCHEDULE, X, PAIR, t, snr=0.1),
    "diffusion_loss": lambda t: jaxddim.diffusion_loss(SCHEDULE, X, X, t, X),
    "discrete.q_marginal": lambda t: discrete.q_marginal(SCHEDULE, CHANCES, t),
    "discrete.q_sample": lambda t: discrete.q_sample(
        jax.random.key(0), SCHEDULE, VALUES, t, num_classes=3
    ),
    "discrete.q_posterior": lambda t: discrete.q_posterior(SCHEDULE, CHANCES, CHANCES, t, 0),
}


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (4, 1), (4, 2), (1, 4)])
@pytest.mark.parametrize("name", TIMES)
def test_times_are_one_or_one_for_each_example(name, shape):
    with pytest.raises(ValueError, match="one for each of the 4 examples"):
        TIMES[name](np.full(shape, 5))


@pytest.mark.parametrize("name", TIMES)
def test_the_times_that_fit_pass_also_in_a_list(name):
    TIMES[name](5)
    for times in ([5, 4, 3, 2], (5, 4, 3, 2), np.arange(2, 6), jnp.arange(2, 6)):
        TIMES[name](times)


@pytest.mark.parametrize("eta", [np.array([0.5]), jnp.full(4, 0.5), [0.1, 0.2]])
def test_eta_is_a_single_number(eta):
    for call in (
        lambda: jaxddim.ddim_step(SCHEDULE, X, PAIR, 5, 3, eta=eta),
        lambda: jaxddim.q_posterior(SCHEDULE, X, X, 5, 3, eta=eta),
        lambda: jaxddim.q_forward(SCHEDULE, X, X, 3, 5, eta=eta),
        lambda: jaxddim.dpm_solver_pp_2m(eta=eta),
        lambda: discrete.q_posterior(SCHEDULE, CHANCES, CHANCES, 5, 3, eta=eta),
    ):
        with pytest.raises(ValueError, match="eta must be a single number"):
            call()


ZERO = {
    "jsd": jaxddim.jsd(10),
    "rescaled": jaxddim.zero_terminal_snr(jaxddim.cosine(10)),
}


@pytest.mark.parametrize("name", ZERO)
@pytest.mark.parametrize("convert", [jaxddim.from_eps, jaxddim.from_score])
def test_eps_says_nothing_of_the_image_where_alpha_is_0(name, convert):
    schedule = ZERO[name]
    with pytest.raises(ValueError, match='use kind="v"'):
        convert(schedule, X, X, 10)
    assert np.isfinite(convert(schedule, X, X, 9).x0).all()


def heun(denoise_fn, schedule, x, t, s, memory):
    pair = denoise_fn(x, t)
    ahead = jaxddim.ddim_step(schedule, x, pair, t, s).mean
    eps = (pair.eps + denoise_fn(ahead, s).eps) / 2
    slope = jaxddim.from_eps(schedule, x, eps, t)
    return jaxddim.ddim_step(schedule, x, slope, t, s), pair, memory


C = 0.5  # standard deviation of the data
TARGETS = {
    "eps": lambda alpha, sigma, x: sigma * x / (alpha**2 * C**2 + sigma**2),
    "x0": lambda alpha, sigma, x: alpha * C**2 * x / (alpha**2 * C**2 + sigma**2),
    "v": lambda alpha, sigma, x: alpha * sigma * (1 - C**2) * x / (alpha**2 * C**2 + sigma**2),
    "score": lambda alpha, sigma, x: -x / (alpha**2 * C**2 + sigma**2),
}


def exact(schedule, kind, **options):
    """The best denoiser of data N(0, C^2)."""

    def network(x, index):
        return TARGETS[kind](*schedule.scales(index + 1, x.ndim), x)

    return jaxddim.as_denoiser(schedule, network, kind=kind, **options)


@pytest.mark.parametrize("clip_x0", [False, True])
@pytest.mark.parametrize("kind", TARGETS)
def test_at_time_0_the_pair_is_the_image_and_the_eps_of_time_1(kind, clip_x0):
    schedule, x = jaxddim.linear(), jnp.linspace(-0.9, 0.9, 8).reshape(4, 2)
    pair = exact(schedule, kind, clip_x0=clip_x0)(x, 0)
    np.testing.assert_array_equal(pair.x0, x)
    sigma = schedule.scales(1)[1]
    np.testing.assert_allclose(pair.eps, sigma * x / C**2, rtol=0.02, atol=1e-5)
    mixed = exact(schedule, kind, clip_x0=clip_x0)(x, jnp.array([0, 1, 500, 0]))
    np.testing.assert_array_equal(mixed.x0[::3], x[::3])


@pytest.mark.parametrize("kind", TARGETS)
def test_heuns_method_is_right_to_the_last_step(kind):
    schedule = jaxddim.linear()
    x_T = jnp.linspace(-2, 2, 8).reshape(4, 2)
    alpha, sigma = schedule.scales(1000)
    expected = C * x_T / jnp.sqrt(alpha**2 * C**2 + sigma**2)  # the path keeps its quantile

    def error(step, S):
        grid, denoise_fn = jaxddim.timesteps(1000, S), exact(schedule, kind, clip_x0=False)
        key = jax.random.key(0)
        x, _ = jaxddim.integrate(key, denoise_fn, schedule, grid, x_T, step=step)
        return float(jnp.abs(x - expected).max())

    solver = Solver(lambda x: (), heun)
    assert error(solver, 50) < 0.2 * error(jaxddim.ddim_step, 50)
    assert error(solver, 50) < 2e-3


SOLVERS = {
    "no function": (Solver(None, heun), "init of a Solver must be a function"),
    "init of no argument": (Solver(lambda: (), heun), "init of a Solver must be a function"),
    "a step's arguments": (Solver(lambda x: (), jaxddim.ddim_step), "step of a Solver must be"),
    "a solver's step alone": (heun, "step must be a function such as ddim_step, or a Solver"),
    "two results": (Solver(lambda x: (), lambda *a: heun(*a)[:2]), "step of a Solver must be"),
    "an array": (lambda *_: X, r"a step must return Gaussian\(mean, std\)"),
    "a vector of stds": (lambda *_: Gaussian(X, jnp.ones(4)), "the std of a step's Gaussian"),
    "another memory": (
        Solver(lambda x: jnp.zeros(3), lambda *a: (*heun(*a)[:2], jnp.zeros(4))),
        "memory of the shapes",
    ),
    "no pair": (Solver(lambda x: (), lambda *a: (heun(*a)[0], X, ())), "must return a Prediction"),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_of_another_form_is_an_error(name):
    step, match = SOLVERS[name]
    with pytest.raises(ValueError, match=match):
        jaxddim.sample(
            jax.random.key(0), exact(SCHEDULE, "eps"), SCHEDULE, [20, 10, 0], (4, 2), step=step
        )


@pytest.mark.parametrize("shape", [4, (), (-1, 2), (2.0, 2), (0, 2)])
def test_an_impossible_shape_is_an_error(shape):
    with pytest.raises(ValueError, match=r"shape must be \[b, \*d\]"):
        jaxddim.sample(jax.random.key(0), exact(SCHEDULE, "eps"), SCHEDULE, [20, 0], shape)


def test_clipping_is_told_where_the_path_of_the_network_is_followed():
    clipped, grid = exact(SCHEDULE, "v"), jaxddim.timesteps(20, 5)
    key = jax.random.key(0)
    for call in (
        lambda fn: jaxddim.encode(fn, SCHEDULE, grid, X),
        lambda fn: jaxddim.encode(fn, SCHEDULE, grid, X, refine=1),
        lambda fn: jaxddim.likelihood.ode_log_likelihood(key, fn, SCHEDULE, grid, X),
        lambda fn: jaxddim.likelihood.ode_bits_per_dim(key, fn, SCHEDULE, grid, X),
    ):
        with pytest.warns(UserWarning, match="clip_x0=False"):
            call(clipped)
        call(exact(SCHEDULE, "v", clip_x0=False))


@pytest.mark.parametrize("weighting", [jaxddim.min_snr, "min_snr", 2.0, lambda _: jnp.ones((3, 1))])
def test_a_weighting_is_a_function_of_log_snr(weighting):
    if weighting is jaxddim.min_snr:
        weighting = functools.partial(weighting, kind="v")  # a function of gamma
    with pytest.raises(ValueError, match="weighting must be None or a function of log_snr"):
        jaxddim.diffusion_loss(SCHEDULE, X, X, jnp.full(4, 5), X, weighting=weighting)
