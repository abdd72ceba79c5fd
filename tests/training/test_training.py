"""Training: the network's inputs, the effect of one step, and that resuming, compiling and
sharding over devices change nothing."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from jax import lax

import jaxddim
from jaxddim.models import MLP

SCHEDULE = jaxddim.cosine(20)
MODEL = MLP(features=(16,), time_dim=8)
TX = optax.adam(1e-2)
BATCH = jax.random.normal(jax.random.key(5), (16, 2))


class Normed(nn.Module):
    """A network with running statistics, without a bias, which they would cancel."""

    @nn.compact
    def __call__(self, x, index, train=False):
        h = nn.Dense(8, use_bias=False)(jnp.concatenate([x, index[:, None] / 20], axis=-1))
        h = nn.BatchNorm(use_running_average=not train, momentum=0.5)(h)
        return nn.Dense(x.shape[-1])(nn.relu(h))


@functools.lru_cache
def initial(model, tx):
    create = jax.jit(lambda key: jaxddim.create_state(key, model, tx, (2,)))
    return jax.device_get(create(jax.random.key(0)))


def setup(model=MODEL, tx=TX, **options):
    state = jax.tree.map(jnp.array, initial(model, tx))  # fresh, to be donated
    options = {"apply_fn": model.apply, "tx": tx, "schedule": SCHEDULE} | options
    return state, functools.partial(jaxddim.train_step, **options)


def run(state, step, n, batch=BATCH):
    metrics = []
    for _ in range(n):
        state, m = step(state, batch)
        metrics.append(m)
    return state, metrics


def spied(size, record, steps, x0, **options):
    """What ``record(x_t, index, **extra)`` saw in each of many steps.

    The spy is pure: it outputs zeros, and returns what it saw as its batch statistics.
    """

    def apply_fn(variables, x, index, *, train, mutable, rngs, **extra):
        assert train and mutable == ["batch_stats"] and set(rngs) == {"dropout"}
        chex.assert_type(index, jnp.int32)
        return 0 * x, {"batch_stats": {"seen": record(x, index, **extra)}}

    empty = {"seen": jnp.zeros(size)}
    tx = optax.sgd(0.0)
    params = jnp.zeros(())
    state = jaxddim.TrainState(
        jnp.zeros((), jnp.int32), params,
        {"batch_stats": empty, "ema_batch_stats": empty}, params, tx.init(params),
    )  # fmt: skip
    step = functools.partial(
        jaxddim.train_step, apply_fn=apply_fn, tx=tx, schedule=SCHEDULE, **options
    )

    def body(state, _):
        state, metrics = step(state, x0)
        return state, (state.model_state["batch_stats"]["seen"], metrics["loss"])

    return jax.jit(lambda state: lax.scan(body, state, length=steps)[1])(state)


def test_times_are_uniform_over_steps_and_within_a_batch():
    """A loop that reseeds in every step would always train on the same few times."""
    seen, _ = spied(32, lambda x, index: index.astype(jnp.float32), 1000, jnp.zeros((32, 2)))
    seen = np.asarray(seen).astype(int)
    assert seen.min() == 0 and seen.max() == 19
    for counts in (
        np.bincount(seen.ravel(), minlength=20),
        np.bincount(seen[:, 0], minlength=20),  # one position of the batch over steps
        np.bincount(20 * seen[1:, 0] + seen[:-1, 0], minlength=400),  # successive steps
        np.bincount(20 * seen[:, 0] + seen[:, 1], minlength=400),  # neighbours in the batch
    ):
        assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_noise_is_standard_normal_and_new_in_every_step_and_example():
    sigma = np.sqrt(1 - np.asarray(SCHEDULE.alpha_bar))

    def noise(x, index):
        return x / jnp.asarray(sigma)[index + 1][:, None]

    seen = np.asarray(spied((8, 16), noise, 50, jnp.zeros((8, 16)))[0]).reshape(400, 16)
    assert scipy.stats.kstest(seen.ravel(), "norm").pvalue > 1e-3
    assert len(np.unique(seen.round(3), axis=0)) == 400
    other = spied((8, 16), noise, 1, jnp.zeros((8, 16)), seed=1)[0]
    assert not np.allclose(other[0], seen[:8])


def test_the_network_is_fed_x_t_with_the_index_t_minus_1():
    """With a huge x_0 the noise is negligible, so x_t / x_0 tells which alpha_t was used."""
    record = lambda x, index: jnp.stack([x[:, 0] / 1e6, index.astype(jnp.float32)])  # noqa: E731
    seen, _ = spied((2, 64), record, 10, jnp.full((64, 1), 1e6))
    scale, index = np.asarray(seen).transpose(1, 0, 2).reshape(2, -1)
    phi = (np.arange(21) / 20 + 0.008) / 1.008 * np.pi / 2
    alpha = np.cos(phi) / np.cos(phi[0])  # of the cosine schedule, except its last step
    inner = index < 19
    np.testing.assert_allclose(scale[inner], alpha[index[inner].astype(int) + 1], atol=1e-4)


def test_labels_of_a_dict_batch_reach_the_network():
    labels = jnp.array([3, 1, 2, 0])
    batch = {"image": jnp.zeros((4, 2)), "label": labels}
    for accumulate in (1, 2):
        seen, _ = spied(
            4 // accumulate, lambda x, index, label: label.astype(jnp.float32), 1, batch,
            accumulate=accumulate,
        )  # fmt: skip
        assert seen[0].tolist() == labels[-4 // accumulate :].tolist()
    nothing, _ = spied((), lambda x, index, **extra: jnp.float32(len(extra)), 1, batch["image"])
    assert nothing[0] == 0


def test_labels_are_dropped_as_often_as_asked_and_nothing_else_changes():
    batch = {"image": jnp.zeros((400, 2)), "label": jnp.arange(400) % 5}
    both = lambda x, index, label: jnp.stack([x[:, 0], 1.0 * index, 1.0 * label])  # noqa: E731
    plain, _ = spied((3, 400), both, 8, batch)
    seen, _ = spied((3, 400), both, 8, batch, null_label=5, label_dropout=0.2)
    plain, seen = np.asarray(plain), np.asarray(seen)
    np.testing.assert_array_equal(plain[:, :2], seen[:, :2])
    dropped = seen[:, 2] == 5
    assert 0.16 < dropped.mean() < 0.24
    assert len(np.unique(dropped, axis=0)) == 8
    np.testing.assert_array_equal(seen[:, 2][~dropped], plain[:, 2][~dropped])
    with pytest.raises(ValueError, match="label_dropout must lie in"):
        spied((3, 400), both, 1, batch, null_label=5, label_dropout=1.0)


@pytest.mark.parametrize(
    "options, expected",
    [({"kind": "x0", "norm": "l2"}, 9.0), ({"kind": "x0", "norm": "l1"}, 3.0), ({}, 1.0)],
)
def test_the_loss_of_a_network_that_answers_zero_is_known(options, expected):
    """Mean square of x_0 = 3, its mean absolute value, and the variance of eps."""
    _, loss = spied((), lambda x, index: jnp.zeros(()), 100, jnp.full((64, 2), 3.0), **options)
    np.testing.assert_allclose(np.mean(loss), expected, rtol=0.05)


@pytest.mark.parametrize("model", [MODEL, Normed()])
def test_loss_falls_on_one_batch(model):
    state, step = setup(model)
    _, metrics = run(state, jaxddim.jit_step(step), 300)
    losses = np.array([m["loss"] for m in metrics])
    assert losses[-50:].mean() < 0.7 * losses[:10].mean()


def test_an_x0_network_without_inputs_learns_the_mean_of_the_data():
    def apply_fn(variables, x, index, **_):
        return jnp.broadcast_to(variables["params"], x.shape), {}

    params = jnp.zeros(2)
    tx = optax.sgd(0.5)  # the gradient of a mean square over 2 coordinates is the difference
    state = jaxddim.TrainState(jnp.zeros((), jnp.int32), params, {}, params, tx.init(params))
    step = functools.partial(
        jaxddim.train_step, apply_fn=apply_fn, tx=tx, schedule=SCHEDULE, kind="x0"
    )
    state, _ = jax.jit(step)(state, BATCH)
    np.testing.assert_allclose(state.params, np.mean(BATCH, 0) / 2, rtol=1e-5)


def test_grad_norm_is_that_before_clipping():
    tx = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    state, step = setup(tx=tx)
    after, metrics = jax.jit(step)(state, BATCH)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-3)
    state, step = setup(tx=optax.sgd(1.0))
    after, _ = jax.jit(step)(state, BATCH)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    np.testing.assert_allclose(metrics["grad_norm"], moved, rtol=1e-3)
    assert moved > 1e-2


def test_grad_norm_of_large_arrays():
    sizes = [(4096,), (4097,), (66, 78), (3, 3, 32, 64), (5, 4**6)]
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(size).astype(np.float32) for size in sizes]

    def apply_fn(variables, x, index, **_):
        slope = sum(jnp.vdot(p, g) for p, g in zip(variables["params"], grads, strict=True))
        return x * 0 + slope, {}

    params = [jnp.zeros(size) for size in sizes]
    tx = optax.sgd(1.0)
    state = jaxddim.TrainState(jnp.zeros((), jnp.int32), params, {}, params, tx.init(params))
    options = {"apply_fn": apply_fn, "tx": tx, "schedule": SCHEDULE}
    after, metrics = jax.jit(functools.partial(jaxddim.train_step, **options))(state, BATCH)
    moved = np.concatenate([np.asarray(p, np.float64).ravel() for p in after.params])
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(moved), rtol=1e-6)
    assert np.linalg.norm(moved) > 1


def test_resumed_training_equals_uninterrupted_bit_for_bit():
    state, step = setup(Normed())
    step = jaxddim.jit_step(step)
    saved = jax.tree.map(np.array, run(state, step, 3)[0])  # as a checkpoint holds it
    resumed, _ = run(jax.tree.map(jnp.asarray, saved), step, 3)
    whole, _ = run(setup(Normed())[0], step, 6)
    assert resumed.step == 6
    chex.assert_trees_all_equal(resumed, whole)


def test_jit_equals_eager():
    state, step = setup(Normed())
    eager = run(state, step, 2)
    chex.assert_trees_all_close(run(state, jaxddim.jit_step(step), 2), eager, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"kind": "v", "weighting": jaxddim.min_snr(kind="v")}])
def test_accumulating_four_parts_equals_the_whole_batch(options):
    state, step = setup(tx=optax.sgd(0.1), **options)
    whole = run(state, jax.jit(step), 2)
    parts = run(state, jax.jit(functools.partial(step, accumulate=4)), 2)
    chex.assert_trees_all_close(parts, whole, atol=1e-6)


def test_the_average_warms_up_and_holds_the_statistics_too():
    state, step = setup(Normed(), ema=0.3)
    step = jax.jit(step)
    average = {k: jax.tree.map(np.float64, v) for k, v in jaxddim.variables(state, "raw").items()}
    chex.assert_trees_all_equal(jaxddim.variables(state, "ema"), jaxddim.variables(state, "raw"))
    decays = [0.1, 2 / 11, 3 / 12, 0.3, 0.3, 0.3]  # (1 + n) / (10 + n), at most 0.3
    for d in decays:
        state, _ = step(state, BATCH)
        now = jaxddim.variables(state, "raw")
        average = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * np.float64(b), average, now)
    chex.assert_trees_all_close(jaxddim.variables(state, "ema"), average, atol=1e-5)
    assert set(now) == {"params", "batch_stats"}
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(jaxddim.variables(state, "ema"), now, atol=1e-4)
    with pytest.raises(ValueError, match="weights"):
        jaxddim.variables(state, "best")


def test_a_new_state_is_drawn_from_the_laws_of_the_networks_own_initialisers():
    """For a Flax network, and for any other object with an init."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, index):
            x = nn.Dense(64, kernel_init=nn.initializers.normal(0.3), name="normal")(x)
            uniform = nn.initializers.uniform(0.5)
            x = nn.Dense(64, kernel_init=uniform, bias_init=nn.initializers.ones, name="a")(x)
            return nn.Dense(64, kernel_init=uniform, name="b")(x)

    class Other:
        def init(self, key, x, index):
            assert index.shape == x.shape[:1]
            return Two().init(key, x, index)

    for model in (Two(), Other()):
        state = jaxddim.create_state(jax.random.key(3), model, TX, (64,))
        normal, a, b = (np.ravel(state.params[name]["kernel"]) for name in ("normal", "a", "b"))
        assert scipy.stats.kstest(normal / 0.3, "norm").pvalue > 1e-3
        assert scipy.stats.kstest(a / 0.5, "uniform").pvalue > 1e-3
        assert scipy.stats.kstest(b / 0.5, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.06  # 4 standard deviations
        assert np.all(np.asarray(state.params["a"]["bias"]) == 1)
        assert not np.any(state.params["b"]["bias"])
        chex.assert_trees_all_equal(state.ema_params, state.params)
        other = jaxddim.create_state(jax.random.key(4), model, TX, (64,))
        assert abs(np.corrcoef(a, np.ravel(other.params["a"]["kernel"]))[0, 1]) < 0.06


def test_the_state_holds_arrays_only_and_keeps_its_types():
    state, step = jaxddim.create_state(jax.random.key(0), Normed(), TX, (2,)), setup(Normed())[1]
    after, metrics = jax.jit(step)(state, BATCH)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((state, after, metrics)))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    chex.assert_type([state.step, *metrics.values()], [jnp.int32, jnp.float32, jnp.float32])
    assert after.step == 1


