"""The distribution of noise levels in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxddim
from jaxddim.training import levels

COSINE = jaxddim.cosine(1000)


def log_sigma(schedule):
    return -np.asarray(schedule.log_snr, np.float64)[1:] / 2


@pytest.mark.parametrize("schedule", [COSINE, jaxddim.linear(1000), jaxddim.cosine(200)])
@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.0, 0.7), (0.5, 1.0)])
def test_log_sigma_is_normal_whatever_the_schedule(schedule, mean, std):
    p = np.asarray(jaxddim.lognormal(schedule, mean=mean, std=std), np.float64)
    x = log_sigma(schedule)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert p @ x == pytest.approx(mean, abs=0.03)
    assert np.sqrt(p @ (x - p @ x) ** 2) == pytest.approx(std, abs=0.05)


def test_the_last_level_of_zero_terminal_snr_is_never_drawn():
    schedule = jaxddim.zero_terminal_snr(COSINE)
    p = jaxddim.lognormal(schedule)
    assert p[-1] == 0 and bool(jnp.all(jnp.isfinite(p)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"std": 0.0}, "positive"), ({"mean": 100.0}, "no time"), ({"std": -1.0}, "positive")],
)
def test_impossible_distributions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        jaxddim.lognormal(COSINE, **options)


def test_times_have_their_probabilities_and_cover_them_evenly():
    p = jnp.array([0.1, 0.0, 0.4, 0.5])
    draws = jax.vmap(lambda key: levels.draw(key, p, 10))(jax.random.split(jax.random.key(0), 2000))
    share = np.bincount(np.ravel(draws), minlength=5)[1:] / draws.size
    np.testing.assert_allclose(share, p, atol=0.01)
    counts = np.stack([(np.asarray(draws) == t).sum(1) for t in (1, 3, 4)], 1)
    assert np.all(np.abs(counts - 10 * np.array([0.1, 0.4, 0.5])) <= 1)  # one from each tenth
    first = np.bincount(np.asarray(draws)[:, 0], minlength=5)[1:] / len(draws)
    np.testing.assert_allclose(first, p, atol=0.04)  # no place in a batch has a level of its own


def test_a_training_step_draws_these_times():
    seen = []

    def apply(variables, x, index, **options):
        jax.debug.callback(lambda index: seen.extend(np.asarray(index).tolist()), index)
        return x * variables["params"]["w"], {}

    tx = optax.sgd(0.0)
    state = jaxddim.TrainState(jnp.int32(0), {"w": jnp.ones(())}, {}, {"w": jnp.ones(())}, ())
    state = state._replace(opt_state=tx.init(state.params))
    p = np.zeros(1000)
    p[[6, 499]] = 0.5
    step = functools.partial(
        jaxddim.train_step, apply_fn=apply, tx=tx, schedule=COSINE, kind="v", times=p
    )
    jax.block_until_ready(jax.jit(step)(state, jnp.ones((8, 3))))
    jax.effects_barrier()
    assert sorted(seen) == [6] * 4 + [499] * 4
    for wrong in (np.ones(999), np.zeros(1000), -np.ones(1000), 3):
        with pytest.raises(ValueError, match="times must be the probabilities"):
            jaxddim.train_step(
                state, jnp.ones((8, 3)), apply_fn=apply, tx=tx, schedule=COSINE, times=wrong
            )
