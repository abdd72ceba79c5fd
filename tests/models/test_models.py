"""The networks against independent references: PyTorch's layers in float64 NumPy, written from
their definitions and connected as in the seed and in the official DDIM code.

All weights are drawn at random: in a freshly initialised UNet every block is the identity, which
would hide errors.
"""

import math
import re
from functools import partial

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxddim.models import MLP, SimpleUNet, UNet, unet
from jaxddim.models.embedding import sinusoidal
from jaxddim.models.norm import BatchNorm, GroupNorm
from jaxddim.models.patches import depth_to_space, space_to_depth
from jaxddim.models.simple_unet import Block
from jaxddim.models.unet import upsample

# Compiles twice as fast, to slower code; comparisons with the references use plain jax.jit.
fast_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIMPLE = SimpleUNet(channels=(6, 8, 10), time_dim=8)
SMALL = UNet(channels=8, multipliers=(1, 2), num_blocks=1, attention=(4,), groups=4)

TINY = SMALL.copy(multipliers=(1,), attention=())


@pytest.fixture
def unchecked():
    """What users see: outside the tests nothing checks the shapes in signatures."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_shapes_in_signatures_are_checked_here():
    variables = MLP().init(jax.random.key(0), jnp.zeros((3, 2)), jnp.zeros(3, jnp.int32))
    with pytest.raises(jaxtyping.TypeCheckError, match="index"):
        MLP().apply(variables, jnp.zeros((3, 2)), jnp.zeros(4, jnp.int32))


def images(batch=2, height=8, width=8, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 1000, batch), jnp.int32)


def drawn(model, x, index, seed=0, **kwargs):
    """Random weights of the network's shapes, scaled to keep activations near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        value = rng.normal(size=leaf.shape)
        if name in ("kernel", "embedding"):
            value /= math.sqrt(np.prod(leaf.shape[:-1])) if name == "kernel" else 1
        elif name in ("scale", "var"):
            value = 1 + 0.3 * np.tanh(value)
        else:
            value *= 0.3
        return jnp.asarray(value, leaf.dtype)

    shapes = jax.eval_shape(partial(model.init, **kwargs), jax.random.key(0), x, index)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def simple():
    x, index = images()
    return drawn(SIMPLE, x, index), jax.jit(partial(SIMPLE.apply, train=False))


@pytest.fixture(scope="module")
def small():
    x, index = images()
    return drawn(SMALL, x, index), jax.jit(partial(SMALL.apply, train=False))


# ---------------------------------------------------------------------------------------------
# PyTorch's layers from their definitions: NCHW, kernels [out, in, k, k]
# ---------------------------------------------------------------------------------------------


def torch_weights(variables, name_of):
    """Our variables as a PyTorch state dict: `name_of(path)` names a module; layouts change."""
    weights = {}
    flat = jax.tree_util.tree_leaves_with_path(variables)
    for path, leaf in flat:
        *path, leaf_name = [entry.key for entry in path[1:]]
        module = name_of("/".join(path))
        value = np.asarray(leaf, np.float64)
        if leaf_name == "kernel" and path[0].startswith("up_") and path[-1] == "transform":
            value = value[::-1, ::-1].transpose(2, 3, 0, 1)  # transposed: [in, out, k, k], mirrored
        elif leaf_name == "kernel" and value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif leaf_name == "kernel":
            value = value.T
        names = {
            "kernel": "weight",
            "scale": "weight",
            "mean": "running_mean",
            "var": "running_var",
        }
        weights[f"{module}.{names.get(leaf_name, leaf_name)}"] = value
    return weights


def conv2d(w, name, x, stride=1, pad=(1, 1)):
    weight = w[f"{name}.weight"]
    x = np.pad(x, ((0, 0), (0, 0), pad, pad))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight) + w[f"{name}.bias"][:, None, None]


def conv_transpose2d(w, name, x):
    """Each input pixel adds its multiple of the 4x4 kernel to the output, cropped by 1."""
    weight = w[f"{name}.weight"]
    b, _, height, width = x.shape
    y = np.zeros((b, weight.shape[1], 2 * height + 2, 2 * width + 2))
    for i in range(height):
        for j in range(width):
            y[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "bc,coij->boij", x[:, :, i, j], weight
            )
    return y[:, :, 1:-1, 1:-1] + w[f"{name}.bias"][:, None, None]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def conv1x1(w, name, x):
    return np.moveaxis(linear(w, name, np.moveaxis(x, 1, -1)), -1, 1)


