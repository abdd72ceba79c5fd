"""The methods of the commands: their steps, their noise and what they cost."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from jaxddim.runs import methods
from jaxddim.runs.config import DiffusionConfig
from jaxddim.runs.errors import RunError
from jaxddim.runs.methods import DrawConfig, Method

SCHEDULE = jaxddim.cosine(100)
NOISE = {"ddpm": 1.0, "dpm++2m-sde": 1.0}
COST = {"heun": 15, "plms": 9}


@pytest.mark.parametrize("method", get_args(Method))
def test_noise_and_cost_are_those_of_the_method(method):
    config = DrawConfig(method=method, steps=8)
    assert methods.noise(config) == NOISE.get(method, 0.0)
    assert methods.evaluations(config) == COST.get(method, 8)
    assert methods.evaluations(DrawConfig(method=method, steps=1)) == 1
    key = jax.random.key(0) if methods.noise(config) else None  # none is needed without noise
    denoise_fn = jaxddim.as_denoiser(SCHEDULE, lambda x, index: 0.1 * x, kind="v")
    grid, x = methods.time_grid(config, SCHEDULE), jnp.ones((2, 3))
    step = methods.stepper(config, DiffusionConfig())
    x, _ = jaxddim.integrate(key, denoise_fn, SCHEDULE, grid, x, step=step)
    assert np.isfinite(x).all()


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_grids_by_level_are_those_of_the_runs_schedule(spacing):
    grid = methods.time_grid(DrawConfig(steps=9, spacing=spacing), SCHEDULE)
    expected = jaxddim.timesteps(100, 9, spacing=spacing, schedule=SCHEDULE)
    np.testing.assert_array_equal(grid, expected)
    with pytest.raises(RunError, match="--steps 101: 101 different sampling steps do not fit"):
        methods.time_grid(DrawConfig(steps=101, spacing=spacing), SCHEDULE)
