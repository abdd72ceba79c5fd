"""Checkpoints: which are kept, which are found, and that they are restored bit for bit."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxddim import TrainState
from jaxddim.runs import checkpoints
from jaxddim.runs.errors import RunError
from tests import tiny


def state(step):
    params = {"w": jnp.arange(3.0) / 3 + step, "half": jnp.full((2,), 1 / 3, jnp.bfloat16)}
    opt_state = optax.adam(1e-3).init(params)
    return TrainState(jnp.int32(step), params, {}, jax.tree.map(jnp.negative, params), opt_state)


@pytest.fixture
def abstract():
    return jax.eval_shape(lambda: state(0))


def fill(workdir, losses, keep=2):
    with checkpoints.manager(workdir, keep) as store:
        for step, loss in enumerate(losses, 1):
            checkpoints.save(store, state(step), loss)


def steps(workdir):
    with checkpoints.manager(workdir) as store:
        return sorted(store.all_steps())


def test_the_latest_k_and_the_best_are_kept(tmp_path):
    fill(tmp_path, [3.0, 1.0, 2.0, 4.0, 5.0])
    assert steps(tmp_path) == [2, 4, 5] == tiny.saved(tmp_path)


def test_the_best_among_the_latest_takes_no_place_of_its_own(tmp_path):
    fill(tmp_path, [3.0, 2.0, 1.0], keep=2)
    assert steps(tmp_path) == [2, 3]


def test_each_name_restores_its_checkpoint_bit_for_bit_in_a_new_process_too(tmp_path, abstract):
    fill(tmp_path, [3.0, 1.0, 2.0, 4.0, 5.0])
    with checkpoints.manager(tmp_path) as store:
        for which, step in (("latest", 5), ("best", 2), ("4", 4)):
            tiny.assert_same_bits(checkpoints.restore(store, abstract, which), state(step))


def test_a_checkpoint_without_a_validation_loss_is_latest_but_never_best(tmp_path, abstract):
    fill(tmp_path, [1.0, 2.0, None])
    with checkpoints.manager(tmp_path) as store:
        assert int(checkpoints.restore(store, abstract, "latest").step) == 3
        assert int(checkpoints.restore(store, abstract, "best").step) == 1


def test_best_is_the_latest_where_no_validation_loss_is_known(tmp_path, abstract):
    fill(tmp_path, [None, None])
    with checkpoints.manager(tmp_path) as store:
        assert int(checkpoints.restore(store, abstract, "best").step) == 2


def test_a_save_that_was_cut_off_is_not_taken_for_a_checkpoint(tmp_path, abstract):
    fill(tmp_path, [1.0])
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-123").mkdir()
    with checkpoints.manager(tmp_path) as store:
        assert int(checkpoints.restore(store, abstract).step) == 1
        checkpoints.save(store, state(2), 0.5)
        assert int(checkpoints.restore(store, abstract).step) == 2


def test_a_step_that_is_saved_already_is_left_alone(tmp_path, abstract):
    with checkpoints.manager(tmp_path) as store:
        checkpoints.save(store, state(1), 1.0)
        checkpoints.save(store, state(1)._replace(params=state(9).params), None)
        tiny.assert_same_bits(checkpoints.restore(store, abstract, "best"), state(1))


@pytest.mark.parametrize("which", ["7", "first", "-1", "1.0"])
def test_a_checkpoint_that_is_not_there_is_an_error_that_names_those_that_are(
    tmp_path, abstract, which
):
    fill(tmp_path, [2.0, 1.0])
    with (
        checkpoints.manager(tmp_path) as store,
        pytest.raises(RunError, match=rf"'{which}' .* expected latest, best or one of 1, 2$"),
    ):
        checkpoints.restore(store, abstract, which)


def test_a_folder_without_checkpoints_is_an_error_that_says_what_to_do(tmp_path, abstract):
    with (
        checkpoints.manager(tmp_path) as store,
        pytest.raises(RunError, match="no checkpoint: train"),
    ):
        checkpoints.restore(store, abstract)


def test_a_checkpoint_of_before_there_were_averages_is_restored(tmp_path):
    """As an older version saved it: a tuple of the first five fields."""
    older = collections.namedtuple("TrainState", TrainState._fields[:5])
    new = state(7)
    store = checkpoints.manager(tmp_path)
    store.save(7, args=ocp.args.StandardSave(older(*new[:5])))
    found = checkpoints.restore(store, jax.eval_shape(lambda: new))
    assert isinstance(found, TrainState) and found.averages == ()
    jax.tree.map(np.testing.assert_array_equal, found, new)
