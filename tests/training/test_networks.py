"""Networks of any library: the pages' examples train, and what is wired wrongly is said."""

import functools
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxddim
from jaxddim.models import MLP

SCHEDULE = jaxddim.cosine(20)
MODEL, TX = MLP(features=(4,), time_dim=4), optax.sgd(0.1)
KEY = jax.random.key(0)
X, INDEX = jnp.ones((4, 2)), jnp.zeros(4, jnp.int32)
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own_networks.md"


@pytest.fixture(scope="module")
def page():
    names: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec("\n".join(blocks), names)
    return names


@pytest.mark.parametrize("name", ["function", "nnx", "equinox"])
def test_the_pages_networks_train_and_sample(page, name):
    network = page[name if name == "function" else f"{name}_network"]
    state, samples = page[f"{name}_state"], page[f"{name}_samples"]
    fresh = jaxddim.create_state(KEY, network, page["tx"], (1, 2))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, fresh)
    assert state.step == 20 and samples.shape == (4, 2)
    chex.assert_tree_all_finite((state, samples))
    weights = zip(jax.tree.leaves(state.params), jax.tree.leaves(fresh.params), strict=True)
    assert all(np.any(now != before) for now, before in weights)
    assert not np.array_equal(*(jax.tree.leaves(t)[0] for t in (state.params, state.ema_params)))


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_dropout_and_statistics_are_of_training_alone(page, name):
    network, state = page[f"{name}_network"], page[f"{name}_state"]
    variables, x = jaxddim.variables(state, "raw"), jax.random.normal(KEY, (8, 2))
    index = jnp.zeros(8, jnp.int32)

    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return network.apply(variables, x, index, train=True, mutable=["batch_stats"], rngs=rngs)

    one, again, other = trained(1), trained(1), trained(2)
    chex.assert_trees_all_equal(one, again)
    assert not np.allclose(one[0], other[0])
    alone = network.apply(variables, x[:1], index[:1])
    np.testing.assert_allclose(network.apply(variables, x, index)[:1], alone, atol=1e-6)
    if name == "nnx":
        moved = one[1]["batch_stats"]["norm"]["mean"]
        assert not np.allclose(moved[...], variables["batch_stats"]["norm"]["mean"][...])


def test_labels_reach_an_own_network_and_counters_are_counted():
    def init(key):
        return jax.random.normal(key, (3, 2)), {"calls": jnp.zeros((), jnp.int32)}

    def call(params, stats, x, index, key, label=None):
        return x + params[label], {"calls": stats["calls"] + 1}

    network = jaxddim.own_network(init, call)
    state = jaxddim.create_state(KEY, network, TX, (2,))
    step = jax.jit(
        functools.partial(jaxddim.train_step, apply_fn=network.apply, tx=TX, schedule=SCHEDULE)
    )
    batch = {"image": X, "label": jnp.array([0, 1, 0, 1])}
    after, _ = step(step(state, batch)[0], batch)
    assert after.model_state["batch_stats"]["calls"] == 2
    assert after.model_state["ema_batch_stats"]["calls"] == 2
    np.testing.assert_array_equal(after.params[2], state.params[2])
    assert np.all(after.params[:2] != state.params[:2])


# -- wiring --------------------------------------------------------------------------


def state():
    return jaxddim.create_state(KEY, MODEL, TX, (2,))


def step(apply_fn, state, batch=X, tx=TX):
    return jaxddim.train_step(state, batch, apply_fn=apply_fn, tx=tx, schedule=SCHEDULE)


def answers(value):
    return lambda variables, x, index, **options: value


@pytest.mark.parametrize(
    "apply_fn, match",
    [
        (lambda x, index: x, r"must take \(variables, x, index.*own_network"),
        (lambda variables, x, index: (x, {}), "must take.*own_network"),
        (lambda variables, x, index, train: (x, {}), "must take.*own_network"),
        (MODEL, "must take"),
        (None, "must take"),
        (answers(X), r"must return \(output, updates\).*float32\[4, 2\]"),
        (answers(X[:2]), r"must return \(output, updates\)"),
        (answers((X,)), "must return"),
        (answers((X, {}, {})), "must return"),
        (answers((X, X)), "must return"),
        (answers(None), "must return.*NoneType"),
        (answers(((X, X), {})), "one array of shape.*got a tuple of 2"),
        (answers((0.0, {})), "one array of shape.*got a float"),
        (answers((X[:, :1], {})), r"\(4, 2\), got \(4, 1\)"),
        (answers((X[0], {})), "batch axis is missing"),
        (answers((X, {"batch_stats": {}})), r"updates the collections \['batch_stats'\]"),
        (lambda v, x, i, *, train, mutable, rngs, label: (x, {}), "missing.*label"),
    ],
)
def test_an_apply_of_another_form_is_an_error(apply_fn, match):
    for call in (step, lambda *args: jax.jit(functools.partial(step, args[0]))(args[1])):
        with pytest.raises(ValueError, match=match):
            call(apply_fn, state())


def network(init=lambda key: ({}, {}), call=lambda params, stats, x, index, key: (x, stats)):
    return jaxddim.own_network(init, call)


