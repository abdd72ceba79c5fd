"""Pictures to be measured that lie in files already."""

import zipfile
from pathlib import Path

import numpy as np

from experiments.data import decoding
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.texts import listed, printable


def pictures_at(flag: str, where: str, shape: tuple[int, int, int], notes: list[str]) -> np.ndarray:
    """The pictures in a FILE.npz or folder, uint8 [n, h, w, c], which must have the run's size.

    Raises:
      UserError: when they cannot be read, or differ in size from the run's images.
    """
    path = located(where)
    try:
        if path.suffix.lower() == ".npz" and not path.is_dir():
            found = _read_npz(path)
        else:
            found = _read_folder(flag, path, shape[2], notes)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{flag} {path} cannot be read ({' '.join(str(error).split())}): give a FILE.npz or "
            "a folder of pictures, as experiments.sample writes them"
        ) from None
    if found.dtype != np.uint8 or found.shape[1:] != shape:
        raise UserError(
            f"{flag} {path} holds {found.dtype} {list(found.shape)}: expected uint8 "
            f"[n, {', '.join(map(str, shape))}], like the run's images"
        )
    return found


def _read_npz(path: Path) -> np.ndarray:
    with path.open("rb") as file, np.load(file) as arrays:
        return arrays["images"]


def _read_folder(flag: str, path: Path, channels: int, notes: list[str]) -> np.ndarray:
    """The pictures in a folder, by name, decoded as for training but not resized."""
    from PIL import Image

    if not path.is_dir():
        raise ValueError("no such folder")
    known, images, others = Image.registered_extensions(), {}, []
    files = [file for file in sorted(path.iterdir()) if file.name[0] != "." and file.is_file()]
    with decoding.without_warnings():
        for file in files:
            found = decoding.decode(file, None, channels)
            if found.image is not None:
                images[file.name] = found.image
            elif found.remark == decoding.NOT_AN_IMAGE and file.suffix.lower() not in known:
                others.append(file.name)
            else:
                raise ValueError(f"{printable(file.name)}: {found.remark}")
    if not images:
        raise ValueError("no picture in it")
    shapes = {image.shape: name for name, image in images.items()}
    if len(shapes) > 1:
        sizes = [f"{name}: {h}x{w} pixels" for (h, w, _), name in shapes.items()]
        raise ValueError(f"pictures of several sizes: {listed(sizes)}")
    if others:
        notes.append(f"{flag} {path}: skipped {len(others)} ({listed(others)}), no images")
    return np.stack(list(images.values()))