def relu(x):
    return np.maximum(x, 0)


def swish(x):
    return x / (1 + np.exp(-x))


def waves(index, dim):
    angle = np.asarray(index)[:, None] / 10000 ** (np.arange(dim // 2) / (dim // 2 - 1))
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


def nchw(x):
    return np.asarray(x, np.float64).transpose(0, 3, 1, 2)


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


# ---------------------------------------------------------------------------------------------
# The seed's network
# ---------------------------------------------------------------------------------------------


def seed_name(path):
    path = re.sub(r"^(down|up)_(\d)", r"\1s/\2", path).replace("norm", "bnorm")
    return {"time": "time_mlp.1"}.get(path, path.replace("time", "time_mlp")).replace("/", ".")


def seed_network(w, x, index, train):
    """The forward pass of the seed's figures 1 and 2; training updates `w`'s running statistics."""

    def norm(name, x):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        if train:
            rows = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
            w[f"{name}.running_mean"] = 0.9 * mean + 0.1 * rows.mean(0)
            w[f"{name}.running_var"] = 0.9 * var + 0.1 * rows.var(0, ddof=1)
            mean, var = rows.mean(0), rows.var(0)
        y = (np.moveaxis(x, 1, -1) - mean) / np.sqrt(var + 1e-5)
        return np.moveaxis(y * w[f"{name}.weight"] + w[f"{name}.bias"], -1, 1)

    def block(name, x, up):
        h = norm(f"{name}.bnorm1", relu(conv2d(w, f"{name}.conv1", x)))
        h = h + relu(linear(w, f"{name}.time_mlp", t))[:, :, None, None]
        h = norm(f"{name}.bnorm2", relu(conv2d(w, f"{name}.conv2", h)))
        transform = conv_transpose2d if up else partial(conv2d, stride=2)
        return transform(w, f"{name}.transform", h)

    t = relu(linear(w, "time_mlp.1", waves(index, 8)))
    x = conv2d(w, "conv0", x)
    first = x = block("downs.0", x, up=False)
    second = x = block("downs.1", x, up=False)
    x = block("ups.0", np.concatenate([x, second], 1), up=True)
    x = block("ups.1", np.concatenate([x, first], 1), up=True)
    return conv1x1(w, "output", x)


def test_simple_unet_is_the_seeds_network_in_inference(simple):
    variables, apply = simple
    x, index = images(3, 12, 8)
    expected = nhwc(seed_network(torch_weights(variables, seed_name), nchw(x), index, train=False))
    assert expected.std() > 0.1
    np.testing.assert_allclose(apply(variables, x, index), expected, atol=2e-5)


def test_simple_unet_is_the_seeds_network_in_training(simple):
    variables, _ = simple
    x, index = images(3)
    weights = torch_weights(variables, seed_name)
    expected = nhwc(seed_network(weights, nchw(x), index, train=True))
    train = jax.jit(partial(SIMPLE.apply, train=True, mutable=["batch_stats"]))
    output, updates = train(variables, x, index)
    np.testing.assert_allclose(output, expected, atol=2e-5)
    moved = torch_weights(variables | updates, seed_name)
    chex.assert_trees_all_close(moved, weights, atol=2e-6)
    chex.assert_trees_all_equal_structs(updates, {"batch_stats": variables["batch_stats"]})


def test_simple_unet_is_the_seeds_network_in_pytorch(simple):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; NumPy's result is used")

    class Positions(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, time):
            half = self.dim // 2
            scale = math.log(10000) / (half - 1)
            angles = time[:, None] * torch.exp(torch.arange(half) * -scale)[None, :]
            return torch.cat((angles.sin(), angles.cos()), dim=-1)

    class Block(torch.nn.Module):  # the seed's figure 2
        def __init__(self, in_ch, out_ch, time_emb_dim, up=False):
            super().__init__()
            self.time_mlp = torch.nn.Linear(time_emb_dim, out_ch)
            if up:
                self.conv1 = torch.nn.Conv2d(2 * in_ch, out_ch, 3, padding=1)
                self.transform = torch.nn.ConvTranspose2d(out_ch, out_ch, 4, 2, 1)
            else:
                self.conv1 = torch.nn.Conv2d(in_ch, out_ch, 3, padding=1)
                self.transform = torch.nn.Conv2d(out_ch, out_ch, 4, 2, 1)
            self.conv2 = torch.nn.Conv2d(out_ch, out_ch, 3, padding=1)
            self.bnorm1 = torch.nn.BatchNorm2d(out_ch)
            self.bnorm2 = torch.nn.BatchNorm2d(out_ch)
            self.relu = torch.nn.ReLU()

        def forward(self, x, t):
            h = self.bnorm1(self.relu(self.conv1(x)))
            time_emb = self.relu(self.time_mlp(t))
            h = h + time_emb[(...,) + (None,) * 2]
            h = self.bnorm2(self.relu(self.conv2(h)))
            return self.transform(h)

    class SimpleUnet(torch.nn.Module):  # the seed's figure 1, with its sizes as arguments
        def __init__(self, down=(64, 128, 256, 512, 1024), time_emb_dim=32):
            super().__init__()
            up = down[::-1]
            self.time_mlp = torch.nn.Sequential(
                Positions(time_emb_dim),
                torch.nn.Linear(time_emb_dim, time_emb_dim),
                torch.nn.ReLU(),
            )
            self.conv0 = torch.nn.Conv2d(3, down[0], 3, padding=1)
            self.downs = torch.nn.ModuleList(
                [Block(down[i], down[i + 1], time_emb_dim) for i in range(len(down) - 1)]
            )
            self.ups = torch.nn.ModuleList(
                [Block(up[i], up[i + 1], time_emb_dim, up=True) for i in range(len(up) - 1)]
            )
            self.output = torch.nn.Conv2d(up[-1], 3, 1)

        def forward(self, x, timestep):
            t = self.time_mlp(timestep)
            x = self.conv0(x)
            residual_inputs = []
            for down in self.downs:
                x = down(x, t)
                residual_inputs.append(x)
            for up in self.ups:
                residual_x = residual_inputs.pop()
                x = torch.cat((x, residual_x), dim=1)
                x = up(x, t)
            return self.output(x)

    assert sum(weight.numel() for weight in SimpleUnet().parameters()) == 62_438_883
    variables, apply = simple
    x, index = images(3)

    def state(variables):
        weights = torch_weights(variables, seed_name)
        weights["output.weight"] = weights["output.weight"][:, :, None, None]
        return {name: torch.tensor(np.ascontiguousarray(w)).float() for name, w in weights.items()}

    network = SimpleUnet(SIMPLE.channels, SIMPLE.time_dim)
    counters = {k: v for k, v in network.state_dict().items() if "num_batches" in k}
    network.load_state_dict(state(variables) | counters)
    inputs = torch.tensor(nchw(x)).float(), torch.tensor(np.asarray(index))
    with torch.no_grad():
        expected = network.eval()(*inputs).numpy()
        np.testing.assert_allclose(apply(variables, x, index), nhwc(expected), atol=2e-5)
        expected = network.train()(*inputs).numpy()
    output, updates = SIMPLE.apply(variables, x, index, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(output, nhwc(expected), atol=2e-5)
    for name, value in state(variables | updates).items():
        np.testing.assert_allclose(network.state_dict()[name], value, atol=2e-6, err_msg=name)


# ---------------------------------------------------------------------------------------------
# The network of DDPM and the official DDIM code
# ---------------------------------------------------------------------------------------------


def official_name(path):
    path = re.sub(r"^(down|up)_(\d)_(block|attn)_(\d)", r"\1.\2.\3.\4", path)
    path = re.sub(r"^(down|up)_(\d)_(down|up)sample", r"\1.\2.\3sample.conv", path)
    path = re.sub(r"^mid_", "mid.", path)
    return re.sub(r"^temb_dense_", "temb.dense.", path).replace("/", ".")


def official_network(w, x, index, channels, levels, num_blocks, attention, groups):
    """The forward pass of the official code; a block has a shortcut layer if `w` does."""

    def norm(name, x):
        runs = x.reshape(x.shape[0], groups, -1)
        runs = (runs - runs.mean(-1, keepdims=True)) / np.sqrt(runs.var(-1, keepdims=True) + 1e-6)
        y = runs.reshape(x.shape)
        return y * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def block(name, x):
        h = conv2d(w, f"{name}.conv1", swish(norm(f"{name}.norm1", x)))
        h = h + linear(w, f"{name}.temb_proj", swish(temb))[:, :, None, None]
        h = conv2d(w, f"{name}.conv2", swish(norm(f"{name}.norm2", h)))
        if f"{name}.nin_shortcut.weight" in w:
            x = conv1x1(w, f"{name}.nin_shortcut", x)
        return x + h

    def attend(name, x):
        b, c, height, width = x.shape
        h = norm(f"{name}.norm", x)
        q, k, v = (conv1x1(w, f"{name}.{part}", h).reshape(b, c, -1) for part in "qkv")
        weights = np.exp(np.einsum("bci,bcj->bij", q, k) / math.sqrt(c))
        weights /= weights.sum(2, keepdims=True)
        h = np.einsum("bij,bcj->bci", weights, v).reshape(b, c, height, width)
        return x + conv1x1(w, f"{name}.proj_out", h)

    temb = linear(w, "temb.dense.1", swish(linear(w, "temb.dense.0", waves(index, channels))))
    skips = [conv2d(w, "conv_in", x)]
    for level in range(levels):
        for i in range(num_blocks):
            h = block(f"down.{level}.block.{i}", skips[-1])
            if h.shape[2] in attention:
                h = attend(f"down.{level}.attn.{i}", h)
            skips.append(h)
        if level < levels - 1:
            name = f"down.{level}.downsample.conv"
            skips.append(conv2d(w, name, skips[-1], stride=2, pad=(0, 1)))
    h = block("mid.block_2", attend("mid.attn_1", block("mid.block_1", skips[-1])))
    for level in reversed(range(levels)):
        for i in range(num_blocks + 1):
            h = block(f"up.{level}.block.{i}", np.concatenate([h, skips.pop()], 1))
            if h.shape[2] in attention:
                h = attend(f"up.{level}.attn.{i}", h)
        if level > 0:
            h = conv2d(w, f"up.{level}.upsample.conv", h.repeat(2, 2).repeat(2, 3))
    assert not skips
    return conv2d(w, "conv_out", swish(norm("norm_out", h)))


def test_unet_is_the_official_network():
    settings = {"channels": 8, "num_blocks": 2, "attention": (4,), "groups": 4}
    model = UNet(multipliers=(1, 2, 3), **settings)
    x, index = images()
    variables = drawn(model, x, index)
    weights = torch_weights(variables, official_name)
    expected = nhwc(official_network(weights, nchw(x), index, levels=3, **settings))
    assert expected.std() > 0.1
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x, index), expected, atol=3e-5)


@pytest.mark.parametrize(
    "model, size, count",
    [
        (SimpleUNet(), 64, 62_438_883),  # the seed
        (UNet(), 32, 35_746_307),  # the papers' CIFAR10
        (UNet(multipliers=(1, 2, 2, 2, 4)), 64, 78_700_803),  # the DDIM paper's CelebA
        (UNet(channels=64), 32, 8_952_067),
    ],
    ids=["seed", "cifar10", "celeba", "half"],
)
def test_parameter_counts_are_the_published_ones(model, size, count):
    x, index = jnp.zeros([1, size, size, 3]), jnp.zeros([1], jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, index)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_initial_unet_answers_nearly_zero_from_identity_blocks():
    x, index = images(2, 4, 4)
    output, variables = fast_jit(TINY.init_with_output)(jax.random.key(0), x, index)
    params = variables["params"]
    assert 0 < np.abs(output).max() < 1e-3
    assert np.abs(params["mid_block_1"]["conv2"]["kernel"]).max() < 1e-5
    bound = math.sqrt(3 / ((9 * 8 + 9 * 8) / 2))  # variance 1 / fan_avg
    largest = np.abs(params["mid_block_1"]["conv1"]["kernel"]).max()
    assert 0.95 * bound < largest <= bound


def test_initial_simple_unet_is_drawn_as_pytorch_draws_it():
    block = Block(features=16, up=True)
    x, embedding = jnp.zeros([1, 2, 2, 8]), jnp.zeros([1, 32])
    variables = fast_jit(partial(block.init, train=False))(jax.random.key(0), x, embedding)
    params = variables["params"]
    for name, fan_in in [("conv1", 9 * 8), ("conv2", 9 * 16), ("transform", 256), ("time", 32)]:
        largest = np.abs(params[name]["kernel"]).max() * math.sqrt(fan_in)
        assert 0.95 < largest <= 1
        np.testing.assert_array_equal(params[name]["bias"], np.zeros(16))
    np.testing.assert_array_equal(variables["batch_stats"]["norm1"]["mean"], np.zeros(16))
    np.testing.assert_array_equal(variables["batch_stats"]["norm1"]["var"], np.ones(16))


# ---------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------


def test_sinusoidal_known_values():
    value = sinusoidal(jnp.array([0, 1, 999]), 6)
    w = np.array([1, 1e-2, 1e-4])
    expected = [np.concatenate([np.sin(i * w), np.cos(i * w)]) for i in (0, 1, 999)]
    np.testing.assert_allclose(value, expected, atol=1e-4)  # float32 angles up to 999
    np.testing.assert_allclose(value[:2], expected[:2], atol=1e-7)


def test_group_norm_equals_flax_and_survives_an_offset():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), [2, 4, 6, 12])
    variables = {"params": {"scale": jnp.linspace(0.5, 2, 12), "bias": jnp.linspace(-1, 1, 12)}}
    flax = nn.GroupNorm(num_groups=4, epsilon=1e-6)
    expected = fast_jit(flax.apply)(variables, x)
    np.testing.assert_allclose(fast_jit(GroupNorm(4).apply)(variables, x), expected, atol=1e-5)
    constant = jnp.full([1, 8, 8, 4], 1234.567)  # E[x^2] - E[x]^2 may round below 0
    variables = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    loss = fast_jit(jax.value_and_grad(lambda x: jnp.sum(GroupNorm(2).apply(variables, x) ** 2)))
    chex.assert_tree_all_finite(loss(constant))


