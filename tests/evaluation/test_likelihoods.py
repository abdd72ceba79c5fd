"""Bits per dimension of a run: the library's values, averaged over the images."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxddim
from experiments.evaluation import likelihoods
from jaxddim import likelihood

SCALE = 0.4


@pytest.fixture(autouse=True)
def _chunks(monkeypatch):
    monkeypatch.setattr(likelihoods, "chunk_size", lambda run: 4)


@pytest.fixture
def run():
    """The exact model of pixels from N(0, SCALE^2)."""
    schedule = jaxddim.cosine(100)

    def denoiser(variables, clip_x0=True):
        def eps(x, index):
            alpha, sigma = schedule.scales(index[0] + 1)
            return sigma / (alpha**2 * SCALE**2 + sigma**2) * x

        return jaxddim.as_denoiser(schedule, eps, clip_x0=clip_x0)

    config = SimpleNamespace(diffusion=SimpleNamespace(learned_variance=False))
    return SimpleNamespace(config=config, schedule=schedule, variables={}, denoiser=denoiser)


@pytest.fixture(scope="module")
def images():
    values = np.random.default_rng(0).normal(size=(10, 8, 8, 3)) * SCALE
    return np.clip(np.round(127.5 * (1 + values)), 0, 255).astype(np.uint8)


def entropy():
    """The entropy of such a pixel at 8 bits."""
    return np.log2(SCALE * np.sqrt(2 * np.pi * np.e)) + np.log2(127.5)


def test_the_ode_finds_the_entropy_of_the_data(run, images):
    (found,) = likelihoods.ode(run, images, 0).values()
    assert found["value"] == pytest.approx(entropy(), abs=4 * found["std_error"] + 0.01)
    assert 0.01 < found["std_error"] < 0.05  # 10 images of 192 pixels
    assert (found["num_images"], found["S"], found["clipped"]) == (10, 100, False)


@pytest.mark.parametrize("steps, end", [(10, 95), (95, 95), (98, 98), (100, 100)])
def test_the_times_of_the_ode_end_where_the_network_determines_the_image(
    run, images, monkeypatch, steps, end
):
    """At 0.95 T of the cosine schedule for this eps-network, or where S times fit."""
    monkeypatch.setattr(likelihoods, "ODE_STEPS", steps)
    seen = []

    def bits(key, denoise_fn, schedule, grid, x0, **_):
        seen.append(grid)
        return x0.mean((1, 2, 3))

    monkeypatch.setattr(likelihood, "ode_bits_per_dim", bits)
    (found,) = likelihoods.ode(run, images, 0).values()
    assert found["grid_end"] == {"t": end, "T": 100}
    assert (int(seen[0][0]), len(seen[0])) == (end, steps + 1)


def test_the_bound_is_above_the_entropy_and_the_sum_of_its_terms(run, images):
    found = likelihoods.bound(run, images, 0)
    assert len(found) == 2
    for name, terms in found.items():
        assert terms["value"] == pytest.approx(
            terms["prior"] + terms["steps"] + terms["decoder"], rel=1e-5
        )
        assert terms["value"] > entropy() - 3 * terms["std_error"], name
        assert terms["num_images"] == 10
        assert all(terms[part] > 0 for part in ("prior", "steps", "decoder"))
    small, large = found.values()
    assert (small["prior"], small["decoder"]) == (large["prior"], large["decoder"])
    assert small["steps"] != large["steps"]


def test_the_mean_is_that_of_the_images_whatever_the_chunks(run, images):
    """Ten images are no multiple of a chunk: the padding of the last one is left out."""
    (found,) = (v for k, v in likelihoods.bound(run, images, 3).items() if "small" in k)
    x0 = images.astype(np.float32) / 127.5 - 1
    grid = jaxddim.timesteps(100, 100)
    expected = likelihood.variational_bound(
        jax.random.key(3), run.denoiser({}), run.schedule, grid, x0
    ).total
    assert found["value"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert found["std_error"] == pytest.approx(float(expected.std(ddof=1)) / 10**0.5, rel=1e-3)


def test_at_most_so_many_images_are_looked_at(run, images, monkeypatch):
    monkeypatch.setattr(likelihoods, "IMAGES", 5)
    many = likelihoods.ode(run, images, 0)
    few = likelihoods.ode(run, images[:5], 0)
    assert many == few
    assert next(iter(many.values()))["num_images"] == 5