def test_a_bfloat16_network_leaves_parameters_average_and_loss_in_float32():
    state, step = setup(MLP(features=(16,), time_dim=8, dtype=jnp.bfloat16))
    state, metrics = jax.jit(step)(state, BATCH)
    chex.assert_type(jax.tree.leaves((state.params, state.ema_params, metrics)), jnp.float32)
    chex.assert_tree_all_finite((state, metrics))


def test_a_run_compiles_once_and_reuses_the_memory_of_its_state():
    chex.clear_trace_counter()
    state, step = jaxddim.create_state(jax.random.key(0), Normed(), TX, (2,)), setup(Normed())[1]

    def counted(state, batch):
        return step(state, batch)

    jitted = jaxddim.jit_step(chex.assert_max_traces(counted, n=1))
    after, _ = run(state, jitted, 4)
    restored = jax.tree.map(jnp.asarray, jax.tree.map(np.array, after))
    run(restored, jitted, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))


def test_devices_of_one_step_draw_different_times_and_noise():
    """Averaged over 8 devices, independent noise has an eighth of its variance."""
    state, step = setup(tx=optax.sgd(0.0))

    def apply_fn(variables, x, index, **_):
        return 0 * x, {"batch_stats": {"x": x, "hot": jax.nn.one_hot(index, 20)}}

    step = functools.partial(step, apply_fn=apply_fn, axis_name="batch")
    stats = {"x": jnp.zeros((16, 2)), "hot": jnp.zeros((16, 20))}
    state = state._replace(model_state={"batch_stats": stats, "ema_batch_stats": stats})
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name="batch"))
    state, _ = mapped(state, jnp.zeros((8, 16, 2)))
    seen = jax.tree.map(lambda a: a[0], state.model_state["batch_stats"])
    assert np.var(seen["x"]) < 0.3
    assert np.mean(np.max(seen["hot"], axis=-1)) < 0.6