def test_group_norm_statistics_are_float32_in_bfloat16():
    x = (100 + jax.random.normal(jax.random.key(0), [1, 32, 32, 8])).astype(jnp.bfloat16)
    variables = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    y = GroupNorm(2, dtype=jnp.bfloat16).apply(variables, x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64).reshape(1, 1024, 2, 4)
    exact = (exact - exact.mean((1, 3), keepdims=True)) / exact.std((1, 3), keepdims=True)
    np.testing.assert_allclose(np.asarray(y, np.float64).reshape(exact.shape), exact, atol=2e-2)


def test_batch_norm_running_statistics_are_pytorchs():
    x = jnp.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    stats = {"mean": jnp.zeros(2), "var": jnp.ones(2)}
    variables = {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}, "batch_stats": stats}
    y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [0.9 + 0.4, 0.9 + 0.3], rtol=1e-6)
    a = math.sqrt(1.5)  # the batch is divided by the biased deviation
    np.testing.assert_allclose(y[:, 0], [-a, 0, a], atol=1e-5)


def test_pixels_keep_their_place():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 1], [2, 3, 6, 7])
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 2), 2), x)
    y = images(2, 4, 12)[0]
    np.testing.assert_array_equal(depth_to_space(space_to_depth(y, 4), 4), y)
    np.testing.assert_array_equal(upsample(y), np.repeat(np.repeat(y, 2, 1), 2, 2))


