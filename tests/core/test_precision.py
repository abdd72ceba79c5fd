"""Types: float32 results, whatever the images' float type and whether 64-bit types are on."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from experiments.evaluation.features import loading
from jaxddim import checks, discrete, likelihood
from jaxddim.runs.drawing import to_uint8
from tests import precision
from tests.precision import CASES, DENOISE, GRID, SCHEDULE, S, T
from tests.tiny import REPOSITORY

LOOPS = ("integrate", "encode", "decode", "interpolate", "variational_bound")
LOOPS += ("ode_log_likelihood", "ode_bits_per_dim")
MORE_LOOPS = (
    "corrector",
    "inpaint",
    "sdedit",
    "sample",
    "discrete.sample",
    "train_step",
    "swiss roll, a step",
)
LONG = [name for name in CASES if name.startswith(LOOPS + MORE_LOOPS)]
"""Compiled for longer than all others together."""


def compare(names, folder):
    """The cases with 64-bit types, in a process of their own, against those of this process."""
    path = folder / "results.npz"
    command = [sys.executable, "-W", "error", "-m", "tests.precision", str(path), *names]
    environment = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    ours = precision.results(names)
    with np.load(path) as theirs:
        assert set(theirs) == set(ours)
        for name, array in ours.items():
            assert theirs[name].dtype == array.dtype and array.dtype.itemsize <= 4, name
            np.testing.assert_allclose(theirs[name], array, rtol=2e-6, atol=1e-6, err_msg=name)


def test_64_bit_types_change_neither_results_nor_draws(tmp_path):
    compare([name for name in CASES if name not in LONG], tmp_path)


@pytest.mark.slow  # compiles every loop and five training steps, in two processes
def test_64_bit_types_change_no_loop_and_no_training(tmp_path):
    compare(LONG, tmp_path)


def test_a_feature_network_runs_with_64_bit_types():
    embed = loading.load("efficientnet-lite0")
    with jax.enable_x64(True):
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
        found = jax.eval_shape(embed.embed, embed.params, images)
    assert found.dtype == jnp.float32


KEY = jax.random.key(0)

OF_IMAGES = {
    "q_sample": lambda x: jaxddim.q_sample(SCHEDULE, x, T, x),
    "q_step": lambda x: jaxddim.q_step(SCHEDULE, x, T, x),
    "q_posterior": lambda x: jaxddim.q_posterior(SCHEDULE, x, x, T, S),
    "from_eps": lambda x: jaxddim.from_eps(SCHEDULE, x, x, T),
    "from_x0": lambda x: jaxddim.from_x0(SCHEDULE, x, x, T),
    "from_v": lambda x: jaxddim.from_v(SCHEDULE, x, x, T),
    "from_score": lambda x: jaxddim.from_score(SCHEDULE, x, x, T),
    "target eps": lambda x: jaxddim.target("eps", SCHEDULE, x, x, T),
    "target x0": lambda x: jaxddim.target("x0", SCHEDULE, x, x, T),
    "target v": lambda x: jaxddim.target("v", SCHEDULE, x, x, T),
    "target score": lambda x: jaxddim.target("score", SCHEDULE, x, x, T),
    "clip": lambda x: jaxddim.clip(SCHEDULE, x, jaxddim.Prediction(x, x), T, low=-0.3, high=0.3),
    "threshold": lambda x: jaxddim.threshold(SCHEDULE, x, jaxddim.Prediction(4 * x, x), T),
    "ddim_step": lambda x: jaxddim.ddim_step(SCHEDULE, x, jaxddim.Prediction(x, x), T, S, eta=0.5),
    "ddpm_step": lambda x: jaxddim.ddpm_step(SCHEDULE, x, jaxddim.Prediction(x, x), T, S),
    "langevin_step": lambda x: jaxddim.langevin_step(
        SCHEDULE, x, jaxddim.Prediction(x, x), T, snr=0.1
    ),
    "integrate": lambda x: jaxddim.integrate(KEY, DENOISE, SCHEDULE, GRID, x, keep=2),
    "encode": lambda x: jaxddim.encode(DENOISE, SCHEDULE, GRID, x, refine=1),
    "decode": lambda x: jaxddim.decode(DENOISE, SCHEDULE, GRID, x),
    "slerp": lambda x: jaxddim.slerp(x, x[::-1], 0.3),
    "interpolate": lambda x: jaxddim.interpolate(
        DENOISE, SCHEDULE, GRID, x, x[::-1], np.array([0.2, 0.8])
    ),
    "variational_bound": lambda x: likelihood.variational_bound(KEY, DENOISE, SCHEDULE, GRID, x),
    "ode_log_likelihood": lambda x: likelihood.ode_log_likelihood(KEY, DENOISE, SCHEDULE, GRID, x),
    "ode_bits_per_dim": lambda x: likelihood.ode_bits_per_dim(KEY, DENOISE, SCHEDULE, GRID, x),
    "discretized_log_prob": lambda x: likelihood.discretized_log_prob(
        jaxddim.Gaussian(x[::-1], 0.1), x
    ),
    "diffusion_loss": lambda x: jaxddim.diffusion_loss(SCHEDULE, x, x[::-1], T, x),
}


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_images_of_every_float_type_are_used_in_float32(name, dtype):
    x = np.round(64 * np.asarray(precision.x())) / 64  # exact in all of them
    function, wide = OF_IMAGES[name], x.astype(np.float32)
    if name in LOOPS:
        got, expected = (jax.eval_shape(function, a) for a in (x.astype(dtype), wide))
        chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    else:
        got = function(x.astype(dtype))
        chex.assert_trees_all_equal(got, function(wide))
    for leaf in jax.tree.leaves(got):
        assert leaf.dtype in (jnp.float32, jnp.int32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, bool])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_integers_are_no_images(name, dtype):
    x = np.arange(96).reshape(3, 4, 4, 2).astype(dtype)
    for function in (OF_IMAGES[name], jax.jit(OF_IMAGES[name])):
        with pytest.raises(ValueError, match=r"floats in \[-1, 1\].*/ 127\.5 - 1"):
            function(x)


@pytest.mark.parametrize("labels", [False, True])
def test_training_refuses_integers(labels):
    state, step, _ = precision.training(precision.MLP(features=(8,)), (4, 2), 1, False)
    pixels = np.zeros((4, 2), np.uint8)
    with pytest.raises(ValueError, match="batch holds uint8"):
        jax.jit(step)(state, {"image": pixels} if labels else pixels)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_pixels_are_rounded_from_float32(dtype):
    x = (np.arange(256) / 127.5 - 1).astype(dtype)
    np.testing.assert_array_equal(to_uint8(x), to_uint8(x.astype(np.float32)))


def test_pixels_are_not_scaled_twice():
    with pytest.raises(ValueError, match="uint8"):
        to_uint8(np.zeros((1, 2, 2, 3), np.uint8))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_slerp_of_noise_in_half_precision_is_that_of_the_rounded_noise(dtype, scale):
    """Sums of 64 x 64 x 3 squares overflow float16, in which 1e-12 is 0."""
    z = np.asarray(np.random.default_rng(0).normal(size=(2, 1, 64 * 64 * 3)) * scale)
    z0, z1 = (jnp.asarray(one, dtype) for one in z)
    a, b = (np.asarray(one, np.float64)[0] for one in (z0, z1))
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    expected = (np.sin(0.7 * angle) * a + np.sin(0.3 * angle) * b) / np.sin(angle)
    np.testing.assert_allclose(jaxddim.slerp(z0, z1, 0.3)[0], expected, atol=1e-5 * scale)
    near = jaxddim.slerp(z0, z0, 0.3)
    chex.assert_trees_all_close(near, z0.astype(jnp.float32), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_probabilities_and_logits_of_every_float_type_are_used_in_float32(dtype):
    hot, logits = (a.astype(dtype) for a in (precision.HOT, precision.LOGITS))
    wide = [a.astype(np.float32) for a in (hot, logits)]
    tokens = jnp.asarray(precision.TOKENS)
    run = lambda hot, logits: (  # noqa: E731
        discrete.q_marginal(SCHEDULE, hot, T),
        discrete.q_posterior(SCHEDULE, hot, hot, T, S, eta=0.3),
        discrete.step(SCHEDULE, tokens, logits, T, S, eta=0.3),
        discrete.kl_loss(SCHEDULE, logits, tokens, tokens, T, S, eta=0.3),
    )
    got = run(hot, logits)
    chex.assert_type(list(got), jnp.float32)
    chex.assert_trees_all_equal(got, run(*wide))


@pytest.mark.parametrize("seed", [0, 7, -1, 2**31, 2**32 + 5, -(2**40), np.int64(3), np.uint8(9)])
def test_a_seed_gives_the_same_key_with_64_bit_types(seed):
    with jax.enable_x64(True):
        wide = jax.random.key_data(checks.new_key(seed))
    expected = jax.random.key_data(jax.random.key(seed))
    chex.assert_trees_all_equal(jax.random.key_data(checks.new_key(seed)), expected, wide)
    array = jax.random.key_data(checks.new_key(jnp.uint32(int(seed) % 2**32)))
    chex.assert_trees_all_equal(array, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_training_step_keeps_the_types_of_its_state(dtype):
    state, step, batch = precision.training(precision.MLP(features=(8,)), (4, 2), 2, False)
    params = jax.tree.map(lambda a: a.astype(dtype), state.params)
    state = state._replace(params=params, ema_params=params)
    after, metrics = jax.eval_shape(step, state, batch)
    chex.assert_trees_all_equal_dtypes(after.params, params)
    chex.assert_trees_all_equal_dtypes(after.ema_params, params)
    chex.assert_type(list(metrics.values()), jnp.float32)
