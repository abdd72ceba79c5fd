"""DiT against the paper's formulas written out in NumPy, and its contract as a network."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxddim
from jaxddim.models import DiT
from jaxddim.models.dit import position

SMALL = DiT(channels=16, num_blocks=2, head_dim=8)
X = jax.random.normal(jax.random.key(1), (3, 8, 12, 3))
INDEX = jnp.array([0, 500, 999])


def randomised(model, seed=2):
    """Variables without zeros: freshly initialised, every block is the identity."""
    variables = jax.eval_shape(model.init, jax.random.key(0), X, INDEX)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.2, a.shape), a.dtype), variables)


def numpy_dit(params, x, index, label, patch, head_dim):
    def dense(name, h, tree=params):
        return h @ tree[name]["kernel"] + tree[name]["bias"]

    def swish(h):
        return h / (1 + np.exp(-h))

    def gelu(h):
        return h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)

    def waves(positions, features):
        w = 10000.0 ** (-np.arange(features // 2) / (features // 2))
        angles = np.asarray(positions, np.float64)[:, None] * w
        return np.concatenate([np.sin(angles), np.cos(angles)], -1)

    b, height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    c = dense("temb_dense_1", swish(dense("temb_dense_0", waves(index, 256))))
    if label is not None:
        c = c + params["label"]["embedding"][label]
    tokens = [
        x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].reshape(b, -1)
        for i in range(rows)
        for j in range(columns)
    ]
    h = dense("patches_in", np.stack(tokens, 1))
    d = h.shape[-1]
    places = [(i, j) for i in range(rows) for j in range(columns)]
    h = h + np.concatenate(
        [waves([j for _, j in places], d // 2), waves([i for i, _ in places], d // 2)], -1
    )
    for name in sorted(k for k in params if k.startswith("block_")):
        tree = params[name]
        parts = np.split(dense("modulation", swish(c), tree)[:, None], 6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        q, k, v = np.split(dense("qkv", norm(h) * (1 + scale1) + shift1, tree), 3, -1)
        heads = []
        for s in range(0, d, head_dim):
            one = [a[..., s : s + head_dim] for a in (q, k, v)]
            logits = one[0] @ one[1].swapaxes(1, 2) / np.sqrt(head_dim)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ one[2])
        h = h + gate1 * dense("proj_out", np.concatenate(heads, -1), tree)
        wide = gelu(dense("mlp_0", norm(h) * (1 + scale2) + shift2, tree))
        h = h + gate2 * dense("mlp_1", wide, tree)
    shift, scale = np.split(dense("modulation", swish(c))[:, None], 2, -1)
    h = dense("patches_out", norm(h) * (1 + scale) + shift)
    out = np.zeros(x.shape)
    for token, (i, j) in enumerate(places):
        square = h[:, token].reshape(b, patch, patch, channels)
        out[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = square
    return out


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("classes", [None, 5])
def test_the_paper_written_out(patch, classes):
    model = SMALL.clone(patch=patch, num_classes=classes)
    label = None if classes is None else jnp.array([0, 4, 5])
    variables = randomised(model)
    with jax.default_matmul_precision("highest"):
        output = model.apply(variables, X, INDEX, label=label)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    args = np.asarray(X, np.float64), np.asarray(INDEX), label
    expected = numpy_dit(wide, *args, patch=patch, head_dim=8)
    np.testing.assert_allclose(output, expected, atol=2e-4 * np.abs(expected).max())


def test_the_official_number_of_parameters():
    model = DiT(num_classes=1000, out_channels=8)  # DiT-S/2, which learns the variance
    x = jnp.zeros((1, 32, 32, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jnp.zeros(1, jnp.int32))
    positions = 256 * 384  # counted there, but not trained
    assert sum(a.size for a in jax.tree.leaves(shapes)) + positions == 32_963_360


def test_it_starts_at_zero_and_without_a_label_is_the_null_class():
    model = SMALL.clone(num_classes=5)
    fresh = model.init(jax.random.key(0), X, INDEX)
    assert not np.any(model.apply(fresh, X, INDEX))
    variables = randomised(model)
    null = model.apply(variables, X, INDEX, label=jnp.full(3, 5))
    np.testing.assert_array_equal(model.apply(variables, X, INDEX), null)
    assert np.abs(model.apply(variables, X, INDEX, label=jnp.zeros(3, jnp.int32)) - null).max() > 0


def test_places_differ_and_rows_and_columns_are_told_apart():
    places = np.asarray(position(4, 4, 16)).reshape(16, -1)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert distances[~np.eye(16, dtype=bool)].min() > 0.1
    np.testing.assert_allclose(position(3, 5, 16)[..., :8], position(5, 5, 16)[:3, :, :8])


def test_remat_changes_nothing_and_bfloat16_little():
    variables = randomised(SMALL)

    def slope(model):
        return jax.grad(lambda v: jnp.sum(model.apply(v, X, INDEX) ** 2))(variables)

    for a, b in zip(
        jax.tree.leaves(slope(SMALL)), jax.tree.leaves(slope(SMALL.clone(remat=True))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    full = SMALL.apply(variables, X, INDEX)
    half = SMALL.clone(dtype=jnp.bfloat16).apply(variables, X, INDEX)
    assert half.dtype == jnp.float32
    assert np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_a_step_of_training_with_labels_changes_all_parameters():
    model = SMALL.clone(num_classes=5)
    tx = optax.adam(1e-2)
    state = jaxddim.create_state(jax.random.key(0), model, tx, X.shape[1:])
    step = jaxddim.jit_step(
        functools.partial(
            jaxddim.train_step, apply_fn=model.apply, tx=tx, schedule=jaxddim.cosine(), kind="v"
        )
    )
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(4):
        state, metrics = step(state, {"image": X, "label": jnp.array([0, 1, 5])})
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, state.params)
    assert all(jax.tree.leaves(moved)), moved


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_is_lowered_for_each_platform(platform):
    variables = randomised(SMALL)
    exported = jax.export.export(jax.jit(SMALL.apply), platforms=[platform])(variables, X, INDEX)
    assert exported.out_avals[0].shape == X.shape


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (SMALL.clone(head_dim=5), X.shape, "multiple of both head_dim and 8"),
        (SMALL.clone(channels=12, head_dim=4), X.shape, "multiple of both head_dim and 8"),
        (SMALL.clone(patch=3), X.shape, "8x12 images.*patch=3.*multiples of 3"),
        (SMALL.clone(num_blocks=0), X.shape, "num_blocks=0: it must be positive"),
    ],
)
def test_what_cannot_be_built_is_named(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(shape[0], jnp.int32))


def test_a_label_of_no_class_is_named():
    with pytest.raises(ValueError, match="without num_classes"):
        SMALL.init(jax.random.key(0), X, INDEX, label=INDEX)
    with pytest.raises(ValueError, match="label"):
        SMALL.clone(num_classes=5).init(jax.random.key(0), X, INDEX, label=jnp.array([0, 1, 6]))
