"""The Inception-v3 that defines the FID, in Flax, with weights from the user's file.

    stem -> Mixed_5b, 5c, 5d (35x35) -> 6a .. 6e (17x17) -> 7a, 7b, 7c (8x8) -> mean over pixels:
    2048 features -> 1008 classes

This is TensorFlow's network of December 2015. It differs from the Inception-v3 of the model zoos:
3x3 average pooling excludes the padding, the last block has max pooling where the others have
average pooling, and there are 1008 classes. Every convolution is followed by batch normalisation
(epsilon 1e-3), which is folded into it, and by a ReLU.

Images are resized to 299x299 by bilinear interpolation between pixel centres and scaled to
[-1, 1], as in pytorch-fid. (The original, in TensorFlow 1, shifts the resized image by half a
pixel.)

Source: Szegedy et al., arXiv 1512.00567; Heusel et al., arXiv 1706.08500; names as in torchvision.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.features.networks import OF_THE_FID
from jaxddim.models.layers import Conv
from jaxddim.weights import reader

NAME = OF_THE_FID
SIZE, FEATURES, CLASSES, EPS = 299, 2048, 1008, 1e-3
RESIZE = (
    f"whole image to {SIZE}x{SIZE}, bilinear between pixel centres, not antialiased, as "
    "pytorch-fid; x / 127.5 - 1"
)


class Layer(NamedTuple):
    """A convolution with its batch normalisation."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Block(NamedTuple):
    """Parallel branches whose outputs are concatenated along the channels.

    Attributes:
      branches: each a list of stages; a stage of two layers concatenates their outputs.
      pool: the pooling that starts the last branch: "average" or "max" over 3x3 pixels, or
        "stride", max pooling with stride 2 and nothing after it.
      project: the layer after the pooling.
    """

    branches: tuple[tuple[tuple[Layer, ...], ...], ...]
    pool: str
    project: Layer | None = None


def _chain(name: str, *layers: tuple[Any, ...]) -> tuple[tuple[Layer], ...]:
    return tuple((Layer(f"{name}_{i}", *layer),) for i, layer in enumerate(layers, 1))


def _single(name: str, *layer: Any) -> tuple[tuple[Layer]]:
    return ((Layer(name, *layer),),)


