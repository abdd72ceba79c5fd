"""Valid input makes no NaN, forward and backward: `jax_debug_nans` finds those of users alone."""

import functools
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim import discrete, likelihood
from tests.precision import MLP, training

SCHEDULES = {
    "cosine": jaxddim.cosine(20),
    "zero terminal SNR": jaxddim.zero_terminal_snr(jaxddim.cosine(20)),
}
TIMES = {
    "each its own": (jnp.array([20, 7, 1]), jnp.array([9, 6, 0])),
    "from T to 0": (20, 0),
    "from 1 to 0": (1, 0),
}
X, Y = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4)).astype(np.float32)
TOKENS, LOGITS = np.ones((3, 4), np.int32), np.ones((3, 4, 5), np.float32)
GRID, KEY = jaxddim.timesteps(20, 3), jax.random.key(0)


def from_v(schedule, x, t):
    return jaxddim.from_v(schedule, x, 0.1 * x, t)


def loss(kind, norm, weighting):
    return lambda schedule, x, t, s: jaxddim.diffusion_loss(
        schedule, 0.1 * x, Y, t, x, kind=kind, norm=norm, weighting=weighting
    )


def step(function, **options):
    return lambda schedule, x, t, s: function(schedule, x, from_v(schedule, x, t), t, s, **options)


ONE_STEP = (
    {
        "scales": lambda schedule, x, t, s: (x, schedule.scales(np.arange(21)), schedule.scales(s)),
        "alpha_bar": lambda schedule, x, t, s: (x, schedule.alpha_bar),
        "q_sample": lambda schedule, x, t, s: jaxddim.q_sample(schedule, x, t, Y),
        "q_sample at s": lambda schedule, x, t, s: jaxddim.q_sample(schedule, x, s, Y),
        "q_step": lambda schedule, x, t, s: jaxddim.q_step(schedule, x, t, Y),
        "q_forward": lambda schedule, x, t, s: jaxddim.q_forward(schedule, Y, x, s, t, eta=0.5),
        "loss with a mask": lambda schedule, x, t, s: jaxddim.diffusion_loss(
            schedule, 0.1 * x, Y, t, x, kind="v", mask=np.array([True, False, True])
        ),
        "clip": lambda schedule, x, t, s: jaxddim.clip(schedule, x, from_v(schedule, x, s), s),
        "threshold": lambda schedule, x, t, s: jaxddim.threshold(
            schedule, x, from_v(schedule, x, t), t
        ),
        "langevin_step": step(jaxddim.langevin_step, snr=0.1),
        "ddpm_step, small": step(jaxddim.ddpm_step),
        "ddpm_step, large": step(jaxddim.ddpm_step, variance="large"),
        "ddim_step that stays": lambda schedule, x, t, s: jaxddim.ddim_step(
            schedule, x, from_v(schedule, x, s), s, s, eta=0.5
        ),
        "encoding step": lambda schedule, x, t, s: jaxddim.ddim_step(
            schedule, x, from_v(schedule, x, s), s, t, eta=jnp.float32(0)
        ),
        "a gradient in the schedule": lambda schedule, x, t, s: jaxddim.q_posterior(
            jaxddim.Schedule(schedule.log_snr + 0 * jnp.sum(x)), Y, Y, t, s, eta=0.5
        ),
        "discrete, a gradient in eta": lambda schedule, x, t, s: discrete.kl_loss(
            schedule, LOGITS, TOKENS, 0 * TOKENS, t, s, eta=0 * jnp.sum(x)
        ),
        "loss v huber": loss("v", "huber", jaxddim.min_snr(kind="v")),
        "loss x0 l1": loss("x0", "l1", jaxddim.min_snr(kind="x0")),
        "loss x0 l2": loss("x0", "l2", jaxddim.p2(0.0, kind="x0")),
        "loss eps l2": loss("eps", "l2", jaxddim.p2(kind="eps")),
        "from_x0": lambda schedule, x, t, s: jaxddim.from_x0(schedule, x, x, s),
        "from_v": lambda schedule, x, t, s: jaxddim.from_v(schedule, x, x, t),
    }
    | {
        f"q_posterior, eta={eta!r}": lambda schedule, x, t, s, eta=eta: jaxddim.q_posterior(
            schedule, x, Y, t, s, eta=eta
        )
        for eta in (0.0, 0.5, 1.0, jnp.float32(0))
    }
    | {
        f"ddim_step, eta={eta!r}": step(jaxddim.ddim_step, eta=eta)
        for eta in (0.0, 0.5, 1.0, jnp.float32(0))
    }
    | {
        f"discrete.step, eta={eta}": lambda schedule, x, t, s, eta=eta: jnp.exp(
            discrete.step(schedule, TOKENS, x[..., None] * LOGITS, t, s, eta=eta)
        )
        for eta in (0.0, 0.5, 1.0)
    }
    | {
        f"discrete.kl_loss, eta={eta}": lambda schedule, x, t, s, eta=eta: discrete.kl_loss(
            schedule, x[..., None] * LOGITS, TOKENS, 0 * TOKENS, t, s, eta=eta
        )
        for eta in (0.0, 0.5, 1.0)
    }
)


