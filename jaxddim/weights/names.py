r"""What our layers are called elsewhere, one table a format, for the way in and the way out.

A parameter of ours has a path, such as ``("params", "down_0_block_1", "conv1", "kernel")``. A
format gives it a name there and a layout:

    layer of ours        there                      from there to here
    Conv                 weight [O, I, kh, kw]      transpose(2, 3, 1, 0)
    ConvTranspose        weight [I, O, kh, kw]      mirrored, then transpose(2, 3, 0, 1)
    Dense                weight [O, I]              transpose
    Dense on pixels      weight [O, I, 1, 1] too    without the ones, transpose
    norms, embeddings    weight, bias, running_*    as they are

Every tensor is used exactly once.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim.weights.reader import first

Path = tuple[str, ...]
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
ATTENTION = ("q", "k", "v", "proj_out")


class Format(NamedTuple):
    """How weights are named and laid out somewhere.

    Attributes:
      title: what messages call it.
      module: the name there of the module at a path of ours (without collection and leaf).
      pointwise: layers of ours that are 1x1 convolutions there.
      ignored: pattern of names there that hold no weights.
    """

    title: str
    module: Callable[[Path], str]
    pointwise: tuple[str, ...] = ()
    ignored: str = r"(?!)"

    def name(self, path: Path) -> str:
        """The name there of a leaf of our variables."""
        _, *modules, leaf = path
        return f"{self.module(tuple(modules))}.{LEAVES[leaf]}"


# -- the formats -----------------------------------------------------------------------


def _official(path: Path) -> str:
    whole = "/".join(path)
    for pattern, name in (
        (r"^(down|up)_(\d+)_(block|attn)_(\d+)", r"\1.\2.\3.\4"),
        (r"^down_(\d+)_downsample$", r"down.\1.downsample.conv"),
        (r"^up_(\d+)_upsample$", r"up.\1.upsample.conv"),
        (r"^mid_(block|attn)_(\d)", r"mid.\1_\2"),
        (r"^temb_dense_(\d)$", r"temb.dense.\1"),
    ):
        whole = re.sub(pattern, name, whole)
    return whole.replace("/", ".")


OFFICIAL = Format("the official DDIM code", _official, pointwise=("nin_shortcut", *ATTENTION))
"""ermongroup/ddim and the DDPM models converted for it: models/diffusion.py's names."""


def _seed(path: Path) -> str:
    names = {"time": "time_mlp", "norm1": "bnorm1", "norm2": "bnorm2"}
    if len(path) == 1:
        return {"time": "time_mlp.1"}.get(path[0], path[0])
    block, layer = path
    side, number = block.split("_")
    return f"{side}s.{number}.{names.get(layer, layer)}"


SEED = Format("the seed", _seed, pointwise=("output",), ignored=r".*\.num_batches_tracked")
"""The seed's SimpleUnet."""


