"""Named configurations: each can be built, written down, and read back."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.trainer import settings
from jaxddim.runs import build
from jaxddim.runs.config import MAY_DIFFER, Config, OptimConfig
from jaxddim.runs.flat import flatten, from_flat
from jaxddim.runs.presets import PRESETS

EVERY = pytest.mark.parametrize("name", PRESETS)


def parameters(config):
    state = build.abstract_state(build.build(config))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


@EVERY
def test_each_survives_the_way_through_json(name):
    config = PRESETS[name]()
    assert from_flat(json.loads(json.dumps(flatten(config)))) == config


def test_what_changes_nothing_has_its_default_where_a_record_lacks_it():
    kept = {k: v for k, v in flatten(Config(seed=3)).items() if k not in MAY_DIFFER}
    assert from_flat(kept) == Config(seed=3)


@pytest.mark.parametrize("name", sorted(MAY_DIFFER))
@pytest.mark.parametrize("place", ["help", "docs"])
def test_what_may_change_on_resuming_is_documented(name, place):
    text = Config.__doc__ if place == "help" else Path("docs/howto/commands.md").read_text()
    flag = "--" + name.replace("_", "-")
    assert re.search(rf"{flag}[`,; )]", text)


@EVERY
def test_each_is_called_by_its_name_and_says_how_it_is_started(name):
    assert PRESETS[name]().config == name
    command = f"python -m experiments.train --workdir runs/{name}"
    command += "" if name == next(iter(PRESETS)) else f" --config {name}"
    assert command in map(str.strip, PRESETS[name].__doc__.splitlines())


def test_the_default_is_the_seeds_experiment():
    config = PRESETS[next(iter(PRESETS))]()
    assert config.config == "cars"
    assert (config.data.image_size, config.train.batch_size, config.train.epochs) == (64, 32, 250)
    assert (config.optim.learning_rate, config.diffusion.norm) == (8e-5, "l1")


@EVERY
def test_each_builds_its_network_and_schedule_and_passes_its_own_checks(name):
    config = dataclasses.replace(PRESETS[name](), workdir="somewhere")
    settings.check(config)
    assert build.build_schedule(config.diffusion).num_steps == 1000
    assert parameters(config) > 0


@pytest.mark.parametrize(("name", "count"), [("cars", 62_438_883), ("cifar10", 35_746_307)])
def test_the_published_networks_have_as_many_parameters_as_published(name, count):
    assert parameters(PRESETS[name]()) == count


def rates(count, **options):
    """The learning rates of the first steps: with a constant gradient Adam moves by just these."""
    tx = build.build_optimizer(OptimConfig(learning_rate=0.5, **options))
    params = jnp.zeros(())
    opt_state = tx.init(params)
    moves = []
    for _ in range(count):
        move, opt_state = tx.update(jnp.ones(()), opt_state, params)
        moves.append(-float(move))
    return moves


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"channels": 24}),
        ("model", {"name": "simple_unet"}),
        ("optim", {"name": "muon"}),
        ("optim", {"averages": True}),
        ("data", {"channels": 1}),
        ("diffusion", {"variance": "learned"}),
    ],
    ids=str,
)
def test_a_new_state_is_traced_once_for_a_network_and_its_optimizer(part, change):
    config = PRESETS["tiny"]()
    shapes = build.abstract_state(build.build(config))
    again = dataclasses.replace(config, seed=1)
    assert build.build(again).create is build.build(config).create
    other = dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **change)}
    )
    assert build.build(other).create is not build.build(config).create
    assert build.abstract_state(build.build(other)) != shapes


def test_sizes_may_be_lists():
    config = PRESETS["cars64"]()
    sizes = {name: list(getattr(config.model, name)) for name in ("multipliers", "attention")}
    other = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **sizes),
        data=dataclasses.replace(config.data, image_size=[64, 64]),
    )
    assert build.build(other).create is build.build(config).create


def test_the_learning_rate_warms_up_linearly_stays_or_falls_along_a_cosine_to_a_hundredth():
    assert rates(3) == pytest.approx([0.5] * 3, rel=1e-4)
    expected = [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert rates(7, warmup_steps=4) == pytest.approx(expected, rel=1e-4)
    falling = [(0.99 * (1 + math.cos(math.pi * i / 4)) / 2 + 0.01) / 2 for i in range(5)]
    expected = [0, 0.25, *falling, 0.005]
    assert rates(8, warmup_steps=2, decay_steps=6) == pytest.approx(expected, rel=1e-4)


def test_clipping_bounds_the_gradients_norm_and_0_switches_it_off():
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}  # norm 5
    for clip, factor in ((1.0, 1 / 5), (10.0, 1), (0.0, 1)):
        tx = build.build_optimizer(OptimConfig(clip=clip))
        _, opt_state = tx.update(grads, tx.init(grads), grads)
        (mu,) = (
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state)
            if "mu" in jax.tree_util.keystr(path) and leaf.ndim == 0
        )
        assert float(mu) == pytest.approx(0.1 * 4 * factor)  # a tenth of the clipped gradient


def test_only_fields_that_exist_may_differ():
    assert flatten(Config()).keys() >= MAY_DIFFER


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tiny"]().seed = 1