# ---------------------------------------------------------------------------------------------
# The common interface: training and inference, batches, dtypes, options
# ---------------------------------------------------------------------------------------------


def test_inference_leaves_running_statistics_alone(simple):
    variables, _ = simple
    x, index = images()
    apply = fast_jit(partial(SIMPLE.apply, train=False, mutable=["batch_stats"]))
    _, updates = apply(variables, x, index)
    chex.assert_trees_all_equal(updates["batch_stats"], variables["batch_stats"])


def test_batch_norm_over_an_axis_sees_the_whole_batch(simple):
    variables, _ = simple
    x, index = images(4)
    whole = fast_jit(partial(SIMPLE.apply, train=True, mutable=["batch_stats"]))
    model = SIMPLE.copy(axis_name="devices")
    shard = partial(model.apply, variables, train=True, mutable=["batch_stats"])
    shards = fast_jit(jax.vmap(shard, axis_name="devices"))
    output, updates = shards(x.reshape(2, 2, 8, 8, 3), index.reshape(2, 2))
    expected, expected_updates = whole(variables, x, index)
    np.testing.assert_allclose(output.reshape(expected.shape), expected, atol=2e-5)
    for device in range(2):
        of_device = jax.tree.map(lambda leaf, i=device: leaf[i], updates)
        chex.assert_trees_all_close(of_device, expected_updates, atol=1e-6)