def diffusers(levels: int, *, old: bool = False) -> Format:
    """Diffusers' UNet2DModel with so many levels.

    Args:
      levels: number of entries of block_out_channels.
      old: attention as before May 2023 (query, key, value, proj_attn).
    Source: diffusers' unet_2d.py, unet_2d_blocks.py, resnet.py and attention_processor.py.
    """
    attention = (
        ("query", "key", "value", "proj_attn") if old else ("to_q", "to_k", "to_v", "to_out.0")
    )
    layers = dict(zip(ATTENTION, attention, strict=True))
    layers |= {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut", "norm": "group_norm"}
    ends = {
        "temb_dense_0": "time_embedding.linear_1",
        "temb_dense_1": "time_embedding.linear_2",
        "norm_out": "conv_norm_out",
        "label": "class_embedding",
        "mid_block_1": "mid_block.resnets.0",
        "mid_attn_1": "mid_block.attentions.0",
        "mid_block_2": "mid_block.resnets.1",
    }

    def module(path: Path) -> str:
        block, *rest = path
        inner = "".join(f".{layers.get(layer, layer)}" for layer in rest)
        found = re.fullmatch(r"(down|up)_(\d+)_(block|attn|downsample|upsample)(?:_(\d+))?", block)
        if not found:
            return ends.get(block, block) + inner
        side, level, kind, number = found.groups()
        level = int(level) if side == "down" else levels - 1 - int(level)
        parts = {"block": f"resnets.{number}", "attn": f"attentions.{number}"}
        return f"{side}_blocks.{level}.{parts.get(kind, f'{kind}rs.0.conv')}{inner}"

    return Format("diffusers' UNet2DModel", module, pointwise=("nin_shortcut",))


# -- both ways -------------------------------------------------------------------------


def taken(
    form: Format, tensors: Mapping[str, np.ndarray], abstract: Any, where: str
) -> dict[str, Any]:
    """Our variables, from weights of a format.

    Args:
      form: the format.
      tensors: its tensors by name.
      abstract: shapes of our variables, {"params": .., "batch_stats": ..}.
      where: the file, for messages.
    Returns:
      Float32 arrays in the structure of `abstract`.
    Raises:
      ValueError: that lists tensors that are missing, left over, of another shape or not finite.
    """
    left = {name: a for name, a in tensors.items() if not re.fullmatch(form.ignored, name)}
    kinds = ("missing", "of another shape", "not of floats", "not finite")
    faults: dict[str, list[str]] = {kind: [] for kind in kinds}

    def take(path: Any, leaf: Any) -> np.ndarray:
        path = tuple(key.key for key in path)
        name = form.name(path)
        zeros = np.zeros(leaf.shape, np.float32)
        if name not in left:
            faults["missing"].append(name)
            return zeros
        tensor = left.pop(name)
        shapes = {_outward(path, zeros, pointwise).shape for pointwise in (True, False)}
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            faults["not of floats"].append(name)
            return zeros
        if tensor.shape not in shapes:
            expected = " or ".join(str(list(shape)) for shape in sorted(shapes))
            faults["of another shape"].append(f"{name} {list(tensor.shape)} instead of {expected}")
            return zeros
        found = _inward(path, tensor, leaf.shape)
        if not np.isfinite(found).all():
            faults["not finite"].append(name)
        return found

    variables = jax.tree_util.tree_map_with_path(take, abstract)
    faults["left over"] = list(left)
    if any(faults.values()):
        told = "; ".join(f"{len(n)} {kind}: {first(n)}" for kind, n in faults.items() if n)
        raise ValueError(
            f"{where} does not hold the weights of this network, as {form.title} names them: {told}"
        )
    return variables


def given(form: Format, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our variables as a format has them: contiguous float32 arrays by name."""
    found: dict[str, np.ndarray] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(variables):
        path = tuple(key.key for key in keys)
        pointwise = path[-2] in form.pointwise
        found[form.name(path)] = np.ascontiguousarray(
            _outward(path, np.asarray(leaf, np.float32), pointwise)
        )
    return found


def _mirrored(path: Path) -> bool:
    return path[-2] == "transform" and path[-3].startswith("up_")


def _outward(path: Path, ours: np.ndarray, pointwise: bool) -> np.ndarray:
    if path[-1] != "kernel":
        return ours
    if ours.ndim == 2:
        return ours.T[:, :, None, None] if pointwise else ours.T
    if _mirrored(path):
        return ours[::-1, ::-1].transpose(2, 3, 0, 1)
    return ours.transpose(3, 2, 0, 1)


def _inward(path: Path, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    theirs = np.asarray(theirs, np.float32)
    if path[-1] != "kernel":
        return theirs
    if len(shape) == 2:
        return np.ascontiguousarray(theirs.reshape(shape[::-1]).T)
    if _mirrored(path):
        return np.ascontiguousarray(theirs.transpose(2, 3, 0, 1)[::-1, ::-1])
    return np.ascontiguousarray(theirs.transpose(2, 3, 1, 0))