@pytest.mark.parametrize(
    "options, match",
    [
        ({"kind": "epsilon"}, "kind"),
        ({"norm": "l3"}, "norm"),
        ({"ema": 1.0}, "ema"),
        ({"ema": -0.1}, "ema"),
        ({"accumulate": 3}, "3 equal parts"),
        ({"accumulate": 0}, "0 equal parts"),
        ({"schedule": jaxddim.zero_terminal_snr(SCHEDULE)}, "zero terminal SNR"),
    ],
)
def test_impossible_options_are_errors(options, match):
    state, step = setup(**options)
    for call in (step, jax.jit(step)):
        with pytest.raises(ValueError, match=match):
            call(state, BATCH)


def test_zero_terminal_snr_trains_with_v():
    state, step = setup(schedule=jaxddim.zero_terminal_snr(SCHEDULE), kind="v")
    chex.assert_tree_all_finite(run(state, jax.jit(step), 5))


# -- steps of the user's own ----------------------------------------------------------


def forwarded(step):
    return lambda state, batch, axis_name=None: step(state, batch, axis_name=axis_name)


def with_any_option(step):
    @functools.wraps(step)
    def wrapper(*args, **options):
        return step(*args, **options)

    return wrapper


@pytest.mark.parametrize("wrap", [forwarded, with_any_option, lambda step: step])
def test_a_wrapped_step_that_passes_its_axis_on_is_the_step(wrap):
    batch = jnp.ones((1, 4, 2))
    expected = jaxddim.pmap_step(setup()[1])(setup()[0], batch)
    chex.assert_trees_all_equal(jaxddim.pmap_step(wrap(setup()[1]))(setup()[0], batch), expected)


def test_a_step_that_cannot_average_over_devices_is_refused():
    state, step = setup()
    for hidden in (lambda state, batch: step(state, batch), jax.jit(lambda s, b: step(s, b))):
        with pytest.raises(ValueError, match="takes no axis_name"):
            jaxddim.pmap_step(hidden)
    deaf = jaxddim.pmap_step(lambda state, batch, axis_name=None: step(state, batch))
    with pytest.raises(ValueError, match="does not use its axis_name='batch'"):
        deaf(state, jnp.ones((1, 4, 2)))