def test_dropout_acts_in_training_only(small):
    variables, apply = small
    x, index = images()
    train = fast_jit(
        lambda key: SMALL.apply(
            variables, x, index, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
    )
    first, updates = train(jax.random.key(0))
    assert jax.tree.leaves(updates) == []
    np.testing.assert_array_equal(train(jax.random.key(0))[0], first)
    assert np.abs(train(jax.random.key(1))[0] - first).max() > 1e-2
    assert np.abs(apply(variables, x, index) - first).max() > 1e-2


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_its_share_and_the_mean(rate):
    dropped = unet._dropout(jax.random.key(0), jnp.ones((3, 101, 333)), rate)  # odd size
    assert abs(float(jnp.mean(dropped == 0)) - rate) < 5e-3
    values = np.unique(dropped)
    np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-4)
    first, second = dropped.reshape(-1)[:-1:2] == 0, dropped.reshape(-1)[1::2] == 0
    assert abs(float(jnp.mean(first & second)) - rate**2) < 5e-3  # the two halves of a random word


def test_without_dropout_training_equals_inference(small):
    variables, apply = small
    x, index = images()
    model = SMALL.copy(dropout=0.0)
    output = fast_jit(partial(model.apply, train=True))(variables, x, index)
    np.testing.assert_allclose(output, apply(variables, x, index), atol=1e-5)


