"""The sampling loop: its noise, its snapshots, and JAX's transformations of it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import lax

import jaxddim

SCHEDULE = jaxddim.cosine(20)
GRID = jaxddim.timesteps(20, 6)
SHAPE = (3, 2, 2, 1)
KEY = jax.random.key(0)
DDIM = jaxddim.ddim_step
DDIM_1 = functools.partial(DDIM, eta=1.0)
STEPS = [DDIM, functools.partial(DDIM, eta=0.5), DDIM_1, jaxddim.ddpm_step]


def network(x, index):
    """Nonlinear, and different at every index and position."""
    index = index.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.tanh(x + 0.1 * index) + 0.2 * jnp.roll(x, 1, axis=1)


DENOISE = jaxddim.as_denoiser(SCHEDULE, network)
X_T = jax.random.normal(jax.random.key(9), SHAPE)


@functools.lru_cache
def compiled(step, keep=0):
    """integrate, as a function of (key, grid, x)."""
    return jax.jit(
        lambda key, grid, x: jaxddim.integrate(
            key, DENOISE, SCHEDULE, grid, x, step=step, keep=keep
        )
    )


@functools.lru_cache
def sampler(step, shape=SHAPE):
    """sample, as a function of (key, grid, first_index)."""
    return jax.jit(
        lambda key, grid=GRID, first_index=0: jaxddim.sample(
            key, DENOISE, SCHEDULE, grid, shape, step=step, first_index=first_index
        )
    )


def pure_noise_step(schedule, x_t, prediction, t, s):
    """Ignores x_t, so that the state after a step is the noise of that step."""
    return jaxddim.Gaussian(0 * x_t, jnp.ones(()))


@pytest.mark.parametrize("step", STEPS)
def test_the_scan_equals_a_python_loop(step):
    x = X_T
    for t, s in zip(GRID[:-1].tolist(), GRID[1:].tolist(), strict=True):
        keys = [jax.random.fold_in(jax.random.fold_in(KEY, i), t) for i in range(SHAPE[0])]
        noise = jnp.stack([jax.random.normal(key, SHAPE[1:]) for key in keys])
        mean, std = step(SCHEDULE, x, DENOISE(x, t), t, s)
        x = mean + std * noise
    scanned, nothing = compiled(step)(KEY, GRID, X_T)
    chex.assert_trees_all_close(scanned, x, atol=1e-5)
    assert nothing is None


def test_every_step_and_every_image_draws_fresh_standard_normal_noise():
    grid = jaxddim.timesteps(20, 20)
    x = jnp.zeros((16, 40))
    _, path = jaxddim.integrate(KEY, DENOISE, SCHEDULE, grid, x, step=pure_noise_step, keep=21)
    noise = np.asarray(path.x[1:]).reshape(20 * 16, 40)
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 0.9  # nothing repeated, between steps or images
    start = jaxddim.sample(
        KEY, DENOISE, SCHEDULE, jnp.array([20, 0]), (16, 40),
        step=lambda schedule, x, *_: jaxddim.Gaussian(x, jnp.zeros(())),
    )  # fmt: skip
    together = np.corrcoef(np.concatenate([start, noise]))[:16, 16:]
    assert np.abs(together).max() < 0.9  # x_T is new as well


@pytest.mark.parametrize("grid", [[7] * 9, [9, 9, 5, 9, 5, 5, 1, 0, 1, 0]])
def test_a_grid_that_stays_at_a_time_or_comes_back_to_it_draws_fresh_noise(grid):
    x = jnp.zeros((4, 60))
    run = functools.partial(jaxddim.integrate, KEY, DENOISE, SCHEDULE, step=pure_noise_step)
    noise = np.asarray(run(jnp.array(grid), x, keep=len(grid))[1].x[1:]).reshape(-1, 60)
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 0.7
    once, _ = run(jnp.array([9, 5]), x)
    same, _ = run(jnp.array([12, 9, 5]), x)
    np.testing.assert_array_equal(once, same)  # the noise of a first visit depends on its time only


def test_a_solver_is_handed_its_own_memory_and_its_grid():
    """A solver that sums up the times that it starts from, with one stay at each and without."""

    def step(denoise_fn, schedule, x, t, s, memory):
        times, count = memory
        stays = count % 2 == 0
        memory = times + t, count + 1
        return (
            jaxddim.Gaussian(x + (t - s) + 100 * (stays & (t != s)), 0.0),
            denoise_fn(x, t),
            memory,
        )

    def finished(denoise_fn, schedule, x, t, s, memory):
        gaussian, pair, memory = step(denoise_fn, schedule, x, t, s, memory)
        return gaussian._replace(mean=jnp.where(s == 0, memory[0], gaussian.mean)), pair, memory

    def init(x):
        return jnp.zeros_like(x), jnp.zeros((), int)

    run = functools.partial(jaxddim.integrate, KEY, DENOISE, SCHEDULE, GRID, 0 * X_T)
    x, _ = run(step=jaxddim.Solver(init, step, stays=1))
    np.testing.assert_array_equal(x, 0 * X_T + 20)  # every stay has s = t
    x, _ = run(step=jaxddim.Solver(init, finished))
    np.testing.assert_array_equal(x, 0 * X_T + sum(GRID.tolist()))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_written_as_a_solver_changes_no_bit(step):
    def solve(denoise_fn, schedule, x, t, s, memory):
        pair = denoise_fn(x, t)
        return step(schedule, x, pair, t, s), pair, memory

    solver = jaxddim.Solver(lambda x: None, solve)
    chex.assert_trees_all_equal(*(compiled(s, keep=4)(KEY, GRID, X_T) for s in (step, solver)))


@pytest.mark.parametrize("step", STEPS)
def test_the_last_step_draws_nothing(step):
    ends = [compiled(step)(jax.random.key(k), GRID[-2:], X_T)[0] for k in range(2)]
    chex.assert_trees_all_equal(*ends)
    chex.assert_trees_all_close(ends[0], DENOISE(X_T, GRID[-2]).x0, atol=1e-6)


def test_image_i_does_not_depend_on_the_size_of_the_batch():
    many, one, seven = (sampler(DDIM_1, (b, 2, 2, 1)) for b in (64, 1, 7))
    many = many(KEY)
    for i in (0, 1, 63):  # a traced index
        chex.assert_trees_all_close(one(KEY, first_index=i)[0], many[i], atol=1e-6)
    chex.assert_trees_all_close(seven(KEY, first_index=7), many[7:14], atol=1e-6)
    static = jaxddim.sample(KEY, DENOISE, SCHEDULE, GRID, (1, 2, 2, 1), step=DDIM_1, first_index=63)
    chex.assert_trees_all_close(static[0], many[63], atol=1e-6)
    flat = np.asarray(many).reshape(64, -1)
    assert len(np.unique(flat.round(4), axis=0)) == 64


@pytest.mark.parametrize("k", [1, 3, 5])
def test_stopping_and_resuming_is_the_whole_run_bit_for_bit(k):
    run = compiled(DDIM_1)
    half, _ = run(KEY, GRID[: k + 1], X_T)
    chex.assert_trees_all_equal(run(KEY, GRID[k:], half), run(KEY, GRID, X_T))


def test_snapshots_are_states_of_the_run_at_their_times():
    x, path = compiled(DDIM_1, keep=3)(KEY, GRID, X_T)
    chex.assert_shape([path.x, path.x0], (3, *SHAPE))
    assert path.t.tolist() == [GRID[0], GRID[3], 0]
    chex.assert_trees_all_equal((path.x[0], path.x[-1], path.x0[-1]), (X_T, x, x))
    half, _ = compiled(DDIM_1)(KEY, GRID[:4], X_T)
    chex.assert_trees_all_close(path.x[1], half, atol=1e-6)
    chex.assert_trees_all_close(path.x0[1], DENOISE(half, GRID[3]).x0, atol=1e-5)
    chex.assert_trees_all_close(path.x0[0], DENOISE(X_T, GRID[0]).x0, atol=1e-5)
    chex.assert_trees_all_close(x, compiled(DDIM_1)(KEY, GRID, X_T)[0], atol=1e-6)


@pytest.mark.parametrize("keep", [1, 2, 4, 7])
def test_any_number_of_snapshots_is_kept_and_no_more(keep):
    run = compiled(DDIM_1, keep)
    x, path = run(KEY, GRID, X_T)
    chex.assert_shape(path.t, (keep,))
    assert np.all(np.diff(path.t) < 0) and path.t[-1] == 0 and (keep == 1 or path.t[0] == 20)
    chex.assert_trees_all_equal(path.x[-1], x)
    jaxpr = jax.make_jaxpr(run.__wrapped__)(KEY, GRID, X_T)
    most = max(keep * X_T.size, SCHEDULE.num_steps + 1)
    assert max(v.aval.size for e in jaxpr.eqns for v in e.outvars) <= most


def test_impossible_requests_are_errors():
    run = functools.partial(jaxddim.integrate, KEY, DENOISE, SCHEDULE)
    for grid in (jnp.array([20]), jnp.array(20), jnp.array([[20, 0]])):
        with pytest.raises(ValueError, match="timesteps"):
            run(grid, X_T)
    for keep in (-1, 8):
        with pytest.raises(ValueError, match="keep"):
            run(GRID, X_T, keep=keep)
    for eta in (1.0004, -0.1):
        with pytest.raises(ValueError, match="eta"):
            run(GRID, X_T, step=functools.partial(DDIM, eta=eta))
    with pytest.raises(ValueError, match="weights"):
        jaxddim.interpolate(DENOISE, SCHEDULE, GRID, X_T, X_T, 0.5)


def test_a_legacy_key_is_the_typed_key_of_the_same_bits():
    legacy = jax.random.key_data(KEY)
    chex.assert_type(legacy, jnp.uint32)
    run = sampler(DDIM_1)
    chex.assert_trees_all_equal(run(legacy), run(KEY))
    assert not np.allclose(run(jax.random.key(1)), run(KEY))


def test_a_bfloat16_network_steps_in_float32():
    """One step of a thousand moves x by less than bfloat16 resolves."""
    linear = jaxddim.linear()
    seen = []

    def apply_fn(x, index):
        seen.append(x.dtype)
        return x.astype(jnp.bfloat16)

    denoise_fn = jaxddim.as_denoiser(linear, apply_fn, clip_x0=False)
    x = jnp.full((1, 1), 0.7, jnp.bfloat16)
    end, _ = jaxddim.integrate(KEY, denoise_fn, linear, jnp.array([500, 499]), x)
    assert seen == [jnp.float32]
    chex.assert_type(end, jnp.float32)
    ab = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[499, 498]]
    v = float(x[0, 0])
    x0 = (v - np.sqrt(1 - ab[0]) * v) / np.sqrt(ab[0])
    exact = np.sqrt(ab[1]) * x0 + np.sqrt(1 - ab[1]) * v
    assert 1e-5 < abs(exact - v) < 2e-3  # a spacing of bfloat16 at 0.7 is 4e-3
    np.testing.assert_allclose(end, exact, atol=1e-6)


def test_jit_vmap_and_a_users_scan_change_nothing():
    run = sampler(DDIM_1).__wrapped__
    keys = jax.random.split(KEY, 3)
    loop = jnp.stack([sampler(DDIM_1)(key) for key in keys])
    with jax.disable_jit():
        chex.assert_trees_all_close(run(keys[0]), loop[0], atol=1e-5)
    chex.assert_trees_all_close(jax.jit(jax.vmap(run))(keys), loop, atol=1e-5)
    scan = jax.jit(lambda keys: lax.scan(lambda carry, key: (carry, run(key)), None, keys)[1])
    chex.assert_trees_all_close(scan(keys), loop, atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
def test_gradients_through_the_sampler_are_those_of_finite_differences(step):
    def end(w):
        denoise_fn = jaxddim.as_denoiser(
            SCHEDULE, lambda x, i: w * network(x, i), clip_x0=False, kind="v"
        )
        return jnp.sum(jaxddim.integrate(KEY, denoise_fn, SCHEDULE, GRID, X_T, step=step)[0])

    end = jax.jit(end)
    grad = jax.jit(jax.grad(end))(0.3)
    difference = (float(end(0.31)) - float(end(0.29))) / 0.02
    np.testing.assert_allclose(grad, difference, rtol=1e-2)


@pytest.mark.parametrize("step", STEPS)
def test_a_schedule_can_be_learned_through_the_sampler(step):
    """The infinite slopes of sqrt at time 0 and at eta = 0 must not reach the gradient."""

    def end(log_snr):
        schedule = jaxddim.Schedule(log_snr)
        denoise_fn = jaxddim.as_denoiser(schedule, network, kind="v")
        return jnp.sum(jaxddim.integrate(KEY, denoise_fn, schedule, GRID, X_T, step=step)[0])

    grad = jax.jit(jax.grad(end))(SCHEDULE.log_snr)
    chex.assert_tree_all_finite(grad)
    assert np.all(grad[GRID[1:-1]] != 0)


def test_one_compile_for_each_length_of_the_grid():
    chex.clear_trace_counter()

    def run(grid):
        return jaxddim.sample(KEY, DENOISE, SCHEDULE, grid, SHAPE, step=DDIM_1)

    jitted = jax.jit(chex.assert_max_traces(run, n=2))
    for spacing in ("linear", "quadratic", "leading", "linspace"):
        jitted(jaxddim.timesteps(20, 5, spacing=spacing))
        jitted(jaxddim.timesteps(20, 4, spacing=spacing))
    with pytest.raises(AssertionError):
        jitted(jaxddim.timesteps(20, 3))


def test_the_sampler_lowers_for_gpu_and_tpu():
    export = jax.export.export(
        jax.jit(lambda seed: sampler(DDIM_1)(jax.random.key(seed))), platforms=("cuda", "tpu")
    )(jax.ShapeDtypeStruct((), jnp.uint32))
    assert export.platforms == ("cuda", "tpu")
    assert export.out_avals[0].shape == SHAPE


def test_slerp_follows_the_arc_at_constant_speed():
    z0, z1 = jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 1.0], [1.0, 3**0.5]])
    for w in (0.0, 1 / 3, 0.5, 1.0):
        z = jaxddim.slerp(z0, z1, w)
        for row, radius, angle in ((0, 1, np.pi / 2), (1, 2, np.pi / 3)):  # one angle per example
            expected = [radius * np.cos(w * angle), radius * np.sin(w * angle)]
            np.testing.assert_allclose(z[row], expected, atol=1e-6)
    each = jaxddim.slerp(z0, z1, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(each, [z0[0], z1[1]], atol=1e-6)


def test_slerp_keeps_the_norm_of_noise():
    z0, z1 = jax.random.normal(KEY, (2, 5, 8, 8, 3))
    unit = [z / jnp.sqrt(jnp.sum(z * z, (1, 2, 3), keepdims=True)) for z in (z0, z1)]
    for w in (0.1, 0.5, 0.8):
        norm = np.sum(np.square(jaxddim.slerp(*unit, w)), (1, 2, 3))
        np.testing.assert_allclose(norm, 1, atol=1e-5)
    assert np.var(jaxddim.slerp(z0, z1, 0.5)) > 0.8  # a straight line would give 0.5


def test_slerp_at_equal_opposite_and_zero_ends_is_a_line_with_gradients():
    z = jax.random.normal(KEY, (2, 7))
    total = lambda z0, z1, w: jnp.sum(jaxddim.slerp(z0, z1, w))  # noqa: E731
    grad = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    for z1, expected in ((z, z), (2 * z, 1.25 * z), (-z, 0.5 * z), (-3 * z, 0 * z)):
        np.testing.assert_allclose(jaxddim.slerp(z, z1, 0.25), expected, atol=1e-5)
        chex.assert_tree_all_finite(grad(z, z1, 0.25))
    chex.assert_tree_all_finite(grad(z, 0 * z, 0.25))


def test_interpolation_is_decoding_along_the_arc():
    z0, z1 = X_T, X_T[::-1]
    weights = jnp.array([0.0, 0.3, 1.0])
    images = jaxddim.interpolate(DENOISE, SCHEDULE, GRID, z0, z1, weights)
    chex.assert_shape(images, (3, *SHAPE))
    for image, z in zip(images, (z0, jaxddim.slerp(z0, z1, 0.3), z1), strict=True):
        chex.assert_trees_all_close(image, jaxddim.decode(DENOISE, SCHEDULE, GRID, z), atol=1e-5)


def test_decoding_is_deterministic_sampling_from_the_given_noise():
    end, _ = compiled(DDIM)(KEY, GRID, X_T)
    chex.assert_trees_all_close(jaxddim.decode(DENOISE, SCHEDULE, GRID, X_T), end, atol=1e-5)


def test_encoding_stays_in_the_schedule_under_zero_terminal_snr():
    schedule = jaxddim.zero_terminal_snr(SCHEDULE)
    denoise_fn = jaxddim.as_denoiser(schedule, network, kind="v", clip_x0=False)
    for refine in (0, 2):
        chex.assert_tree_all_finite(jaxddim.encode(denoise_fn, schedule, GRID, X_T, refine=refine))
