"""Weights from PyTorch and safetensors files as NumPy arrays, without PyTorch.

A `.pth` file is a pickle, and unpickling may run arbitrary code. See `jaxddim.weights.pickles` for
what is built from one here, and `jaxddim.weights.containers` for the files around it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxddim.files.reading import content, opened
from jaxddim.weights import containers

MOST_BYTES = 1 << 34
"""Of a file of weights."""


def load(path: str | Path) -> Any:
    """The object in a file of weights: whatever was given to torch.save, or tensors by name.

    Args:
      path: a file of torch.save's, in its new or old layout, or of safetensors; its content decides
        which, and not its suffix.
    Returns:
      A nest of dictionaries, lists, tuples, strings, numbers and NumPy arrays, in the types of the
      file (bfloat16 as jnp.bfloat16).
    Raises:
      ValueError: when the file is missing or damaged, or cannot be read without executing it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a .pth or .safetensors file of weights")
    try:
        with opened(path) as file:
            containers.check_beginning(file.read(containers.BEGINNING))
        return containers.read(content(path, MOST_BYTES))
    except Exception as error:  # on invalid input a parser may raise anything
        raise ValueError(
            f"{path}: damaged, or not a file of tensors ({_brief(error)}); give the file of "
            "weights that torch.save or safetensors wrote"
        ) from error


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file of weights.

    Args:
      path: the file. It must hold a dictionary of names and tensors (a "state dict"), as
        `torch.save(network.state_dict(), path)` writes it, or hold one under the key "state_dict".
    Returns:
      Arrays by name, in the types of the file (bfloat16 as jnp.bfloat16).
    Raises:
      ValueError: when the file is missing or damaged, cannot be read without executing it, or holds
        something else.
    """
    state = load(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    named = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(array, np.ndarray) for name, array in state.items()
    )
    if not named:
        raise ValueError(
            f"{path}: something other than tensors by name; give a state dict, as "
            "torch.save(network.state_dict(), path) writes it"
        )
    return dict(state)


def check(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str
) -> None:
    """Raises a ValueError that names missing tensors and tensors of another shape.

    Args:
      tensors: from `read`; tensors not in `shapes` are ignored.
      shapes: the expected shapes.
      what: start of the message: the file and what it should hold.
    """
    missing = [name for name in shapes if name not in tensors]
    other = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if missing or other:
        kinds = {"missing": missing, "of another shape": other}
        parts = [f"{len(n)} {kind}: {first(n)}" for kind, n in kinds.items() if n]
        raise ValueError(f"{what}, but of its {len(shapes)} tensors {'; '.join(parts)}")


def _brief(error: BaseException) -> str:
    """An error's text on one line and not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


def first(names: list[str]) -> str:
    """The first names in sorted order, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def folded(
    tensors: Mapping[str, np.ndarray], conv: str, norm: str, eps: float
) -> dict[str, np.ndarray]:
    """A convolution and the BatchNorm after it, at inference, as one convolution.

        scale (W x - mean) / sqrt(var + eps) + shift = (g W) x + (shift - g mean),
        g = scale / sqrt(var + eps).

    Args:
      tensors: `{conv}.weight` [d, c, kh, kw], without a bias, and `{norm}.weight`, `.bias`,
        `.running_mean`, `.running_var`, each [d].
      conv: name of the convolution.
      norm: name of the BatchNorm.
      eps: its epsilon.
    Returns:
      {"kernel": [kh, kw, c, d], "bias": [d]}, float32, computed in float64.
    """
    kernel, scale, shift, mean, variance = (
        tensors[name].astype(np.float64) for name in folded_names(conv, norm)
    )
    gain = scale / np.sqrt(variance + eps)
    return {
        "kernel": (kernel.transpose(2, 3, 1, 0) * gain).astype(np.float32),
        "bias": (shift - gain * mean).astype(np.float32),
    }


def folded_names(conv: str, norm: str) -> Iterable[str]:
    """Names of the tensors that `folded` takes, the kernel first."""
    statistics = ("weight", "bias", "running_mean", "running_var")
    return (f"{conv}.weight", *(f"{norm}.{name}" for name in statistics))
