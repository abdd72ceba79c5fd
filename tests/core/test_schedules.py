"""Schedules against the papers' definitions in float64 NumPy, and grids against known answers."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxddim

T = 1000
LINE = np.linspace(1e-4, 0.02, T)
I = np.arange(T + 1)  # noqa: E741

# alpha_bar[1..T] of each schedule: the official DDIM code's betas, or a closed form
LOGISTIC = np.exp(-np.logaddexp(0, 6 - 12 * np.arange(T) / (T - 1)))
SQRT_LINE = 0.01 + (np.sqrt(0.02) - 0.01) * np.arange(T) / (T - 1)
EXPECTED = {
    "linear": np.cumprod(1 - LINE),
    "quadratic": np.cumprod(1 - SQRT_LINE**2),
    "const": 0.98 ** I[1:],
    "jsd": 1 - I[1:] / T,
    "sigmoid": np.cumprod(1 - (1e-4 + 0.0199 * LOGISTIC)),
    "cosine": (lambda f: np.append(f[1:-1] / f[0], f[-2] / f[0] * 1e-3))(
        np.cos((I / T + 0.008) / 1.008 * np.pi / 2) ** 2
    ),
}


def float64(schedule):
    return np.asarray(schedule.log_snr, np.float64)


@pytest.mark.parametrize("name", EXPECTED)
def test_schedules_follow_the_published_betas(name):
    schedule = getattr(jaxddim, name)(T)
    expected = EXPECTED[name]
    chex.assert_shape(schedule.log_snr, (T + 1,))
    chex.assert_type(schedule.log_snr, jnp.float32)
    np.testing.assert_allclose(schedule.alpha_bar[1:], expected, atol=1e-6, rtol=0)
    with np.errstate(divide="ignore"):
        log_snr = np.log(expected) - np.log(1 - expected)
    np.testing.assert_allclose(schedule.log_snr[1:], log_snr, rtol=2e-7, atol=2e-7)


def test_scaled_linear_is_latent_diffusions_and_warns_of_its_signal_at_T():
    with pytest.warns(UserWarning, match="alpha_bar_T"):
        schedule = jaxddim.scaled_linear(T)
    betas = (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * np.arange(T) / (T - 1)) ** 2
    np.testing.assert_allclose(schedule.alpha_bar[1:], np.cumprod(1 - betas), atol=1e-6)


def test_sigma_near_the_data_keeps_all_float32_digits():
    _, sigma = jaxddim.linear().scales(np.arange(1, 11))
    exact = np.sqrt(1 - np.cumprod(1 - LINE))[:10]
    assert abs(exact[0] - 0.01) < 1e-12
    assert abs(float(sigma[0]) / exact[0] - 1) < 2e-7
    np.testing.assert_allclose(sigma, exact, rtol=3e-7)


@pytest.mark.parametrize("name", EXPECTED)
def test_time_0_is_clean_and_snr_falls_strictly(name):
    schedule = getattr(jaxddim, name)(T)
    alpha, sigma = schedule.scales(I)
    assert schedule.num_steps == T
    assert (float(alpha[0]), float(sigma[0]), float(schedule.alpha_bar[0])) == (1, 0, 1)
    assert np.all(np.diff(float64(schedule)[1:]) < 0) and schedule.log_snr[0] == np.inf
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=3e-7)


def test_zero_terminal_snr_maps_alpha_affinely_onto_zero():
    before, after = jaxddim.linear(T), jaxddim.zero_terminal_snr(jaxddim.linear(T))
    assert after.num_steps == T and after.log_snr[-1] == -np.inf and after.log_snr[0] == np.inf
    exact = np.sqrt(EXPECTED["linear"])
    got = np.sqrt(1 / (1 + np.exp(-float64(after)[1:])))
    assert got[-1] == 0
    np.testing.assert_allclose(after.log_snr[1], before.log_snr[1], rtol=1e-6)
    slope = np.diff(got) / np.diff(exact)  # an affine map has one slope
    np.testing.assert_allclose(slope, exact[0] / (exact[0] - exact[-1]), rtol=1e-2)
    np.testing.assert_allclose(np.cumsum(slope * np.diff(exact)), got[1:] - got[0], atol=1e-12)
    chex.assert_trees_all_close(jaxddim.zero_terminal_snr(after), after, rtol=1e-6)


def test_a_beta_of_1_is_allowed_at_the_end_only():
    schedule = jaxddim.from_betas([0.5, 1.0])
    assert schedule.log_snr.tolist() == [np.inf, 0.0, -np.inf]
    with pytest.raises(ValueError, match="beta"):
        jaxddim.from_betas([1.0, 0.5])


@pytest.mark.parametrize(
    "betas", [[0.0, 0.1], [-0.1], [0.1, 1.2], [0.1, np.nan], [], 0.1, [[0.1]], [0.3, 1e-9]]
)
def test_impossible_betas_are_errors(betas):
    with pytest.raises(ValueError):
        jaxddim.from_betas(betas)


@pytest.mark.parametrize("num_steps", [0, -1, 2.5])
def test_an_impossible_number_of_steps_is_an_error(num_steps):
    for make in (jaxddim.linear, jaxddim.const, jaxddim.jsd, jaxddim.sigmoid, jaxddim.cosine):
        with pytest.raises(ValueError, match="num_steps"):
            make(num_steps)
    with pytest.raises(ValueError):
        jaxddim.from_alpha_bar(lambda u: 0.5, 10)  # does not fall
    with pytest.raises(ValueError, match="2 steps"):
        jaxddim.zero_terminal_snr(jaxddim.from_betas([0.9999]))


def test_a_schedule_that_leaves_signal_at_T_warns():
    with pytest.warns(UserWarning, match=r"scale 0\.22"):
        schedule = jaxddim.linear(300)
    assert round(float(schedule.alpha_bar[-1]) ** 0.5, 2) == 0.22
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxddim.from_betas([0.5, 0.9981])  # alpha_bar_T = 9.5e-4
    with pytest.warns(UserWarning, match="alpha_bar_T"):
        jaxddim.from_betas([0.5, 0.9979])  # alpha_bar_T = 1.05e-3


def test_times_outside_the_schedule_raise_or_yield_nan_and_never_wrap():
    schedule = jaxddim.cosine(20)
    for t in (-1, 21, np.int32(21), np.array([0, -1]), [3, 21], jnp.int32(-1), jnp.array([0, 21])):
        with pytest.raises(ValueError, match=r"0\.\.20"):
            schedule.scales(t)
    for t in (3.0, [3.0], np.array([3.0]), jnp.array(3.0), True, None):
        with pytest.raises(ValueError, match="whole numbers"):
            schedule.scales(t)
    for scale in jax.jit(schedule.scales)(jnp.array([-1, 0, 20, 21])):
        assert np.isnan(scale).tolist() == [True, False, False, True]


def test_scales_broadcast_against_images_and_a_schedule_passes_through_jit():
    schedule = jaxddim.cosine(20)
    for scale in schedule.scales(jnp.array([1, 2, 3]), ndim=4):
        chex.assert_shape(scale, (3, 1, 1, 1))
    for scale in schedule.scales(5, ndim=4):
        chex.assert_shape(scale, ())
    scales = jax.jit(lambda schedule, t: schedule.scales(t))(schedule, 5)
    chex.assert_trees_all_close(scales, schedule.scales(5), rtol=1e-6)


SPACINGS = ["linear", "quadratic", "leading", "trailing", "linspace"]


@given(data=st.data(), num_train=st.integers(1, 3000), spacing=st.sampled_from(SPACINGS))
def test_every_possible_grid_has_exactly_S_falling_steps_to_0(data, num_train, spacing):
    num_sample = data.draw(st.integers(1, num_train))
    grid = jaxddim.timesteps(num_train, num_sample, spacing=spacing)
    chex.assert_shape(grid, (num_sample + 1,))
    chex.assert_type(grid, jnp.int32)
    grid = np.asarray(grid)
    assert np.all(np.diff(grid) < 0) and grid[-1] == 0
    assert grid[0] <= num_train
    if spacing != "leading":
        assert grid[0] == num_train
    if spacing in ("leading", "linspace") and num_sample > 1:
        assert grid[-2] == 1
    if spacing in ("linear", "leading", "trailing"):  # evenly spaced, up to rounding by one step
        assert np.ptp(np.diff(grid[:-1])) <= 1 if num_sample > 1 else True


@given(num_train=st.integers(10, 2000), fraction=st.floats(0.05, 1), data=st.data())
def test_fraction_moves_the_start_of_the_grid(num_train, fraction, data):
    spacing = data.draw(st.sampled_from([name for name in SPACINGS if name != "leading"]))
    num_sample = data.draw(st.integers(1, max(int(0.04 * num_train), 1)))
    grid = jaxddim.timesteps(num_train, num_sample, spacing=spacing, fraction=fraction)
    assert abs(int(grid[0]) - fraction * num_train) <= 0.5 or grid[0] == 1
    assert np.all(np.diff(grid) < 0) and len(grid) == num_sample + 1


@pytest.mark.parametrize(
    "num_train, num_sample, spacing, expected",
    [
        (1000, 3, "linear", [1000, 666, 333, 0]),
        (1000, 3, "trailing", [1000, 667, 333, 0]),
        (1000, 4, "leading", [751, 501, 251, 1, 0]),
        (10, 4, "linspace", [10, 7, 4, 1, 0]),
        (1000, 10, "quadratic", [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]),
        (1000, 1, "linear", [1000, 0]),
        (4, 4, "quadratic", [4, 3, 2, 1, 0]),
        (9, 4, "quadratic", [9, 5, 2, 1, 0]),  # floors are 9, 5, 2, 0: raised, not dropped
    ],
)
def test_grids_are_the_published_ones(num_train, num_sample, spacing, expected):
    assert jaxddim.timesteps(num_train, num_sample, spacing=spacing).tolist() == expected


def test_awkward_numbers_of_steps_are_exact():
    for spacing in SPACINGS:
        assert len(jaxddim.timesteps(1000, 30, spacing=spacing)) == 31
    assert jaxddim.timesteps(1000, 600, spacing="leading")[0] >= 998
    assert jaxddim.timesteps(1000, 10, spacing="quadratic", fraction=0.8)[0] == 800
    assert jaxddim.timesteps(1000, 1000).tolist() == list(range(1000, -1, -1))


EVEN = jaxddim.from_log_snr(np.linspace(10, -10, 1000))
BY_LEVEL = {
    "linear": jaxddim.linear(1000),
    "cosine": jaxddim.cosine(1000),
    "zero": jaxddim.zero_terminal_snr(jaxddim.linear(1000)),
    "even": EVEN,
}


@given(S=st.integers(1, 1000), fraction=st.sampled_from([1.0, 0.9]))
@pytest.mark.parametrize("name", BY_LEVEL)
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_every_grid_by_noise_level_has_exactly_S_falling_steps_to_0(spacing, name, S, fraction):
    S, options = min(S, int(fraction * 1000)), {"schedule": BY_LEVEL[name], "fraction": fraction}
    grid = np.asarray(jaxddim.timesteps(1000, S, spacing=spacing, **options))
    assert grid.shape == (S + 1,) and np.all(np.diff(grid) < 0)
    assert (grid[0], grid[-1]) == (round(fraction * 1000), 0)
    assert S == 1 or S == 2 or grid[-2] == 1


@pytest.mark.parametrize(("spacing", "power"), [("log_snr", None), ("karras", 7)])
@pytest.mark.parametrize("name", ["linear", "even"])
def test_the_levels_are_evenly_spaced_in_their_measure(name, spacing, power):
    schedule = BY_LEVEL[name]
    grid = np.asarray(jaxddim.timesteps(1000, 9, spacing=spacing, schedule=schedule))
    log_sigma = -float64(schedule) / 2
    measure = log_sigma if power is None else np.exp(log_sigma / power)
    here = measure[grid[:-1]]
    wanted = np.linspace(here[0], here[-1], 9)
    off = np.abs(here - wanted)
    between = np.maximum(np.abs(np.diff(measure[1:], append=np.inf)), 0)[grid[:-1] - 2]
    assert np.all(off <= between / 2 + 1e-6), (off, between)


def test_levels_that_coincide_are_moved_to_free_times():
    grid = jaxddim.timesteps(1000, 60, spacing="log_snr", schedule=BY_LEVEL["linear"])
    assert grid[-9:].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    grid = jaxddim.timesteps(1000, 3, spacing="karras", schedule=BY_LEVEL["zero"])
    assert grid[0] == 1000 and grid[-2:].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (None, 'spacing="karras" needs the noise schedule of 1000 steps'),
        (jaxddim.cosine(10), "got one of 10 steps"),
        (1000, "schedule must be a Schedule"),
    ],
)
def test_a_grid_by_level_needs_its_schedule(schedule, message):
    with pytest.raises(ValueError, match=message):
        jaxddim.timesteps(1000, 10, spacing="karras", schedule=schedule)
    with pytest.raises(ValueError, match="a traced one"):
        jax.jit(lambda s: jaxddim.timesteps(1000, 10, spacing="log_snr", schedule=s))(EVEN)


# -- from log_snr ------------------------------------------------------------------------


def test_a_schedule_from_its_own_table():
    for schedule in (jaxddim.cosine(50), jaxddim.zero_terminal_snr(jaxddim.cosine(50))):
        table = float64(schedule)
        for given_ in (table, table[1:], table.tolist()):
            chex.assert_trees_all_equal(jaxddim.from_log_snr(given_), schedule)


def test_a_table_that_keeps_much_of_the_image_is_warned_of_at_the_callers_line():
    with pytest.warns(UserWarning, match="alpha_bar_T = 0.5") as found:
        jaxddim.from_log_snr([2.0, 0.0])
    assert found[0].filename == __file__


@pytest.mark.parametrize(
    "table",
    [[], [np.inf], 3.0, [[1.0, 0.0]], [1.0, 1.0], [1.0, 2.0], [3.0, np.nan], [1.0, np.inf]],
)
def test_no_table_is_an_error(table):
    with pytest.raises(ValueError, match="log_snr must be"):
        jaxddim.from_log_snr(table)


@pytest.mark.parametrize(
    "num_train, num_sample, options",
    [
        (10, 11, {}),
        (10, 0, {}),
        (10, -1, {}),
        (10, 2.5, {}),
        (0, 1, {}),
        (10, 2, {"spacing": "cubic"}),
        (10, 2, {"fraction": 0.0}),
        (10, 2, {"fraction": 1.5}),
        (1000, 900, {"fraction": 0.8}),
    ],
)
def test_impossible_grids_are_errors(num_train, num_sample, options):
    with pytest.raises(ValueError):
        jaxddim.timesteps(num_train, num_sample, **options)
