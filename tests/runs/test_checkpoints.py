"""Checkpoints: which are kept, which are found, and that they are restored bit for bit."""

import collections
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxddim import TrainState
from jaxddim.runs import checkpoints
from jaxddim.runs.disk import packed
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


def test_there_is_no_best_where_no_validation_loss_is_known(tmp_path, abstract):
    fill(tmp_path, [None, None])
    with (
        checkpoints.manager(tmp_path) as store,
        pytest.raises(RunError, match=r"no checkpoint .* has a validation loss.*one of 1, 2$"),
    ):
        checkpoints.restore(store, abstract, "best")


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


def test_a_checkpoint_of_before_there_were_averages_and_sums_is_restored(tmp_path):
    """As an older version saved it: a tuple of the first five fields, by Orbax's manager."""
    older = collections.namedtuple("TrainState", TrainState._fields[:5])
    new = state(7)
    options = ocp.CheckpointManagerOptions(best_fn=lambda m: m["validation_loss"], best_mode="min")
    with ocp.CheckpointManager(tmp_path / "checkpoints", options=options) as store:
        args = ocp.args.StandardSave(older(*new[:5]))
        store.save(7, args=args, metrics={"validation_loss": 0.5})
    store, abstract = checkpoints.manager(tmp_path), jax.eval_shape(lambda: new)
    found = checkpoints.restore(store, abstract)
    assert isinstance(found, TrainState) and found.averages == ()
    jax.tree.map(np.testing.assert_array_equal, found, new)
    assert (checkpoints.loss(store, 7), store.damage(7)) == (0.5, None)
    tiny.assert_same_bits(checkpoints.restore(store, abstract, "best"), new)


def test_an_older_version_reads_what_is_saved_now(tmp_path, abstract):
    fill(tmp_path, [3.0, 1.0, 2.0])
    options = ocp.CheckpointManagerOptions(best_fn=lambda m: m["validation_loss"], best_mode="min")
    with ocp.CheckpointManager(tmp_path / "checkpoints", options=options) as store:
        assert (list(store.all_steps()), store.best_step()) == ([2, 3], 2)


# -- damage -------------------------------------------------------------------------------


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [flip, cut, empty, remove, zero])
def test_whichever_file_is_damaged_it_is_named_and_the_checkpoint_before_is_taken(
    tmp_path, abstract, capsys, harm
):
    fill(tmp_path, [2.0, 1.0])
    latest = tmp_path / "checkpoints" / "2"
    names = [path.relative_to(latest).as_posix() for path in files(latest)]
    assert "metrics/metrics" in names and "sums.json" in names and len(names) > 8
    for name in names:
        before = (latest / name).read_bytes()
        harm(latest / name)
        with checkpoints.manager(tmp_path) as store:
            found = checkpoints.restore(store, abstract)
            told = capsys.readouterr().err
            if name in ("_CHECKPOINT_METADATA", "commit_success.txt"):  # not needed
                assert (int(found.step), told) == (2, "")
            elif before:
                assert int(found.step) == 1, name
                (line,) = told.splitlines()
                assert line.startswith(f"warning: checkpoint 2 in {latest.parent} is damaged: ")
                assert name in line and line.endswith("taken is the one of step 1")
                with pytest.raises(RunError, match=f"checkpoint 2 .* damaged: {name} "):
                    checkpoints.restore(store, abstract, "2")
            if name != "metrics/metrics" and before:
                expected = 2 if name in ("_CHECKPOINT_METADATA", "commit_success.txt") else 1
                assert int(checkpoints.restore(store, abstract, "best").step) == expected
                capsys.readouterr()
        (latest / name).write_bytes(before)


def test_where_none_is_sound_an_error_says_so_and_nothing_is_deleted(tmp_path, abstract):
    fill(tmp_path, [2.0, 1.0])
    for step in (1, 2):
        flip(tmp_path / "checkpoints" / str(step) / "default" / "manifest.ocdbt")
    before = files(tmp_path)
    with (
        checkpoints.manager(tmp_path) as store,
        pytest.raises(RunError, match=r"can be read \(.*2.*manifest.*1.*\); nothing was deleted"),
    ):
        checkpoints.restore(store, abstract)
    assert files(tmp_path) == before


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path, abstract):
    fill(tmp_path, [2.0, 1.0])
    flip(tmp_path / "checkpoints" / "2" / "default" / "manifest.ocdbt")
    with checkpoints.manager(tmp_path) as store:
        checkpoints.save(store, state(2), 1.0)
        assert store.damage(2) is None
        tiny.assert_same_bits(checkpoints.restore(store, abstract), state(2))


def test_a_damaged_checkpoint_without_sums_is_not_taken_either(tmp_path, abstract, capsys):
    fill(tmp_path, [2.0, 1.0])
    for name in ("sums.json", "_CHECKPOINT_METADATA"):  # as an older version wrote it
        (tmp_path / "checkpoints" / "2" / name).unlink()
    cut(tmp_path / "checkpoints" / "2" / "default" / "manifest.ocdbt")
    with checkpoints.manager(tmp_path) as store:
        assert int(checkpoints.restore(store, abstract).step) == 1
    assert "checkpoint 2" in capsys.readouterr().err


