"""The model of memory and time by number of devices, and the plain network that it counts in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.contenders.networks import plain_layers
from benchmarks.studies import scale
from jaxddim.runs.build import build_model
from jaxddim.runs.presets import PRESETS


def test_the_plain_network_is_the_same_function():
    model = build_model(PRESETS["tiny"]().model)
    x, index = jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), jnp.array([3, 900])
    variables = model.init(jax.random.key(0), x, index)
    ours = model.apply(variables, x, index)
    with plain_layers():
        plain = model.apply(variables, x, index)
    np.testing.assert_allclose(ours, plain, atol=1e-5)


@pytest.fixture(scope="module")
def costs():
    return scale.counted(PRESETS["tiny"](), compiles=False)


def test_what_is_counted_of_a_network(costs):
    model = build_model(PRESETS["tiny"]().model)
    x, index = jnp.zeros((1, *PRESETS["tiny"]().data.shape)), jnp.zeros(1, jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, index)
    assert costs.parameters == sum(a.size for a in jax.tree.leaves(variables))
    kept = costs.kept
    assert kept["float32, remat"] < kept["float32"]
    assert kept["float32"] / 2 <= kept["bfloat16"] < kept["float32"]


def test_devices_share_the_images_and_with_split_state_the_state(costs):
    one = scale.memory(costs, 1, 64, "float32", False)
    eight = scale.memory(costs, 8, 64, "float32", False)
    state = 5 * 4 * costs.parameters
    assert one - eight == pytest.approx(56 * costs.kept["float32"])
    assert eight == pytest.approx(state + 8 * costs.kept["float32"])
    split = scale.memory(costs, 8, 64, "float32", True)
    assert eight - split == pytest.approx(4 * costs.parameters * (4 - 4 / 8 - 1))


@pytest.mark.parametrize("machine", scale.MACHINES, ids=lambda machine: machine.name)
def test_one_device_sums_nothing_and_more_devices_compute_less(costs, machine):
    alone, nothing = scale.seconds(costs, machine, 1, 64)
    shared, summing = scale.seconds(costs, machine, 8, 64)
    assert nothing == 0 < summing
    assert shared == pytest.approx(alone / 8)


def test_the_report_has_a_row_for_each_layout(costs):
    text = scale.report("tiny", costs)
    rows = [line for line in text if line.startswith("| ") and "batch" in line]
    assert len(rows) == 2 * len(scale.LAYOUTS)
