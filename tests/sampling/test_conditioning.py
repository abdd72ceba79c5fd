"""How much of a network's error a path between image and noise passes on, and its warnings."""

import functools
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim.sampling import conditioning, latents

C, ERROR, TIMES = 0.5, 0.01, 1000
SCHEDULES = {
    name: functools.cache(getattr(jaxddim, name))
    for name in ("linear", "quadratic", "sigmoid", "const", "cosine", "jsd")
}
SCHEDULES["zero linear"] = functools.cache(lambda: jaxddim.zero_terminal_snr(jaxddim.linear()))
SCHEDULES["zero cosine"] = functools.cache(lambda: jaxddim.zero_terminal_snr(jaxddim.cosine()))
NOTHING_AT_T = ("jsd", "zero linear", "zero cosine")
PAIRS = [
    (name, kind)
    for name in SCHEDULES
    for kind in ("eps", "score", "x0", "v")
    if kind in ("x0", "v") or name not in NOTHING_AT_T
]
SHORT = {("cosine", "eps"), ("cosine", "score")}
"""The pairs whose grids end before T."""


def denoiser(schedule, kind, error=ERROR, clip_x0=False):
    """The best network for N(0, C^2), whose answer is off by up to `error` of its own scale."""

    def network(x, index):
        t = index + 1
        alpha, sigma = schedule.scales(t, x.ndim)
        x0 = alpha * C**2 / (alpha**2 * C**2 + sigma**2) * x
        pair = jaxddim.from_x0(schedule, x, x0, t)
        off = error * jnp.sin(3 * x) / (sigma if kind == "score" else 1)
        return jaxddim.target(kind, schedule, *pair, t) + off

    return jaxddim.as_denoiser(schedule, network, kind=kind, clip_x0=clip_x0)


@functools.lru_cache
def coder(name, kind, refine, error):
    """``lost(grid)``: the largest error of images that are encoded and decoded."""
    schedule = SCHEDULES[name]()
    denoise_fn = denoiser(schedule, kind, error)
    x0 = jnp.linspace(-1, 1, 21)[:, None]

    def lost(grid):
        x_T = jaxddim.encode(denoise_fn, schedule, grid, x0, refine=refine)
        return jnp.abs(jaxddim.decode(denoise_fn, schedule, grid, x_T) - x0).max()

    return jax.jit(lost)


# -- the number ----------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind", PAIRS)
@pytest.mark.parametrize("t, s", [(1000, 980), (900, 500), (500, 0), (20, 40), (1, 100)])
def test_the_gain_is_what_a_step_does_with_an_error(name, kind, t, s):
    """Against the step itself: two predictions that differ by one unit of the network's answer."""
    schedule = SCHEDULES[name]()
    x, answer = jnp.full((1, 1), 0.3), jnp.full((1, 1), 0.2)
    make = getattr(jaxddim, f"from_{kind}")
    ends = [
        jaxddim.ddim_step(schedule, x, make(schedule, x, output, t), t, s).mean
        for output in (answer, answer + 1)
    ]
    expected = abs(float(ends[1][0, 0] - ends[0][0, 0]))
    gain = conditioning.step_gain(kind, schedule, t, s)
    assert gain == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name, kind", PAIRS)