@pytest.mark.parametrize("fixture", ["simple", "small"])
def test_an_image_does_not_depend_on_its_batch(fixture, request):
    variables, apply = request.getfixturevalue(fixture)
    x, index = images(8)
    together = apply(variables, x, index)
    alone = [apply(variables, x[i : i + 1], index[i : i + 1])[0] for i in (0, 3, 7)]
    np.testing.assert_allclose(alone, together[jnp.array([0, 3, 7])], atol=1e-5)


@pytest.mark.parametrize("fixture", ["simple", "small"])
def test_the_index_is_heard(fixture, request):
    variables, apply = request.getfixturevalue(fixture)
    x, _ = images(2)
    same = jnp.stack([x[0], x[0]])
    output = apply(variables, same, jnp.array([10, 500]))
    assert np.abs(output[0] - output[1]).max() > 1e-2


@pytest.mark.parametrize("model", [SIMPLE, TINY, MLP(features=(8, 8))])
def test_one_trace_serves_all_values_of_a_shape(model):
    x, index = images() if not isinstance(model, MLP) else (jnp.ones([2, 3]), jnp.array([0, 1]))
    variables = jax.eval_shape(model.init, jax.random.key(0), x, index)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    chex.clear_trace_counter()
    apply = fast_jit(chex.assert_max_traces(lambda *args: model.apply(*args), n=1))
    for value in (index, index + 1, index * 0):
        apply(variables, x + 1, value)