def test_want_of_memory_is_no_damage(tmp_path, abstract, monkeypatch):
    fill(tmp_path, [2.0, 1.0])

    def fails(*_):
        raise MemoryError("out of memory")

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", fails)
    with (
        checkpoints.manager(tmp_path) as store,
        pytest.raises(RunError, match=r"checkpoint 2 .* its files are sound: out of memory"),
    ):
        checkpoints.restore(store, abstract)


def test_what_a_killed_process_left_is_tidied_up(tmp_path):
    fill(tmp_path, [2.0, 1.0])
    folder = tmp_path / "checkpoints"
    for name in (".deleted-1", "3.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-12"):
        (folder / name / "default").mkdir(parents=True)
    with checkpoints.manager(tmp_path) as store:
        store.tidy()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


# -- while training goes on ---------------------------------------------------------------


def test_a_state_may_be_given_to_the_next_step_while_it_is_saved(tmp_path, abstract):
    move = jax.jit(lambda tree: jax.tree.map(lambda a: a * 2 + 1, tree), donate_argnums=0)
    big = state(1)._replace(params={"w": jnp.arange(2.0**20), "half": state(1).params["half"]})
    expected = jax.tree.map(np.array, big)
    with checkpoints.manager(tmp_path) as store:
        checkpoints.save(store, big, 1.0, wait=False)
        for _ in range(5):
            big = move(big)
        jax.block_until_ready(big)
        assert store.saving == 1
        store.wait()
        assert store.saving is None
        shapes = jax.eval_shape(lambda: big)
        tiny.assert_same_bits(checkpoints.restore(store, shapes), expected)


def test_a_save_that_fails_is_told_and_leaves_nothing_but_those_before(tmp_path, abstract):
    def fails(directory):
        raise OSError(28, "No space left on device")

    fill(tmp_path, [2.0, 1.0])
    before, threads = files(tmp_path), set(threading.enumerate())
    with checkpoints.manager(tmp_path) as store:
        for step in (3, 4, 5):
            store._handler.finalize = fails
            with pytest.raises(RunError, match=r"checkpoint . .*\(No space left.*good one is 2"):
                checkpoints.save(store, state(step), 0.5)
        assert files(tmp_path) == before
        assert set(threading.enumerate()) <= threads
        assert int(checkpoints.restore(store, abstract).step) == 2
        checkpoints.save(store, state(6), 0.5)  # there is room again
    assert steps(tmp_path) == [2, 6]


def test_a_checkpoint_of_before_is_restored(tmp_path, abstract, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(packed, "can_be", lambda tree: False)
        fill(tmp_path, [1.0])
    assert not (tmp_path / "checkpoints" / "1" / "packed.json").exists()
    with checkpoints.manager(tmp_path) as store:
        tiny.assert_same_bits(checkpoints.restore(store, abstract), state(1))
        checkpoints.save(store, state(2), 1.0)
        tiny.assert_same_bits(checkpoints.restore(store, abstract), state(2))
    assert (tmp_path / "checkpoints" / "2" / "packed.json").exists()


TREE = {
    "single": np.float32([[1.5, -0.0], [np.nan, np.inf]]),
    "half": jnp.arange(5, dtype=jnp.bfloat16),
    "whole": np.arange(3, dtype=np.int32),
    "long": np.uint32([2**32 - 1]),
    "bool": np.array([True, False, True]),
    "number": jnp.int32(7),
    "none": np.zeros((0, 3), np.float32),
    "turned": np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
    "pair": (jnp.ones(2), {"deep": jnp.zeros((1, 1))}),
}


@pytest.mark.parametrize("piece", [1, 7, packed.PIECE])
def test_a_packed_tree_comes_back_bit_for_bit(piece, monkeypatch):
    monkeypatch.setattr(packed, "PIECE", piece)
    tree = jax.tree.map(jnp.asarray, TREE)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree
    )
    pieces, layout = packed.pack(tree)
    assert max(len(part) for part in pieces) <= piece
    layout = json.loads(json.dumps(layout))
    tiny.assert_same_bits(packed.unpack(pieces, layout, abstract), tree)
    shapes = jax.tree.map(lambda leaf: leaf.shape, packed.shapes(layout)["pair"])
    assert shapes == {"0": (2,), "1": {"deep": (1, 1)}}
    del abstract["whole"]
    with pytest.raises(ValueError, match=r"whole is int32\[3\] in it, expected nothing"):
        packed.unpack(pieces, layout, abstract)
    abstract["whole"] = jax.ShapeDtypeStruct((4,), np.int32, sharding=device)
    with pytest.raises(ValueError, match=r"whole is int32\[3\] in it, expected int32\[4\]"):
        packed.unpack(pieces, layout, abstract)


@pytest.mark.parametrize("layout", [[], 3, {"a": 1}, [["w"]], [["params/w", "float99", [3]]], "x"])
def test_another_list_of_what_is_packed_is_told(layout, tmp_path, abstract):
    fill(tmp_path, [1.0])
    (tmp_path / "checkpoints" / "1" / "packed.json").write_text(json.dumps(layout))
    with checkpoints.manager(tmp_path) as store, pytest.raises(RunError, match=r"packed\.json has"):
        checkpoints.restore(store, abstract)
    (tmp_path / "checkpoints" / "1" / "sums.json").unlink()  # and by someone who knows the sums
    (tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA").unlink()
    with checkpoints.manager(tmp_path) as store, pytest.raises(RunError):
        checkpoints.restore(store, abstract)
