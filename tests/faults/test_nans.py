"""A loss that is no number: the run stops, or goes back and skips that batch, once and for all."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxddim
from experiments.trainer import monitor, rollback
from experiments.trainer.rollback import Skip
from tests import tiny
from tests.faults.conftest import flags
from tests.terminal.test_cli import assert_mistake

root = tiny.root
BAD = 7
"""The number of the batch that diverges, which is that of step 8."""


pytestmark = pytest.mark.usefixtures("quick_compiler")


class Spoiled:
    """A training step that makes weights of NaN from some batches."""

    def __init__(self, monkeypatch):
        self.seen, self.bad, self.metric = [], set(), "loss"
        real = jaxddim.jit_step

        def jit_step(*args, **options):
            compiled = real(*args, **options)

            def step(state, batch):
                self.seen.append(hash(np.asarray(batch).tobytes()))
                state, metrics = compiled(state, batch)
                if self.seen[-1] in self.bad:
                    ruined = jax.tree.map(lambda a: a * jnp.nan, state.params)
                    state = state._replace(params=ruined)
                    metrics |= {self.metric: jnp.float32(math.nan)}
                return state, metrics

            return step

        monkeypatch.setattr(jaxddim, "jit_step", jit_step)


@pytest.fixture
def spoiled(monkeypatch):
    return Spoiled(monkeypatch)


def train(root, workdir, *more, code=0):
    finished = tiny.command("train", *flags(root, workdir, "--train.steps", 14, *more))
    assert finished.code == code, finished
    return finished


@pytest.mark.parametrize("metric", ["loss", "grad_norm"])
def test_a_batch_that_diverges_is_skipped_for_good_and_whoever_resumes_knows(
    root, tmp_path, spoiled, metric
):
    train(root, tmp_path / "usual")
    spoiled.bad, spoiled.metric = {spoiled.seen[BAD]}, metric
    told = f"the {metric.replace('_', ' ')} became nan at step 8"
    stopped = train(root, tmp_path / "run", code=2)
    assert_mistake(stopped, told, "or --train.on-nan rollback to skip such a batch")
    assert tiny.saved(tmp_path / "run") == [3, 6]
    # it may be switched on when the run resumes
    finished = train(root, tmp_path / "run", "--train.on-nan", "rollback")
    assert f"{told}: back to step 6, and on without its batch" in finished.out
    found = json.loads((tmp_path / "run" / rollback.NAME).read_text())["skipped"]
    assert found == [{"batch": BAD, "step": 8, "why": told, "back_to": 6}]
    # a run that never met that batch, and one that resumes over and over
    listed = tmp_path / "listed"
    listed.mkdir()
    rollback.write(str(listed), [Skip(**found[0])])
    train(root, listed)
    resumed = tmp_path / "resumed"
    for steps in (5, 9, 14):
        train(root, resumed, "--train.on-nan", "rollback", "--train.steps", steps)
    for other in (listed, resumed):
        assert tiny.saved(other) == tiny.saved(tmp_path / "run")
        for step in tiny.saved(other):
            tiny.assert_same_bits(
                tiny.state(other, str(step)), tiny.state(tmp_path / "run", str(step))
            )
    assert tiny.computed(listed) == tiny.computed(tmp_path / "run")
    usual, skipping = (tiny.state(tmp_path / name) for name in ("usual", "run"))
    pairs = zip(jax.tree.leaves(usual.params), jax.tree.leaves(skipping.params), strict=True)
    assert any((a != b).any() for a, b in pairs)


def test_before_the_first_checkpoint_it_goes_back_to_the_start(root, tmp_path, spoiled):
    train(root, tmp_path / "usual")
    spoiled.bad = {spoiled.seen[0], spoiled.seen[1]}
    finished = train(root, tmp_path / "run", "--train.on-nan", "rollback")
    assert finished.out.count("back to step 0") == 2
    found = rollback.read(str(tmp_path / "run"))
    assert [(skip.batch, skip.step, skip.back_to) for skip in found] == [(0, 1, 0), (1, 1, 0)]
    assert tiny.saved(tmp_path / "run")[-1] == 14


def test_a_run_skips_only_so_many_batches(root, tmp_path, spoiled, monkeypatch):
    monkeypatch.setattr(rollback, "MOST", 2)
    train(root, tmp_path / "usual")
    spoiled.bad = set(spoiled.seen[BAD : BAD + 9])
    finished = train(root, tmp_path / "run", "--train.on-nan", "rollback", code=2)
    (line,) = tiny.complaints(finished.err)
    assert "became nan at step 8 after 2 batches were skipped" in line
    assert f"the last good checkpoint: {tmp_path / 'run' / 'checkpoints' / '6'}" in line
    assert [skip.batch for skip in rollback.read(str(tmp_path / "run"))] == [7, 8]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_either_metric_tells_and_the_loss_first(name, value):
    metrics = {"grad_norm": jnp.float32(1), "loss": jnp.float32(1)} | {name: jnp.float32(value)}
    with pytest.raises(monitor.Diverged, match=f"{name.replace('_', ' ')} became {value} at step"):
        monitor.read(3, metrics)
    with pytest.raises(monitor.Diverged, match="the loss became"):
        monitor.read(3, metrics | {"loss": jnp.float32(value)})


def test_the_stream_without_skipped_batches_is_the_same_from_every_step():
    def batches(first_step):
        return iter(range(first_step, 100))

    skips = [Skip(batch, 1, "", 0) for batch in (0, 4, 5, 9)]
    taken = [number for number in range(40) if number not in (0, 4, 5, 9)]
    for step in range(20):
        found = rollback.stream(batches, step, skips)
        assert [next(found) for _ in range(5)] == taken[step : step + 5]
        assert rollback.number(step + 1, skips) == taken[step]
