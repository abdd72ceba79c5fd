"""The seed's files: ``weights/N.pth`` with its SimpleUnet's weights, Adam's state and the epoch.

    {"epoch": int, "state_dict": {name: tensor}, "optimizer": Adam's state_dict}

Training goes on from it: batch statistics, Adam's moments and its count are taken over. The seed
keeps no average of its weights, so the running average starts at them.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxddim.runs.build import build_model
from jaxddim.runs.config import DiffusionConfig, ImageSize, ModelConfig
from jaxddim.weights.imported import (
    Imported,
    Moments,
    abstract,
    adam,
    adam_written,
    check_ranges,
    laid_out,
)
from jaxddim.weights.names import SEED, given, taken

STATISTICS = re.compile(r".*\.(running_mean|running_var|num_batches_tracked)")


def is_one(found: Any) -> bool:
    """Whether an object of `reader.load` is such a file, or the weights of one."""
    state = found.get("state_dict", found) if isinstance(found, Mapping) else None
    return isinstance(state, Mapping) and "downs.0.conv1.weight" in state


def read(
    found: Any,
    where: str,
    *,
    size: ImageSize | None = None,
    diffusion: DiffusionConfig | None = None,
) -> Imported:
    """The network of a file.

    Args:
      found: from `reader.load`.
      where: the file, for messages.
      size: of the images it was trained on; 64, the seed's, if not given.
      diffusion: its schedule; the seed's if not given.
    Raises:
      ValueError: when it is of another network or optimizer.
    """
    with laid_out(where, SEED.title):
        tensors = found.get("state_dict", found)
        numbers = sorted(
            {int(m[1]) for m in (re.match(r"downs\.(\d+)\.", n) for n in tensors) if m}
        )
        first = tensors.get("conv0.weight")
        widths = [tensors.get(f"downs.{i}.conv1.weight") for i in numbers]
        if first is None or numbers != list(range(len(numbers))) or any(w is None for w in widths):
            raise ValueError(f"{where}: its layers are not those of the seed's SimpleUnet")
        channels = [first.shape[0], *(array.shape[0] for array in widths)]
        if any(width % channels[0] for width in channels):
            raise ValueError(
                f"{where}: a run has multiples of {channels[0]} channels, not {channels}"
            )
        model = ModelConfig(
            name="simple_unet",
            channels=channels[0],
            multipliers=tuple(width // channels[0] for width in channels),
        )
        size = size or 64
        check_ranges(model, size, where)
        wanted = abstract(build_model(model), size, first.shape[1])
        variables = taken(SEED, tensors, wanted, where)
        state, rate, step = None, None, 0
        if "optimizer" in found:
            order = [name for name in tensors if not STATISTICS.fullmatch(name)]
            state, rate = adam(SEED, found["optimizer"], order, wanted, where)
            step = state.count if state else 0
        return Imported(
            SEED.title,
            model,
            diffusion or DiffusionConfig(),
            size,
            first.shape[1],
            variables,
            variables,
            step,
            state,
            rate,
        )


def write(variables: Any, moments: Moments | None, rate: float, epoch: int) -> dict[str, Any]:
    """The seed's dictionary, with tensors as arrays.

    Args:
      variables: the last weights and statistics.
      moments: Adam's state, if it is known.
      rate: the learning rate.
      epoch: passes over the images.
    """
    state = given(SEED, variables)
    count = 0 if moments is None else moments.count
    for name in [name for name in state if name.endswith(".running_var")]:
        state[name.replace("running_var", "num_batches_tracked")] = np.array(count, np.int64)
    state = {name: state[name] for name in sorted(state, key=order)}
    names = [name for name in state if not STATISTICS.fullmatch(name)]
    return {
        "epoch": epoch,
        "state_dict": state,
        "optimizer": adam_written(SEED, names, moments, rate),
    }


LAYERS = ("time_mlp", "conv1", "transform", "conv2", "bnorm1", "bnorm2")
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
PARTS = ("time_mlp", "conv0", "downs", "ups", "output")


def order(name: str) -> tuple[int, ...]:
    """Where a tensor stands in the seed's state dict."""
    part, *inner, leaf = name.split(".")
    block, layer = (int(inner[0]), LAYERS.index(inner[1])) if len(inner) == 2 else (0, 0)
    return PARTS.index(part), block, layer, LEAVES.index(leaf)
