"""What foreign weights become here: a network, its schedule, and where its training was."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxddim.runs import flat
from jaxddim.runs.config import Config, DataConfig, DiffusionConfig, ImageSize, ModelConfig
from jaxddim.weights.names import Format, given, taken


class Moments(NamedTuple):
    """Adam's state.

    Attributes:
      count: steps made.
      mu: mean of the gradients, in the structure of the parameters.
      nu: mean of their squares.
    """

    count: int
    mu: Any
    nu: Any


class Imported(NamedTuple):
    """A network from elsewhere.

    Attributes:
      form: how its weights were named.
      model: the network's configuration.
      diffusion: the schedule and what the network predicts.
      image_size: what it was trained on.
      channels: of its images.
      variables: the last weights, {"params": .., "batch_stats": ..}.
      averaged: the averaged ones; the last if it keeps no average.
      step: training steps made.
      adam: Adam's state, if the file has it.
      learning_rate: that of the file, if it has one.
      notes: what the user should know.
    """

    form: str
    model: ModelConfig
    diffusion: DiffusionConfig
    image_size: ImageSize
    channels: int
    variables: Any
    averaged: Any
    step: int = 0
    adam: Moments | None = None
    learning_rate: float | None = None
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def laid_out(where: str, form: str) -> Iterator[None]:
    """Turns what a file of another layout causes into a ValueError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is not laid out as {form} lays it out ({type(error).__name__}: {error})"
        ) from error


def check_ranges(model: ModelConfig, size: ImageSize, where: str) -> None:
    """Raises a ValueError for a network that no run may have, before it is built."""
    try:
        flat.from_flat(flat.flatten(Config(model=model, data=DataConfig(image_size=size))))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def abstract(network: Any, size: ImageSize, channels: int) -> Any:
    """Shapes of a network's variables, without arrays."""
    height, width = (size, size) if isinstance(size, int) else size
    x = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    index = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(network.init, jax.random.key(0), x, index)


def adam(
    form: Format, optimizer: Any, order: Sequence[str], wanted: Any, where: str
) -> tuple[Moments | None, float | None]:
    """Adam's state from PyTorch's, and its learning rate.

    Args:
      form: the format of the network's names.
      optimizer: `torch.optim.Adam.state_dict()`.
      order: names of the parameters in the order in which the optimizer got them.
      wanted: shapes of our variables.
      where: the file, for messages.
    Returns:
      The state, None before the first step; and the learning rate.
    Raises:
      ValueError: for another optimizer or other parameters.
    """
    fault = f"{where}: its optimizer is not the Adam of these {len(order)} parameters"
    if not isinstance(optimizer, Mapping) or not {"state", "param_groups"} <= set(optimizer):
        raise ValueError(fault)
    groups, state = optimizer["param_groups"], optimizer["state"]
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], Mapping):
        raise ValueError(f"{fault}: it has several groups of them")
    (group,) = groups
    keys, betas = group.get("params"), group.get("betas")
    if not isinstance(keys, list) or len(keys) != len(order) or betas is None:
        raise ValueError(fault)
    usual = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    for name, value in usual.items():
        found = tuple(group[name]) if name == "betas" else group.get(name, value)
        if found != value:
            raise ValueError(f"{fault} with {name} {value}, the only one here: {name} is {found}")
    rate = float(group["lr"])
    if not state:
        return None, rate
    entries = [state.get(key) for key in keys]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(fault)
    counts = {int(np.asarray(entry["step"])) for entry in entries}
    if len(counts) != 1:
        raise ValueError(f"{fault}: they have made different numbers of steps")
    trees = []
    for name in ("exp_avg", "exp_avg_sq"):
        tensors = {key: entry[name] for key, entry in zip(order, entries, strict=True)}
        parameters = {"params": wanted["params"]}
        trees.append(taken(form, tensors, parameters, f"{where}, {name} of its Adam,")["params"])
    return Moments(counts.pop(), *trees), rate


def adam_written(
    form: Format, order: Sequence[str], moments: Moments | None, rate: float
) -> dict[str, Any]:
    """`torch.optim.Adam.state_dict()`, with arrays for tensors: the inverse of `adam`."""
    entries = {}
    if moments is not None:
        mu, nu = (given(form, {"params": tree}) for tree in (moments.mu, moments.nu))
        entries = {
            i: {"step": float(moments.count), "exp_avg": mu[name], "exp_avg_sq": nu[name]}
            for i, name in enumerate(order)
        }
    group = {
        "lr": rate,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "params": list(range(len(order))),
    }
    return {"state": entries, "param_groups": [group]}


def image_size(given: ImageSize | None, where: str) -> ImageSize:
    """The size of the images, which no file but the flag tells.

    Raises:
      ValueError: when it is not given.
    """
    if given is None:
        raise ValueError(
            f"{where} does not say what size its images have, and attention stands at certain "
            "sizes: give --image-size"
        )
    return given


def levels_with_attention(size: ImageSize, levels: Sequence[int]) -> tuple[int, ...]:
    """The sizes at these levels."""
    smaller = size if isinstance(size, int) else min(size)
    return tuple(smaller // 2**level for level in sorted(levels))