@pytest.mark.parametrize("fixture, model", [("simple", SIMPLE), ("small", SMALL)])
def test_every_parameter_has_a_finite_gradient_that_acts(fixture, model, request):
    variables, _ = request.getfixturevalue(fixture)
    x, index = images(4)
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss(params):
        output, _ = model.apply(
            {"params": params, **rest},
            x,
            index,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.mean((output - x) ** 2)

    gradients = fast_jit(jax.grad(loss))(variables["params"])
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        if [entry.key for entry in path[-2:]] != ["k", "bias"]:  # softmax ignores a shift of keys
            assert np.abs(gradient).max() > 1e-6, path


def test_remat_changes_neither_numbers_nor_gradients():
    x, index = images(2, 4, 4)
    variables = drawn(TINY, x, index)

    def value_and_gradients(model):
        def loss(variables):
            rngs = {"dropout": jax.random.key(0)}
            return jnp.sum(model.apply(variables, x, index, train=True, rngs=rngs) ** 2)

        return fast_jit(jax.value_and_grad(loss))(variables)

    again = TINY.copy(remat=True)
    chex.assert_trees_all_equal_shapes(
        jax.eval_shape(again.init, jax.random.key(0), x, index), variables
    )
    chex.assert_trees_all_close(
        value_and_gradients(again), value_and_gradients(TINY), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("fixture, model", [("simple", SIMPLE), ("small", SMALL)])
def test_bfloat16_computes_roughly_the_same_and_answers_in_float32(fixture, model, request):
    variables, apply = request.getfixturevalue(fixture)
    x, index = images()
    half = model.copy(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, index)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)
    output = fast_jit(half.apply)(variables, x, index)
    assert output.dtype == jnp.float32
    expected = apply(variables, x, index)
    error = np.sqrt(np.mean((output - expected) ** 2)) / np.std(expected)
    assert 1e-4 < error < 0.05


def test_labels_and_the_null_class():
    model = SMALL.copy(num_classes=3)
    x, index = images(3)
    variables = drawn(model, x, index)
    assert variables["params"]["label"]["embedding"].shape == (4, 32)
    apply = fast_jit(model.apply)
    null = apply(variables, x, index, label=jnp.array([3, 3, 3]))
    np.testing.assert_allclose(apply(variables, x, index), null, atol=1e-6)
    mixed = apply(variables, x, index, label=jnp.array([0, 3, 2]))
    np.testing.assert_allclose(mixed[1], null[1], atol=1e-5)
    assert np.abs(mixed[0] - null[0]).max() > 1e-2
    assert np.abs(mixed[2] - null[2]).max() > 1e-2


def test_patch_keeps_the_image_and_shrinks_the_features():
    model = SMALL.copy(patch=2, attention=(8,), out_channels=6)
    x, index = images(2, 16, 24)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, index)
    assert variables["params"]["conv_in"]["kernel"].shape == (3, 3, 12, 8)
    assert variables["params"]["conv_out"]["kernel"].shape == (3, 3, 8, 24)
    assert {name for name in variables["params"] if "attn" in name} == {
        "down_0_attn_0", "mid_attn_1", "up_0_attn_0", "up_0_attn_1",
    }  # fmt: skip
    assert jax.eval_shape(model.apply, variables, x, index).shape == (2, 16, 24, 6)


@pytest.mark.parametrize(
    ("ours", "other"),
    [(SMALL, SMALL.copy(channels=16)), (SIMPLE, SIMPLE.copy(channels=(6, 8, 12)))],
)
def test_parameters_of_another_shape_are_said(ours, other):
    x, index = jnp.zeros([2, 8, 8, 3]), jnp.zeros(2, jnp.int32)
    variables = jax.eval_shape(other.init, jax.random.key(0), x, index)
    with pytest.raises(flax.errors.ScopeParamShapeError, match="the existing parameter"):
        jax.eval_shape(ours.apply, variables, x, index)


def test_mlp_follows_the_same_contract():
    model = MLP(features=(16, 16))
    x = jax.random.normal(jax.random.key(0), [5, 2])
    index = jnp.arange(5)
    variables = fast_jit(model.init)(jax.random.key(1), x, index)
    output = model.apply(variables, x, index)
    chex.assert_shape(output, (5, 2))
    trained, updates = model.apply(
        variables,
        x,
        index,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(2)},
    )
    np.testing.assert_array_equal(trained, output)
    assert jax.tree.leaves(updates) == []
    params = jax.tree.map(np.float64, variables["params"])

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    e = dense("time_1", swish(dense("time_0", waves(index, 64))))
    h = np.asarray(x, np.float64)
    for i in range(2):
        h = swish(dense(f"hidden_{i}", h) + dense(f"hidden_{i}_time", e))
    np.testing.assert_allclose(output, dense("output", h), atol=1e-5)


X, INDEX = jax.ShapeDtypeStruct((2, 8, 8, 3), "float32"), jax.ShapeDtypeStruct((2,), "int32")


