"""The loss at each noise level, for networks whose loss is known."""

import dataclasses

import numpy as np
import pytest

from experiments.evaluation.levels import loss_per_level
from experiments.trainer import validation
from jaxddim.runs.build import build_schedule
from jaxddim.runs.presets import tiny
from jaxddim.runs.trained import Trained

IMAGES = np.random.default_rng(1).integers(0, 256, (11, 4, 4, 3), np.uint8)


class Network:
    """A network that is a function of x_t."""

    def __init__(self, function):
        self.apply = lambda variables, x, index: function(x) * variables


def trained(function, variables=1.0):
    diffusion = dataclasses.replace(tiny().diffusion, kind="eps")
    config = dataclasses.replace(tiny(), diffusion=diffusion)
    schedule = build_schedule(config.diffusion)
    return Trained(config, Network(function), schedule, variables, step=0)


def test_a_network_that_says_zero_has_the_power_of_the_noise_everywhere():
    levels = loss_per_level(trained(lambda x: 0 * x), IMAGES)
    power = np.square(validation.fixed_noise(IMAGES)).mean((1, 2, 3))
    assert [level.t for level in levels][:4] == [1, 51, 101, 151]
    assert (len(levels), levels[-1].t) == (21, 1000)
    for level in levels:
        assert level.loss == pytest.approx(power.mean(), rel=1e-6)
        assert level.std_error == pytest.approx(power.std(ddof=1) / 11**0.5, rel=1e-5)


def test_a_network_that_says_its_input_tells_the_levels_apart():
    run, eps = trained(lambda x: x), validation.fixed_noise(IMAGES)
    x0 = IMAGES / 127.5 - 1
    levels = loss_per_level(run, IMAGES, count=5)
    assert [level.t for level in levels] == [1, 251, 500, 750, 1000]
    for level in levels:
        assert level.log_snr == pytest.approx(float(run.schedule.log_snr[level.t]))
        alpha_bar = 1 / (1 + np.exp(-level.log_snr))
        wrong = np.sqrt(alpha_bar) * x0 + (np.sqrt(1 - alpha_bar) - 1) * eps
        assert level.loss == pytest.approx(np.square(wrong).mean(), rel=1e-5)


def test_the_weights_are_those_of_the_run():
    one, two = (loss_per_level(trained(lambda x: x, v), IMAGES, count=2) for v in (1.0, 0.5))
    assert one[1].loss < 1e-3 < two[1].loss  # at T the input is the noise


def test_a_single_image_has_no_spread():
    assert loss_per_level(trained(lambda x: x), IMAGES[:1], count=2)[0].std_error == 0


def test_fewer_times_than_levels():
    run = trained(lambda x: x)
    short = dataclasses.replace(
        run, schedule=run.schedule._replace(log_snr=run.schedule.log_snr[:4])
    )
    assert [level.t for level in loss_per_level(short, IMAGES)] == [1, 2, 3]