class Raw:
    def init(self, key, x, index):
        return [jnp.zeros(3)]


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: jaxddim.create_state(KEY, lambda x, index: x, TX, (2,)), "own_network"),
        (lambda: jaxddim.create_state(KEY, MODEL.apply, TX, (2,)), "init"),
        (lambda: jaxddim.create_state(KEY, None, TX, (2,)), "NoneType"),
        (lambda: jaxddim.create_state(KEY, Raw(), TX, (2,)), "'params'.*own_network"),
        (lambda: jaxddim.create_state(KEY, network(lambda key: {}), TX, (2,)), "params, stats"),
        (lambda: jaxddim.create_state(KEY, network(lambda key: X), TX, (2,)), "params, stats"),
        (lambda: network(call=lambda *args: X).apply({"params": 0, "batch_stats": 0}, X, INDEX),
         r"must return \(output, stats\)"),
        (lambda: network(call=lambda *args: (X[:1], 0)).apply(
            {"params": 0, "batch_stats": 0}, X, INDEX), r"got \(1, 2\)"),
        (lambda: jaxddim.as_denoiser(SCHEDULE, MODEL), "bind its variables"),
        (lambda: jaxddim.as_denoiser(SCHEDULE, network()), "bind its variables"),
        (lambda: jaxddim.as_denoiser(lambda x, i: x, SCHEDULE), "schedule must be"),
        (lambda: step(MODEL.apply, X), "TrainState"),
        (lambda: jaxddim.train_step(
            state(), X, apply_fn=MODEL.apply, tx=TX, schedule=np.ones(3)), "schedule must be"),
    ],
)  # fmt: skip
def test_what_is_wired_wrongly_is_said(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("compiled", [jaxddim.jit_step, jaxddim.pmap_step])
def test_a_state_that_a_step_has_used_is_an_error(compiled):
    run = compiled(
        functools.partial(jaxddim.train_step, apply_fn=MODEL.apply, tx=TX, schedule=SCHEDULE)
    )
    batch = X if compiled is jaxddim.jit_step else X[None]
    first, _ = run(state(), batch)
    after, _ = run(first, batch)
    with pytest.raises(ValueError, match=r"given to a step before.*state that came back"):
        run(first, batch)
    run(after, batch)
    if compiled is jaxddim.jit_step:
        with pytest.raises(ValueError, match=r"one array twice.*copy"):
            fresh = state()
            run(fresh._replace(ema_params=fresh.params), batch)


# -- optimizers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "tx",
    [
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, rtol=0.9)),
        optax.contrib.reduce_on_plateau(patience=1, rtol=0.9),
        optax.polyak_sgd(),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
        optax.MultiSteps(optax.sgd(0.1), 2),
    ],
    ids=["plateau in a chain", "plateau", "polyak", "adam", "multi"],
)
def test_an_optimizer_may_want_the_loss(tx):
    run = jax.jit(lambda state: step(MODEL.apply, state, tx=tx)[0])
    before = after = jaxddim.create_state(KEY, MODEL, tx, (2,))
    for _ in range(4):
        after = run(after)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    chex.assert_tree_all_finite(after)
    scales = optax.tree.get_all_with_path(after.opt_state, "scale")
    assert all(scale < 1 for _, scale in scales)


def own(init=None, call=None):
    return jaxddim.own_network(
        init or (lambda key: ({"w": jnp.ones(2)}, {})),
        call or (lambda params, stats, x, index, key: (params["w"] * x, stats)),
    )


def trained(network, batch=X, **options):
    tx = optax.adam(1e-3)
    state = jaxddim.create_state(jax.random.key(0), network, tx, (2,))
    return jaxddim.train_step(
        state, batch, apply_fn=network.apply, tx=tx, schedule=jaxddim.linear(), **options
    )


LABELS = jnp.zeros(4, jnp.int32)
WIRINGS = {
    "swapped": (lambda: jaxddim.own_network(lambda p, s, x, i, k: 0, lambda k: 0), "init comes"),
    "call without stats": (lambda: own(call=lambda params, x, i, key: x), "own_network takes call"),
    "integers in params": (lambda: trained(own(lambda k: ({"n": jnp.ones(2, int)}, {}))), "float"),
    "text in params": (lambda: trained(own(lambda k: ({"n": "relu"}, {}))), "float arrays alone"),
    "other stats": (
        lambda: trained(own(call=lambda p, s, x, i, k: (p["w"] * x, {"m": x}))),
        "stats of the structure",
    ),
    "labels it does not take": (
        lambda: trained(own(), {"image": jnp.ones((4, 2)), "label": LABELS}),
        "call must take label=",
    ),
    "apply unbound": (
        lambda: jaxddim.as_denoiser(jaxddim.linear(), own().apply),
        "bind its variables",
    ),
    "misspelt label": (
        lambda: trained(own(), {"image": jnp.ones((4, 2)), "labels": LABELS}),
        "a dict of 'image', 'labels'",
    ),
    "misspelt image": (lambda: trained(own(), {"images": jnp.ones((4, 2))}), "a dict of 'images'"),
    "a pair": (lambda: trained(own(), (jnp.ones((4, 2)), LABELS)), "a batch must be images"),
    "one label": (
        lambda: trained(own(), {"image": jnp.ones((4, 2)), "label": LABELS[:1]}),
        "a batch must be images",
    ),
    "labels as floats": (
        lambda: trained(own(), {"image": jnp.ones((4, 2)), "label": jnp.zeros(4)}),
        "must be whole numbers",
    ),
    "tx not called": (
        lambda: jaxddim.create_state(jax.random.key(0), own(), optax.adam, (2,)),
        "tx must be an optimizer",
    ),
    "a class": (
        lambda: jaxddim.create_state(jax.random.key(0), MLP, optax.adam(1e-3), (2,)),
        "takes a network with init",
    ),
    "a number for a shape": (
        lambda: jaxddim.create_state(jax.random.key(0), own(), optax.adam(1e-3), 2),
        "sample_shape must be a shape",
    ),
    "variables of parameters": (lambda: jaxddim.variables({"w": 1}), "takes a TrainState"),
}


@pytest.mark.parametrize("name", WIRINGS)
def test_each_mistake_of_wiring_has_a_sentence(name):
    call, match = WIRINGS[name]
    with pytest.raises(ValueError, match=match):
        call()
