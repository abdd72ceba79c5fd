"""Weights from PyTorch and safetensors files as NumPy arrays, without PyTorch.

A `.pth` file is a pickle, and unpickling may run arbitrary code. This reader knows the few names
that a dictionary of tensors needs, maps them to its own functions, and refuses everything else.
It reads both layouts:

    zip (PyTorch 1.6 and later)   NAME/data.pkl, and NAME/data/KEY for each storage
    legacy                        pickles of a magic number, a version, the machine, the dictionary
                                  and the keys; then for each key its length and its bytes

A tensor is a window (offset, size, stride) into a storage, and must lie within it.
"""

import collections
import math
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
TYPES = {
    "Float": "f4",
    "Double": "f8",
    "Half": "f2",
    "BFloat16": jnp.bfloat16,
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _Window(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *others: Any) -> _Window:
    del others  # requires_grad and hooks
    window = _Window(storage, offset, tuple(size), tuple(stride))
    numbers = (offset, *window.size, *window.stride)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor that is no window into a storage")
    last = offset + sum((n - 1) * step for n, step in zip(window.size, window.stride, strict=True))
    if math.prod(window.size) > storage.length or (window.size and last >= storage.length):
        raise ValueError("a tensor that reaches beyond its storage")
    return window


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda window, *others: window,
} | {("torch", f"{name}Storage"): np.dtype(kind) for name, kind in TYPES.items()}


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings, numbers and windows into storages, and nothing else."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor needs")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise pickle.UnpicklingError("it holds a storage of an unknown kind")
        return _Storage(str(key), dtype, int(length))


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a .pth, .pt or .safetensors file.

    Args:
      path: the file. A .pth must hold a dictionary of names and tensors (a "state dict"), as
        `torch.save(network.state_dict(), path)` writes it, or hold one under the key "state_dict".
    Returns:
      Arrays by name, in the types of the file (bfloat16 as jnp.bfloat16).
    Raises:
      ValueError: when the file is missing or damaged, or cannot be read without executing it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a .pth or .safetensors file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        with path.open("rb") as file:
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            return _read_zip(file) if zipped else _read_legacy(file)
    except Exception as error:  # on invalid input a parser may raise anything
        raise ValueError(
            f"{path}: damaged, or not a dictionary of tensors ({_brief(error)}); give the file "
            "of weights that torch.save or safetensors wrote"
        ) from error


def _read_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = next((n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")), None)
        if root is None or any(name.startswith(f"{root}code/") for name in names):
            raise ValueError("a program (TorchScript) or another archive")
        order = f"{root}byteorder"
        little = order not in names or archive.read(order) == b"little"
        with archive.open(f"{root}data.pkl") as pickled:
            windows = _windows(_Unpickler(pickled).load())
        content = {w.storage.key: b"" for w in windows.values()}
        for key in content:
            content[key] = archive.read(f"{root}data/{key}")
    return _arrays(windows, content, little)


def _read_legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("not a PyTorch file")
    _version, machine, state, keys = (_Unpickler(file).load() for _ in range(4))
    windows, content = _windows(state), {}
    sizes = {w.storage.key: w.storage.dtype.itemsize for w in windows.values()}
    for key in keys:
        (length,) = struct.unpack("<q", file.read(8))
        content[key] = file.read(length * sizes[key])
    return _arrays(windows, content, machine["little_endian"])


def _windows(state: Any) -> dict[str, _Window]:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    named = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(window, _Window) for name, window in state.items()
    )
    if not named:
        raise ValueError("something other than tensors by name")
    return dict(state)


def _arrays(
    windows: dict[str, _Window], content: dict[str, bytes], little: bool
) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (storage, offset, size, stride) in windows.items():
        dtype = storage.dtype
        values = np.frombuffer(content[storage.key], dtype, storage.length)
        steps = [step * dtype.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)
        arrays[name] = view.copy() if little else view.byteswap()
    return arrays


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
        parts = [f"{len(n)} {kind}: {_first(n)}" for kind, n in kinds.items() if n]
        raise ValueError(f"{what}, but of its {len(shapes)} tensors {'; '.join(parts)}")


def _brief(error: BaseException) -> str:
    """An error's text on one line and not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _first(names: list[str]) -> str:
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
