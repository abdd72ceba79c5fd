"""Inpainting and SDEdit on data whose conditional laws are known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim.sampling.editing import jumping, repaint

SCHEDULE, KEY = jaxddim.cosine(100), jax.random.key(0)
CORRELATION = 0.8
COVARIANCE = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]) * 0.25
MASK = np.array([True, False])


def denoise_fn(x, t):
    """E[x_0 | x_t] of N(0, COVARIANCE), by Bayes' rule."""
    alpha, sigma = SCHEDULE.scales(jnp.maximum(t, 1))
    gain = alpha * COVARIANCE @ jnp.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(2))
    return jaxddim.from_x0(SCHEDULE, x, x @ gain.T, jnp.maximum(t, 1))


def inpainted(known, n=2000, **options):
    grid = jaxddim.timesteps(100, 50)
    x = jnp.full((n, 2), known)
    return np.asarray(jaxddim.inpaint(KEY, denoise_fn, SCHEDULE, grid, x, MASK, **options))


def test_known_pixels_are_exact_and_the_others_are_not_used():
    x = inpainted(0.123, n=8, repeats=2)
    assert np.all(x[:, 0] == np.float32(0.123))
    grid = jaxddim.timesteps(100, 10)
    known = jnp.array([[0.5, 9.0], [0.5, -3.0]])
    keys = jnp.stack([KEY, KEY])
    a, b = jaxddim.inpaint(keys, denoise_fn, SCHEDULE, grid, known, MASK, repeats=2, jump=3)
    chex.assert_trees_all_equal(a, b)


def test_jumps_bring_the_rest_to_the_law_given_what_is_known():
    """Given a, b is N(rho a, (1 - rho^2) / 4); without jumps the two fit less."""
    a = 0.6
    mean, variance = CORRELATION * a, (1 - CORRELATION**2) * 0.25
    once, often = (inpainted(a, repeats=repeats, jump=5)[:, 1] for repeats in (1, 10))
    assert abs(often.mean() - mean) < 0.3 * abs(once.mean() - mean)
    assert abs(often.mean() - mean) < 0.05
    assert abs(often.var() / variance - 1) < 0.3


def test_the_grid_with_jumps_is_the_papers():
    """get_schedule_jump of the authors' code, whose way up is one step at a time."""

    def published(num_steps, jump_length, jump_n_sample):
        jumps = {j: jump_n_sample - 1 for j in range(0, num_steps - jump_length, jump_length)}
        t, times = num_steps, []
        while t >= 1:
            t -= 1
            times.append(t)
            if jumps.get(t, 0) > 0:
                jumps[t] -= 1
                for _ in range(jump_length):
                    t += 1
                    times.append(t)
        return [*times, -1]

    for S, jump, repeats in ((12, 3, 2), (20, 5, 4), (10, 1, 3), (4, 10, 2)):
        times = np.array(published(S, jump, repeats)) + 1
        turns = np.diff(times)
        inner = (turns[:-1] > 0) & (turns[1:] > 0)  # on the way up
        expected = times[np.append(np.append(True, ~inner), True)]
        assert jumping(np.arange(S, -1, -1), jump, repeats).tolist() == expected.tolist()


def test_a_grid_without_jumps_is_the_grid():
    assert jumping([9, 5, 2, 0], 2, 1).tolist() == [9, 5, 2, 0]


def test_snapshots_on_the_way_up_hold_the_prediction_too():
    grid = jumping(jaxddim.timesteps(100, 6), 2, 2)
    known, x = jnp.ones((3, 2)), jax.random.normal(KEY, (3, 2))
    step = repaint(jaxddim.ddim_step, known, MASK)
    keep = len(grid)
    _, path = jaxddim.integrate(KEY, denoise_fn, SCHEDULE, grid, x, step=step, keep=keep)
    for x, x0, t in list(zip(*path, strict=True))[:-1]:
        chex.assert_trees_all_close(denoise_fn(x, t).x0, x0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_sdedit_has_the_law_of_noise_and_the_way_back(strength):
    """One Gaussian per axis: x_t has mean alpha m and variance sigma^2, and the flow is affine."""
    c, x0 = 0.5, 0.8

    def gaussian(x, t):
        alpha, sigma = SCHEDULE.scales(jnp.maximum(t, 1))
        mean = c**2 * alpha * x / (sigma**2 + c**2 * alpha**2)
        return jaxddim.from_x0(SCHEDULE, x, mean, jnp.maximum(t, 1))

    t = round(100 * strength)
    grid = jaxddim.timesteps(100, t, fraction=strength)
    x = jaxddim.sdedit(KEY, gaussian, SCHEDULE, grid, jnp.full((3000, 20), x0), step=jaxddim.heun())
    alpha, sigma = map(float, SCHEDULE.scales(t))
    back = c / np.hypot(alpha * c, sigma)
    assert abs(x.mean() - back * alpha * x0) < 0.02
    assert abs(x.std() / (back * sigma) - 1) < 0.03


@pytest.mark.parametrize("edit", ["inpaint", "sdedit"])
def test_image_i_does_not_depend_on_the_batch(edit):
    grid, x = jaxddim.timesteps(100, 4), jax.random.normal(KEY, (5, 2))
    mask = (MASK,) if edit == "inpaint" else ()
    run = getattr(jaxddim, edit)
    many = run(KEY, denoise_fn, SCHEDULE, grid, x, *mask)
    one = run(KEY, denoise_fn, SCHEDULE, grid, x[3:4], *mask, first_index=3)
    chex.assert_trees_all_close(many[3:4], one, atol=1e-6)


BAD = {
    "a mask of numbers": ({"mask": np.ones(2)}, "mask must be booleans"),
    "a mask of another shape": ({"mask": np.ones(3, bool)}, "mask must broadcast to the images"),
    "no jump": ({"jump": 0}, "jump must be at least 1"),
    "no repeats": ({"repeats": 0}, "repeats must be at least 1"),
    "a solver": ({"step": jaxddim.heun()}, "takes a step such as ddpm_step"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(name):
    options, message = BAD[name]
    options = {"mask": MASK} | options
    with pytest.raises(ValueError, match=message):
        jaxddim.inpaint(
            KEY, denoise_fn, SCHEDULE, jaxddim.timesteps(100, 4), jnp.ones((2, 2)), **options
        )