@pytest.mark.parametrize(
    "model, x, index, message",
    [
        (UNet(channels=48), X, INDEX, "48 channels .* groups=32"),
        (UNet(channels=64, multipliers=(1, 2), groups=48), X, INDEX, "64 channels"),
        (SMALL.copy(multipliers=(1, 2, 2, 2, 2)), X, INDEX, "8x8 images.*multiples of 16"),
        (SMALL.copy(patch=3), X, INDEX, "patch=3 .*multiples of 6"),
        (SMALL.copy(multipliers=()), X, INDEX, "at least one level"),
        (SMALL.copy(multipliers=(1, 0)), X, INDEX, "positive"),
        (SMALL.copy(num_blocks=0), X, INDEX, "num_blocks=0"),
        (SMALL.copy(attention=(16,)), X, INDEX, r"attention=\(16,\).*size 16, they have 8, 4"),
        (SMALL.copy(attention=(4, 2)), X, INDEX, "size 2, they have 8, 4"),
        (SMALL.copy(patch=2, attention=(8,)), X, INDEX, "size 8, they have 4, 2"),
        (SMALL.copy(multipliers=(1,)), X, INDEX, "size 4, they have 8"),
        (SMALL.copy(dropout=1.0), X, INDEX, "dropout=1.0"),
        (SMALL.copy(channels=2, groups=1), X, INDEX, "2 features"),
        (SMALL.copy(out_channels=0), X, INDEX, "0 output channels"),
        (SimpleUNet(), X, INDEX, "8x8 images.*multiples of 16"),
        (SimpleUNet(channels=(8,)), X, INDEX, r"channels=\(8,\)"),
        (SimpleUNet(channels=(8, 8), time_dim=7), X, INDEX, "7 features"),
        (SIMPLE, jax.ShapeDtypeStruct((8, 8, 3), "float32"), INDEX, "channels last"),
        (SIMPLE, jax.ShapeDtypeStruct((2, 8, 8, 3), "uint8"), INDEX, "uint8"),
        (SIMPLE, jax.ShapeDtypeStruct((2, 0, 8, 3), "float32"), INDEX, "0x8 images"),
        (SIMPLE, X, jax.ShapeDtypeStruct((), "int32"), r"int32\[2\], got int32\[\]"),
        (SMALL, X, jax.ShapeDtypeStruct((3,), "int32"), r"int32\[2\], got int32\[3\]"),
        (SMALL, X, jax.ShapeDtypeStruct((2,), "float32"), "got float32"),
        (MLP(), X, INDEX, r"\[b, d\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_work_is_said(model, x, index, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), x, index)


@pytest.mark.parametrize(
    "model, label, message",
    [
        (SMALL, jax.ShapeDtypeStruct((2,), "int32"), "without num_classes"),
        (SMALL.copy(num_classes=3), jax.ShapeDtypeStruct((1,), "int32"), "one integer label"),
        (SMALL.copy(num_classes=3), jax.ShapeDtypeStruct((2,), "float32"), "one integer label"),
        (SMALL.copy(num_classes=0), None, "num_classes=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_label_is_said(model, label, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), X, INDEX, label=label)


LABELLED = TINY.copy(num_classes=3)


@pytest.mark.parametrize("make", [list, np.array, jnp.array], ids=["list", "numpy", "jax"])
@pytest.mark.parametrize("label", [[0, 4], [-1, 0], [0, 100], [3, -4]])
@pytest.mark.usefixtures("unchecked")
def test_a_label_beyond_the_classes_is_said(make, label):
    variables = jax.eval_shape(LABELLED.init, jax.random.key(0), X, INDEX)

    def call(variables, label=None):
        x, index = jnp.zeros(X.shape), jnp.zeros(2, int)
        return LABELLED.apply(variables, x, index, label=label)

    message = "one integer label" if make is list else r"0\.\.3"  # 3 is the null class
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(call, label=make(label)), variables)
    jax.eval_shape(partial(call, label=np.array([3, 0])), variables)
    jax.eval_shape(call, variables, label=jnp.array(label))  # traced


@pytest.mark.parametrize("model", [SIMPLE, TINY, MLP()])
@pytest.mark.usefixtures("unchecked")
def test_a_negative_index_is_said(model):
    x = jnp.zeros((2, 2) if isinstance(model, MLP) else X.shape)
    for index in (np.array([0, -1]), jnp.array([-1, -1])):
        with pytest.raises(ValueError, match="0 and above, got -1"):
            jax.eval_shape(lambda key, index=index: model.init(key, x, index), jax.random.key(0))
    jax.eval_shape(model.init, jax.random.key(0), x, jnp.array([-1, 0]))  # traced
