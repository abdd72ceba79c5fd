"""A training run: its files, validation, data, non-finite losses, and each kind of network."""

import concurrent.futures
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxddim
from experiments import data, train
from experiments.terminal import cli
from experiments.trainer import log, loop, validation
from jaxddim.runs import build
from jaxddim.runs import record as records
from jaxddim.runs.config import Config, DataConfig, LoopConfig
from jaxddim.runs.flat import flatten
from jaxddim.runs.presets import PRESETS
from tests import tiny
from tests.terminal.test_cli import assert_mistake

root = tiny.root


@pytest.fixture(scope="module")
def trained(root):
    workdir, finished = tiny.trained(root)
    assert (finished.code, tiny.complaints(finished.err)) == (0, [])
    return workdir


# -- files of a run ------------------------------------------------------------------


def test_config_json_holds_the_resolved_configuration_versions_and_data(trained, root):
    record = json.loads((trained / "config.json").read_text())
    assert record["config"].keys() == flatten(Config()).keys()
    assert record["config"]["model.channels"] == 4  # from a flag
    assert record["config"]["diffusion.schedule"] == "cosine"  # from the named configuration
    assert record["versions"]["jax"] == jax.__version__
    assert record["versions"]["jaxddim"] == jaxddim.__version__
    assert record["versions"].keys() >= {"python", "flax", "optax", "orbax-checkpoint", "grain"}
    images = data.load(records.load(str(trained)).data)
    assert record["data"]["source"] == "rendered"
    assert record["data"]["num_images"] == 64 == len(images.images)
    assert record["data"]["fingerprint"] == images.fingerprint


def test_metrics_jsonl_has_the_loss_at_log_points_and_the_end(trained):
    lines = tiny.metrics(trained)
    # 58 images in batches of 8: epochs end at steps 8 and 15; a log point every 5 steps
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "validation_loss" in line] == [5, 10, 15, 20]
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
    assert lines[0]["epoch"] == pytest.approx(5 * 8 / 58)
    assert lines[0]["images_per_second"] > 0