def _a(pool: int) -> Block:
    double = _chain("branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3)))
    branches = _single("branch1x1", 64), _chain("branch5x5", (48,), (64, (5, 5))), double
    return Block(branches, "average", Layer("branch_pool", pool))


def _b() -> Block:
    double = _chain("branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3), 2, "VALID"))
    return Block((_single("branch3x3", 384, (3, 3), 2, "VALID"), double), "stride")


def _c(width: int) -> Block:
    row, column = (1, 7), (7, 1)
    once = _chain("branch7x7", (width,), (width, row), (192, column))
    wide = ((width, shape) for shape in (column, row, column))
    twice = _chain("branch7x7dbl", (width,), *wide, (192, row))
    project = Layer("branch_pool", 192)
    return Block((_single("branch1x1", 192), once, twice), "average", project)


def _d() -> Block:
    last = ((3, 3), 2, "VALID")
    square = _chain("branch3x3", (192,), (320, *last))
    cross = _chain("branch7x7x3", (192,), (192, (1, 7)), (192, (7, 1)), (192, *last))
    return Block((square, cross), "stride")


def _e(pool: str) -> Block:
    def split(name: str) -> tuple[Layer, ...]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    square = (*_chain("branch3x3", (384,)), split("branch3x3_2"))
    double = (*_chain("branch3x3dbl", (448,), (384, (3, 3))), split("branch3x3dbl_3"))
    project = Layer("branch_pool", 192)
    return Block((_single("branch1x1", 320), square, double), pool, project)


STEM: tuple[tuple[Layer, ...], ...] = (  # each part ends with max pooling of stride 2
    (
        Layer("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
        Layer("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
        Layer("Conv2d_2b_3x3", 64, (3, 3)),
    ),
    (Layer("Conv2d_3b_1x1", 80), Layer("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID")),
)
BLOCKS: dict[str, Block] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _b(),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _d(),
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("max"),
}


def _apply(layer: Layer, x: jax.Array) -> jax.Array:
    strides = (layer.stride, layer.stride)
    convolution = Conv(layer.features, layer.kernel, strides, layer.padding, name=layer.name)
    return nn.relu(convolution(x))


def _pool(x: jax.Array, kind: str) -> jax.Array:
    window, one = (3, 3), (1, 1)
    if kind == "stride":
        return nn.max_pool(x, window, (2, 2))
    if kind == "max":
        return nn.max_pool(x, window, one, "SAME")
    return nn.avg_pool(x, window, one, "SAME", count_include_pad=False)


class Mixed(nn.Module):
    """One block."""

    block: Block

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        answers = []
        for branch in self.block.branches:
            y = x
            for stage in branch:
                y = jnp.concatenate([_apply(layer, y) for layer in stage], -1)
            answers.append(y)
        y = _pool(x, self.block.pool)
        answers.append(_apply(self.block.project, y) if self.block.project else y)
        return jnp.concatenate(answers, -1)


class InceptionV3(nn.Module):
    """Images [b, 299, 299, 3] in [-1, 1] -> features [b, 2048] and logits [b, 1008].

    Example:
      >>> x = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
      >>> out, variables = jax.eval_shape(InceptionV3().init_with_output, jax.random.key(0), x)
      >>> [part.shape for part in out]
      [(2, 2048), (2, 1008)]
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        for part in STEM:
            for layer in part:
                x = _apply(layer, x)
            x = _pool(x, "stride")
        for name, block in BLOCKS.items():
            x = Mixed(block, name=name)(x)
        features = jnp.mean(x, (1, 2))
        return features, nn.Dense(CLASSES, name="fc")(features)


def preprocess(pixels: jax.Array) -> jax.Array:
    """The network's input, from pixels [b, h, w, 3] in 0..255."""
    shape = (len(pixels), SIZE, SIZE, 3)
    return jax.image.resize(pixels, shape, "bilinear", antialias=False) / 127.5 - 1


def pooled(variables: Any, x: jax.Array) -> jax.Array:
    """The features [b, 2048] of preprocessed images [b, 299, 299, 3]."""
    return InceptionV3().apply(variables, x)[0]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the file."""
    x = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    params = jax.eval_shape(InceptionV3().init, jax.random.key(0), x)["params"]
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}
    for path in _convolutions():
        kernel, *vectors = reader.folded_names(*_names(path))
        h, w, c, d = _at(params, path)["kernel"].shape
        shapes[kernel] = (d, c, h, w)
        shapes.update(dict.fromkeys(vectors, (d,)))
    return shapes


def load(path: Path) -> dict[str, Any]:
    """The variables of `InceptionV3`, from a file.

    Args:
      path: .pth or .safetensors, with the names of pytorch-fid's file
        (`Mixed_5b.branch1x1.conv.weight`, kernels [d, c, kh, kw]) or of TensorFlow's graph
        (`mixed/conv/conv2d_params`, kernels [kh, kw, c, d]).
    Returns:
      {"params": ...}
    Raises:
      UserError: if the file cannot be read, or holds another network.
    """
    tensors = reader.read(path)
    if "conv/conv2d_params" in tensors:
        tensors = from_tensorflow(tensors)
    reader.check(tensors, expected_shapes(), f"{path} should hold the FID's Inception-v3")
    params: dict[str, Any] = {
        "fc": {"kernel": np.float32(tensors["fc.weight"].T), "bias": np.float32(tensors["fc.bias"])}
    }
    for path_ in _convolutions():
        *outer, last = path_
        _at(params, outer)[last] = reader.folded(tensors, *_names(path_), EPS)
    return {"params": params}


def from_tensorflow(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The constants of TensorFlow's graph, with the names and layout of PyTorch's file."""
    renamed = {}
    terms = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    for path, old in zip(_convolutions(), _graph_names(), strict=True):
        kernel, *vectors = reader.folded_names(*_names(path))
        if f"{old}/conv2d_params" in tensors:
            renamed[kernel] = tensors[f"{old}/conv2d_params"].transpose(3, 2, 0, 1)
        for vector in vectors:
            name = f"{old}/batchnorm/{terms[vector.rpartition('.')[2]]}"
            if name in tensors:
                renamed[vector] = tensors[name]
    for name, old in (("fc.weight", "softmax/weights"), ("fc.bias", "softmax/biases")):
        if old in tensors:
            renamed[name] = tensors[old].T
    return renamed


def _names(path: list[str]) -> tuple[str, str]:
    """Names of the convolution and its normalisation in PyTorch's file."""
    name = ".".join(path)
    return f"{name}.conv", f"{name}.bn"


def _at(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for name in path:
        tree = tree.setdefault(name, {})
    return tree


def _convolutions() -> Iterator[list[str]]:
    """The path of each convolution in the parameters, in the order of the network."""
    for part in STEM:
        yield from ([layer.name] for layer in part)
    for name, block in BLOCKS.items():
        for branch in block.branches:
            yield from ([name, layer.name] for stage in branch for layer in stage)
        if block.project:
            yield [name, block.project.name]


def _graph_names() -> Iterator[str]:
    """Names in TensorFlow's graph: `conv_1` is the second one, `mixed_3` the fourth block."""

    def numbered(name: str, i: int) -> str:
        return f"{name}_{i}" if i else name

    yield from (numbered("conv", i) for i in range(sum(map(len, STEM))))
    for i, block in enumerate(BLOCKS.values()):
        mixed = numbered("mixed", i)
        branches = list(block.branches)
        if len(branches[0]) == 1:  # a single layer is outside the towers
            yield f"{mixed}/conv"
            del branches[0]
        if block.project:
            branches.append(((block.project,),))
        for j, branch in enumerate(branches):
            tower = f"{mixed}/{numbered('tower', j)}"
            for k, stage in enumerate(branch):
                if len(stage) == 1:
                    yield f"{tower}/{numbered('conv', k)}"
                else:
                    yield from (f"{tower}/mixed/{numbered('conv', n)}" for n in range(2))