def test_the_safe_fraction_ends_where_a_tenth_of_the_way_at_most_doubles_the_error(name, kind):
    schedule = SCHEDULES[name]()
    fraction = jaxddim.safe_fraction(schedule, kind=kind)
    assert (fraction < 1) == ((name, kind) in SHORT)
    last = jaxddim.timesteps(TIMES, 10, fraction=fraction)
    assert int(last[0]) == round(fraction * TIMES) >= 0.9 * TIMES
    t = np.arange(1, int(last[0]) + 1)
    assert conditioning.step_gain(kind, schedule, t, t * 9 // 10).max() <= 2
    if fraction < 1:
        t = int(last[0]) + 1
        assert conditioning.step_gain(kind, schedule, t, t * 9 // 10) > 2


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("kind", ["eps", "score", "x0", "v"])
def test_a_fraction_is_one_of_any_number_of_steps(kind, num_steps):
    fraction = jaxddim.safe_fraction(jaxddim.cosine(num_steps), kind=kind)
    assert 0 < fraction <= 1
    assert jaxddim.timesteps(num_steps, 1, fraction=fraction)[0] >= 1
    assert kind in ("eps", "score") or fraction == 1


def test_a_fraction_that_cannot_be_known_is_an_error():
    with pytest.raises(ValueError, match="unknown kind 'noise'"):
        jaxddim.safe_fraction(jaxddim.linear(), kind="noise")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        jaxddim.safe_fraction(jaxddim.jsd(), kind="eps")
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda schedule: jaxddim.safe_fraction(schedule, kind="v"))(jaxddim.linear())


# -- there and back ------------------------------------------------------------------------


@pytest.mark.parametrize("refine", [0, 2])
@pytest.mark.parametrize("name, kind", PAIRS)
def test_images_come_back_as_from_the_best_network_but_for_the_size_of_its_error(
    name, kind, refine
):
    fraction = jaxddim.safe_fraction(SCHEDULES[name](), kind=kind)
    grid = jaxddim.timesteps(TIMES, 50, fraction=fraction)
    best, off = (float(coder(name, kind, refine, error)(grid)) for error in (0.0, ERROR))
    assert abs(off - best) < 2 * ERROR
    assert off < (0.8 if name == "const" else 0.2)  # the error of 50 steps, the best network's too


@pytest.mark.parametrize("refine", [0, 1])
@pytest.mark.parametrize("kind", ["eps", "score"])
def test_at_T_of_the_cosine_schedule_they_do_not_come_back(kind, refine):
    grid = jaxddim.timesteps(TIMES, 50)
    assert not coder("cosine", kind, refine, ERROR)(grid) < 1


@pytest.mark.parametrize("refine", [0, 1])
@pytest.mark.parametrize("steps", [5, 10])
def test_an_x0_network_is_not_divided_by_sigma_at_t_0(steps, refine):
    """At t = 1 of the linear schedule that would be 100 times the error."""
    grid = jaxddim.timesteps(TIMES, steps)
    best, off = (float(coder("linear", "x0", refine, error)(grid)) for error in (0.0, ERROR))
    assert abs(off - best) < 3 * ERROR


# -- warnings ------------------------------------------------------------------------------

X = jnp.linspace(-1, 1, 5)[:, None]
PATHS = {
    "encode": lambda fn, schedule, grid: jaxddim.encode(fn, schedule, grid, X),
    "refine": lambda fn, schedule, grid: jaxddim.encode(fn, schedule, grid, X, refine=1),
    "decode": lambda fn, schedule, grid: jaxddim.decode(fn, schedule, grid, X),
    "interpolate": lambda fn, schedule, grid: jaxddim.interpolate(
        fn, schedule, grid, X, X + 1, jnp.ones(1)
    ),
}


def warned(path, schedule, kind, grid, clip_x0=False):
    """The texts of the warnings of a path, which is not computed."""
    with (
        mock.patch.object(latents, "integrate", lambda *args, **_: (args[-1], None)),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        PATHS[path](denoiser(schedule, kind, clip_x0=clip_x0), schedule, grid)
    assert all(warning.category is UserWarning for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("steps", [2, 50])
@pytest.mark.parametrize("kind", ["eps", "score"])
@pytest.mark.parametrize("path", PATHS)
def test_a_path_from_T_is_warned_of_and_the_way_out_is_one(path, kind, steps):
    schedule = SCHEDULES["cosine"]()
    (text,) = warned(path, schedule, kind, jaxddim.timesteps(TIMES, steps))
    assert f'"{kind}"-network at t = 1000' in text
    assert "timesteps(..., fraction=0.952)" in text and 'kind="v"' in text
    assert not warned(path, schedule, kind, jaxddim.timesteps(TIMES, steps, fraction=0.952))


@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("name, kind", PAIRS)
@pytest.mark.parametrize("path", ["encode", "decode"])
def test_valid_use_is_not_warned_of(path, name, kind, steps):
    schedule = SCHEDULES[name]()
    fraction = jaxddim.safe_fraction(schedule, kind=kind)
    assert not warned(path, schedule, kind, jaxddim.timesteps(TIMES, steps, fraction=fraction))


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_too_few_steps_are_warned_of(kind):
    (text,) = warned("decode", SCHEDULES["linear"](), kind, jaxddim.timesteps(TIMES, 1))
    assert "by 157" in text and text.endswith("take more steps")


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_an_x0_network_is_warned_of_at_the_other_end(spacing):
    """These grids hold t = 1, from where a long step is taken with an eps divided by sigma_1."""
    schedule, grid = SCHEDULES["linear"](), jaxddim.timesteps(TIMES, 10, spacing=spacing)
    (text,) = warned("encode", schedule, "x0", grid)
    assert '"x0"-network at t = 1 ' in text and "refine=1" in text
    for path, kind in (("refine", "x0"), ("decode", "x0"), ("encode", "v"), ("encode", "eps")):
        assert not warned(path, schedule, kind, grid), (path, kind)


@pytest.mark.parametrize("path", ["decode", "interpolate"])
def test_clipped_paths_and_plain_sampling_are_not_warned_of(path):
    schedule, grid = SCHEDULES["cosine"](), jaxddim.timesteps(TIMES, 5)
    assert not warned(path, schedule, "eps", grid, clip_x0=True)
    fn = denoiser(schedule, "eps", clip_x0=True)
    jaxddim.sample(jax.random.key(0), fn, schedule, grid, (1, 2))  # warnings are errors


def test_nothing_is_said_of_what_is_not_known():
    schedule, grid = SCHEDULES["cosine"](), jaxddim.timesteps(TIMES, 3)
    fn = denoiser(schedule, "eps")
    jax.jit(lambda grid: jaxddim.decode(fn, schedule, grid, X))(grid)
    jax.jit(lambda schedule: jaxddim.decode(fn, schedule, grid, X))(schedule)
    jaxddim.decode(lambda x, t: fn(x, t), schedule, grid, X)
    assert conditioning.fraction_of(lambda x, t: fn(x, t), schedule) == 1
    assert conditioning.fraction_of(fn, schedule) == 0.952
    with pytest.warns(UserWarning, match="fraction"):  # constants inside jit are known
        jax.jit(lambda x: jaxddim.decode(fn, schedule, grid, x))(X)