def test_the_validation_loss_of_a_short_run_falls(trained):
    losses = [
        line["validation_loss"] for line in tiny.metrics(trained) if "validation_loss" in line
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.97 * losses[0]


def test_tensorboard_has_the_same_numbers_and_the_pictures(trained):
    found = [(e.step, value) for e in tiny.events(trained) for value in e.summary.value]
    for name in ("loss", "validation_loss"):
        told = {step: value.simple_value for step, value in found if value.tag == name}
        logged = {line["step"]: line[name] for line in tiny.metrics(trained) if name in line}
        assert told == pytest.approx(logged)
    for name in ("samples", "samples_strip"):
        assert [step for step, value in found if value.tag == name] == [8, 15, 20]


def test_each_epoch_and_the_end_leave_a_grid_and_a_strip_of_ten(trained):
    names = [f"{step:07d}{kind}.png" for step in (8, 15, 20) for kind in ("", "_strip")]
    assert sorted(path.name for path in (trained / "samples").iterdir()) == names
    zoom = 96 // 8
    with Image.open(trained / "samples" / "0000020.png") as grid:
        assert grid.size == (2 * 8 * zoom + 2 * zoom,) * 2  # 4 images and a gap of 2 pixels
    with Image.open(trained / "samples" / "0000020_strip.png") as strip:
        assert strip.size == ((10 * 8 + 9 * 2) * zoom, 8 * zoom)


def test_the_strip_ends_in_the_first_image_of_the_grid(trained):
    grid, strip = (
        np.asarray(Image.open(trained / "samples" / f"0000020{kind}.png"))[::12, ::12]
        for kind in ("", "_strip")
    )
    np.testing.assert_array_equal(strip[:, -8:], grid[:8, :8])
    assert (strip[:, :8] != grid[:8, :8]).mean() > 0.5  # and begins in noise


def test_the_latest_two_checkpoints_are_kept(trained):
    assert tiny.saved(trained) == [15, 20]
    assert int(tiny.state(trained).step) == 20


def test_each_log_point_says_epoch_step_and_loss(root):
    _, finished = tiny.trained(root)
    last = tiny.metrics(root / "trained")[-2]
    assert f"epoch 2 | step 20 | loss {last['loss']:.5f} |" in finished.out
    assert "epoch 1 | step 10 | loss" in finished.out
    assert "step 8 |" not in finished.out
    assert "2,947 parameters" in finished.out
    assert "58 images of rendered at 8x8" in finished.out


def test_the_first_step_does_not_wait_for_tensorboard(root, tmp_path, monkeypatch):
    said, real = [], log.Log

    def spy(*args):
        said.append(sys.stdout.getvalue())
        return real(*args)

    monkeypatch.setattr(loop, "Log", spy)
    flags = [*tiny.flags(root, tmp_path), "--train.steps", "1"]
    assert tiny.command("train", *flags).code == 0
    assert "first step after" in said[0]


# -- validation ----------------------------------------------------------------------


def test_the_validation_loss_of_a_checkpoint_comes_out_again_to_the_last_bit(trained):
    config = records.load(str(trained))
    _, held_out = data.split(data.load(config.data), config.data.holdout)
    validate = validation.make_validation(
        config,
        build.build_model(config.model),
        build.build_schedule(config.diffusion),
        held_out.images,
    )
    logged = {m["step"]: m["validation_loss"] for m in tiny.metrics(trained) if len(m) == 2}
    for step in (15, 20, 15):
        assert validate(jaxddim.variables(tiny.state(trained, str(step)))) == logged[step]


class Index:
    """A network whose output is its time index, scaled so that nothing else matters."""

    def apply(self, variables, x, index):
        return 1e4 * jnp.broadcast_to(index[:, None, None, None], x.shape)


@pytest.mark.parametrize("count", [1, 6, 7, 8])
def test_validation_asks_every_image_once_at_its_own_evenly_spaced_noise_level(count):
    config = Config(train=LoopConfig(batch_size=4))
    images = np.zeros((count, 4, 4, 3), np.uint8)
    validate = validation.make_validation(config, Index(), jaxddim.linear(1000), images)
    levels = [math.floor((i + 0.5) / count * 1000) for i in range(count)]
    expected = sum(level**2 for level in levels) / count
    assert validate({}) / 1e8 == pytest.approx(expected, rel=1e-4)


# -- data --------------------------------------------------------------------------


def test_auto_without_stanford_cars_draws_them_says_so_and_records_it(root, tmp_path):
    flags = [*tiny.flags(root, tmp_path), "--data.source", "auto", "--train.steps", "1"]
    finished = tiny.command("train", *flags)
    assert finished.code == 0
    assert "Stanford Cars are not on this machine: training on rendered cars" in finished.out
    assert "python -m experiments.prepare --source cars196 --path DIR" in finished.out
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["data.source"] == record["data"]["source"] == "rendered"
    assert any("rendered cars instead" in note for note in record["data"]["notes"])
    # the source that auto stood for is kept, and giving it explicitly is the same run
    assert "nothing to do" in tiny.command("train", *flags).out
    named = [*tiny.flags(root, tmp_path), "--train.steps", "1"]
    assert "nothing to do" in tiny.command("train", *named).out


def test_holding_out_more_keeps_training_images_and_validation_images_apart():
    images = np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1)
    dataset = data.Dataset(images, np.zeros(64), "folder", (), "")
    train_set, held_out = data.split(dataset, DataConfig().holdout)
    assert set(train_set.images.flat) | set(held_out.images.flat) == set(range(64))
    assert len(train_set.images) + len(held_out.images) == 64


# -- a non-finite loss ---------------------------------------------------------------


def spoil(monkeypatch, step, change):
    """Changes what the training step returns at the given step."""
    real = jaxddim.jit_step

    def jit_step(*args, **options):
        compiled = real(*args, **options)

        def spoiled(state, batch):
            state, metrics = compiled(state, batch)
            return change(state, metrics) if int(state.step) == step else (state, metrics)

        return spoiled

    monkeypatch.setattr(jaxddim, "jit_step", jit_step)