def solved(step, fn, schedule, x):
    """x_0 by a solver, on a grid by noise level."""
    grid = jaxddim.timesteps(20, 4, spacing="log_snr", schedule=schedule)
    return jaxddim.integrate(KEY, fn, schedule, grid, x, step=step)


def total(tree):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def check(function, x=X):
    """No NaN in the value, nor in the gradient, of each operation of an eager call."""
    with jax.debug_nans(True):
        function(x)
        jax.grad(lambda x: total(function(x)))(jnp.asarray(x))


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ONE_STEP)
def test_no_operation_makes_a_nan(name, schedule, times):
    check(lambda x: ONE_STEP[name](SCHEDULES[schedule], x, *TIMES[times]))


@pytest.mark.parametrize("kind", ["eps", "score"])
@pytest.mark.parametrize("times", TIMES)
def test_no_operation_on_noise_or_score_makes_a_nan(kind, times):
    schedule, (t, s) = SCHEDULES["cosine"], TIMES[times]
    for time in (t, s):
        check(lambda x, t=time: getattr(jaxddim, f"from_{kind}")(schedule, x, 0.1 * x, t))
    check(lambda x: loss(kind, "l2", jaxddim.min_snr(kind=kind))(schedule, x, t, s))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "run",
    [
        lambda fn, schedule, x: jaxddim.integrate(KEY, fn, schedule, GRID, x, keep=2),
        lambda fn, schedule, x: jaxddim.encode(fn, schedule, GRID, x, refine=1),
        lambda fn, schedule, x: solved(jaxddim.heun(churn=0.2), fn, schedule, x),
        lambda fn, schedule, x: solved(jaxddim.dpm_solver_pp_2m(eta=1.0), fn, schedule, x),
        lambda fn, schedule, x: solved(jaxddim.plms(), fn, schedule, x),
        lambda fn, schedule, x: likelihood.variational_bound(KEY, fn, schedule, GRID, x),
        lambda fn, schedule, x: likelihood.ode_log_likelihood(KEY, fn, schedule, GRID, x),
    ],
    ids=[
        "integrate",
        "encode",
        "heun",
        "dpm_solver_pp_2m",
        "plms",
        "variational_bound",
        "ode_log_likelihood",
    ],
)
def test_no_loop_makes_a_nan(run, schedule):
    schedule = SCHEDULES[schedule]
    fn = jaxddim.as_denoiser(schedule, lambda x, index: 0.1 * x, kind="v", clip_x0=False)
    check(lambda x: run(fn, schedule, x))


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6, 1e20, 1e38])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_no_distance_from_the_mean_makes_a_nan(mean, value):
    x0 = jnp.full(X.shape, value)
    std = jnp.float32(0.01)
    check(lambda x: likelihood.discretized_log_prob(jaxddim.Gaussian(mean + x, std), x0))


@pytest.mark.parametrize("other", [X, -X, Y, 0 * X], ids=["same", "opposite", "any", "zero"])
def test_no_angle_makes_a_nan(other):
    check(lambda x: jaxddim.slerp(x, other, 0.3))


@pytest.mark.parametrize("make", [jaxddim.min_snr, jaxddim.p2, functools.partial(jaxddim.p2, 0.0)])
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
def test_no_noise_level_has_a_nan_as_weight(make, kind):
    with jax.debug_nans(True):
        weight = make(kind=kind)(jnp.array([-jnp.inf, -100.0, 0.0, 100.0, jnp.inf]))
    assert np.all(np.isfinite(weight)) and np.all(weight >= 0)


def test_a_training_step_makes_no_nan():
    state, step, batch = training(MLP(features=(4,), time_dim=4), (4, 2), 1, False)
    with jax.debug_nans(True):
        jax.jit(step)(state, batch)


def test_a_nan_of_the_network_is_found_in_the_network():
    schedule, (t, s) = SCHEDULES["cosine"], TIMES["each its own"]

    def users(x, index):
        return jnp.log(x - 9)

    fn = jaxddim.as_denoiser(schedule, users)

    def step(x):
        return jaxddim.ddim_step(schedule, x, fn(x, t), t, s, eta=0.5)

    def loss(x):
        x_t = jaxddim.q_sample(schedule, x, t, Y)
        return jaxddim.diffusion_loss(schedule, users(x_t, t), x, t, Y)

    for function in (step, jax.jit(step), loss, jax.jit(loss)):
        with jax.debug_nans(True), pytest.raises(FloatingPointError) as found:
            function(X)
        frames = [f for f in traceback.extract_tb(found.value.__traceback__) if "jax/" not in f[0]]
        assert "users" in [frame.name for frame in frames]
        assert not [frame for frame in frames if "numerics" in frame.filename]


def test_traced_times_outside_the_schedule_are_still_nan_in_results_and_gradients():
    schedule, t = SCHEDULES["cosine"], jnp.array([-1, 20, 21])
    run = lambda x, t: jaxddim.q_sample(schedule, x, t, Y)  # noqa: E731
    grad = jax.grad(lambda x, t: jnp.sum(run(x, t)))
    for function in (run, grad):
        got = jax.jit(function)(jnp.asarray(X), t)
        assert np.isnan(got).all(1).tolist() == [True, False, True]
        assert np.isnan(got).any(1).tolist() == [True, False, True]
