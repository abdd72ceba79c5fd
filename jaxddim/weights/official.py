"""Checkpoints of the official DDIM code, and of the DDPM models that were converted for it.

    a training run     list [weights, optimizer, epoch, step] or [.., averaged weights]
    a converted model  the weights alone

Weights are {name: tensor}, in the list with "module." before each name. The network is deduced from
the shapes, except for what no tensor tells: the size of the images, which says where attention
stands, the dropout and the schedule.

Source: ermongroup/ddim, runners/diffusion.py and models/diffusion.py; pesser/pytorch_diffusion.
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
    image_size,
    laid_out,
    levels_with_attention,
)
from jaxddim.weights.names import OFFICIAL, given, taken

ITEMS = (4, 5)


def is_one(found: Any) -> bool:
    """Whether an object of `reader.load` is such a checkpoint."""
    if isinstance(found, list) and len(found) in ITEMS:
        found = found[0]
    return isinstance(found, Mapping) and "conv_in.weight" in _plain(found)


def read(
    found: Any,
    where: str,
    *,
    size: ImageSize | None = None,
    dropout: float = 0.0,
    diffusion: DiffusionConfig | None = None,
) -> Imported:
    """The network of a checkpoint.

    Args:
      found: from `reader.load`.
      where: the file, for messages.
      size: of the images it was trained on.
      dropout: with which it was trained.
      diffusion: its schedule; the official one if not given.
    Raises:
      ValueError: when it is of another network, or the image size is needed and not given.
    """
    with laid_out(where, OFFICIAL.title):
        items = found if isinstance(found, list) else [found]
        tensors = _plain(items[0])
        size = image_size(size, where)
        model = _architecture(tensors, size, dropout, where)
        channels = tensors["conv_in.weight"].shape[1]
        check_ranges(model, size, where)
        wanted = abstract(build_model(model), size, channels)
        variables = taken(OFFICIAL, tensors, wanted, where)
        averaged, state, rate, step = variables, None, None, 0
        if len(items) >= ITEMS[0]:
            step = int(items[3])
            state, rate = adam(OFFICIAL, items[1], list(tensors), wanted, where)
        if len(items) == ITEMS[1]:
            averaged = taken(OFFICIAL, _plain(items[4]), wanted, f"{where}, its averaged weights,")
        return Imported(
            OFFICIAL.title,
            model,
            diffusion or DiffusionConfig(),
            size,
            channels,
            variables,
            averaged,
            step,
            state,
            rate,
        )


FIXED = {
    "patch": 1,
    "groups": 32,
    "epsilon": 1e-6,
    "head_dim": None,
    "freq_shift": 1,
    "downsample_padding": 0,
    "num_classes": None,
}
"""What the official network is like, among the networks here."""


def write(
    variables: Any, averaged: Any, step: int, moments: Moments | None, rate: float
) -> list[Any]:
    """The list of the official code, with tensors as arrays.

    Args:
      variables: the last weights.
      averaged: the averaged ones.
      step: training steps made.
      moments: Adam's state, if it is known.
      rate: its learning rate.
    """
    last, mean = given(OFFICIAL, variables), given(OFFICIAL, averaged)
    names = sorted(last, key=order)
    return [
        {f"module.{name}": last[name] for name in names},
        adam_written(OFFICIAL, names, moments, rate),
        0,
        step,
        {name: mean[name] for name in names},
    ]


PARTS = ("temb", "conv_in", "down", "mid", "up", "norm_out", "conv_out")
WITHIN = ("block", "attn", "downsample", "upsample", "block_1", "attn_1", "block_2", "dense")
LAYERS = ("norm", "q", "k", "v", "proj_out", "norm1", "conv1", "temb_proj", "norm2", "conv2")
LAYERS = (*LAYERS, "nin_shortcut", "conv", "weight", "bias")


def order(name: str) -> tuple[int, ...]:
    """Where a parameter stands among those of the official network, and so in its optimizer."""
    part, *rest = name.split(".")
    places = {word: i for words in (WITHIN, LAYERS) for i, word in enumerate(words)}
    return PARTS.index(part), *(int(w) if w.isdecimal() else places[w] for w in rest)


def _plain(tensors: Any) -> dict[str, np.ndarray]:
    """Weights without the "module." of DataParallel."""
    if not isinstance(tensors, Mapping):
        return {}
    return {
        str(name).removeprefix("module."): array
        for name, array in tensors.items()
        if isinstance(array, np.ndarray)
    }


def _architecture(
    tensors: Mapping[str, np.ndarray], size: ImageSize, dropout: float, where: str
) -> ModelConfig:
    def widths(pattern: str) -> dict[int, int]:
        found = {}
        for name, array in tensors.items():
            if match := re.fullmatch(pattern, name):
                found[int(match[1])] = array.shape[0]
        return found

    levels = widths(r"down\.(\d+)\.block\.0\.conv1\.weight")
    channels = tensors["conv_in.weight"].shape[0]
    if sorted(levels) != list(range(len(levels))) or any(w % channels for w in levels.values()):
        raise ValueError(f"{where}: its levels are not those of a UNet of the official DDIM code")
    attention = widths(r"down\.(\d+)\.attn\.0\.q\.weight")
    return ModelConfig(
        channels=channels,
        multipliers=tuple(levels[level] // channels for level in range(len(levels))),
        num_blocks=len(widths(r"down\.0\.block\.(\d+)\.conv1\.weight")),
        attention=levels_with_attention(size, list(attention)),
        dropout=dropout,
    )