def bad_loss(state, metrics):
    return state, metrics | {"loss": jnp.float32(jnp.nan)}


def bad_weights(state, metrics):
    return state._replace(ema_params=jax.tree.map(lambda a: a * jnp.nan, state.ema_params)), metrics


@pytest.mark.parametrize(("change", "step"), [(bad_loss, 12), (bad_loss, 15), (bad_weights, 15)])
def test_nan_stops_the_run_names_the_last_good_checkpoint_and_saves_no_other(
    root, tmp_path, monkeypatch, change, step
):
    spoil(monkeypatch, step, change)
    finished = tiny.command("train", *tiny.flags(root, tmp_path))
    last_good = f"the last good checkpoint: {tmp_path / 'checkpoints' / '10'}."
    assert_mistake(finished, f"error: the loss became nan at step {step};", last_good)
    assert tiny.saved(tmp_path) == [5, 10]
    validated = [line["step"] for line in tiny.metrics(tmp_path) if "validation_loss" in line]
    assert validated == [5, 10]


def test_a_run_that_really_diverges_leaves_no_checkpoint_with_ruined_weights(
    root, tmp_path, quick_compiler
):
    flags = ["--optim.learning-rate", "1e30", "--optim.clip", "0", "--train.checkpoint-every", "1"]
    finished = tiny.command("train", *tiny.flags(root, tmp_path), *tiny.SMALL, *flags)
    assert_mistake(finished, "error: the loss became")
    for step in tiny.saved(tmp_path):
        for leaf in jax.tree.leaves(tiny.state(tmp_path, str(step))):
            assert np.isfinite(leaf).all()


# -- networks ------------------------------------------------------------------------


@pytest.mark.slow  # compiles a network of its own
def test_the_seeds_network_trains_with_its_statistics_and_their_averages_saved(
    root, tmp_path, quick_compiler
):
    unet = ["--model.name", "simple_unet", "--model.channels", "8", "--model.multipliers", "1", "2"]
    flags = [*tiny.flags(root, tmp_path), *unet, "--train.steps", "3"]
    assert tiny.command("train", *flags).code == 0
    state = tiny.state(tmp_path)
    raw, averaged = (
        jax.tree.leaves(state.model_state[k]) for k in ("batch_stats", "ema_batch_stats")
    )
    initial = build.new_state(build.build(records.load(str(tmp_path)))).model_state["batch_stats"]
    for new, mean, old in zip(raw, averaged, jax.tree.leaves(initial), strict=True):
        assert np.isfinite(new).all()
        assert (new != old).any()
        assert (new != mean).any()
    assert tiny.metrics(tmp_path)[-1]["validation_loss"] > 0


@pytest.mark.slow  # compiles a network of its own
def test_bfloat16_in_two_parts_a_batch_trains_and_keeps_float32_parameters(
    root, tmp_path, quick_compiler
):
    flags = ["--model.dtype", "bfloat16", "--train.accumulate", "2", "--train.steps", "3"]
    finished = tiny.command("train", *tiny.flags(root, tmp_path), *tiny.SMALL, *flags)
    assert (finished.code, tiny.complaints(finished.err)) == (0, [])
    state = tiny.state(tmp_path)
    for leaf in jax.tree.leaves((state.params, state.ema_params, state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
        assert np.isfinite(leaf).all()
    model = build.build_model(records.load(str(tmp_path)).model)
    inputs = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, jnp.int32)
    jaxpr = jax.make_jaxpr(model.apply)(jaxddim.variables(state), *inputs)
    assert "bf16[" in str(jaxpr)


def test_a_thread_may_train(root, tmp_path, quick_compiler):
    flags = [*tiny.flags(root, tmp_path), *tiny.SMALL, "--train.steps", "1"]
    config = cli.parse(Config, flags, presets=PRESETS)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(train.train, config).result() == 0
    assert tiny.saved(tmp_path) == [1]
