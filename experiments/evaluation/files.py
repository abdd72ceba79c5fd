"""Pictures to be measured that lie in files already."""

from pathlib import Path

import numpy as np

from experiments.data import decoding
from experiments.terminal.errors import UserError
from experiments.terminal.files import located
from experiments.terminal.texts import listed, printable
from jaxddim.files import arrays
from jaxddim.files.arrays import Form


def pictures_at(flag: str, where: str, shape: tuple[int, int, int], notes: list[str]) -> np.ndarray:
    """The pictures in a FILE.npz or folder, uint8 [n, h, w, c], which must have the run's size.

    Raises:
      UserError: when they cannot be read, or differ in size from the run's images.
    """
    path = located(where)
    try:
        if path.suffix.lower() == ".npz" and not path.is_dir():
            found = arrays.read(path, {"images": Form("u1", (None, *shape))})["images"]
        else:
            found = _read_folder(flag, path, shape, notes)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{flag} {path} cannot be read ({' '.join(str(error).split())}): give a FILE.npz or "
            "a folder of pictures, as experiments.sample writes them"
        ) from None
    return found


def _read_folder(
    flag: str, path: Path, shape: tuple[int, int, int], notes: list[str]
) -> np.ndarray:
    """The pictures in a folder, by name, decoded as for training but not resized."""
    from PIL import Image

    if not path.is_dir():
        raise ValueError("no such folder")
    known, images, others = Image.registered_extensions(), [], []
    sizes: dict[tuple[int, ...], str] = {}
    files = [file for file in sorted(path.iterdir()) if file.name[0] != "." and file.is_file()]
    with decoding.without_warnings():
        for file in files:
            found = decoding.decode(file, None, shape[2])
            if found.image is not None:
                sizes.setdefault(found.image.shape, file.name)
                images += [found.image] if found.image.shape == shape else []
            elif found.remark == decoding.NOT_AN_IMAGE and file.suffix.lower() not in known:
                others.append(file.name)
            else:
                raise ValueError(f"{printable(file.name)}: {found.remark}")
            if len(sizes) > 1:
                told = [f"{name}: {h}x{w} pixels" for (h, w, _), name in sizes.items()]
                raise ValueError(f"pictures of several sizes: {listed(told)}")
    if not sizes:
        raise ValueError("no picture in it")
    if shape not in sizes:
        (height, width, _), name = next(iter(sizes.items()))
        raise ValueError(
            f"{printable(name)} has {height}x{width} pixels, the run's images have "
            f"{shape[0]}x{shape[1]}"
        )
    if others:
        notes.append(f"{flag} {path}: skipped {len(others)} ({listed(others)}), no images")
    return np.stack(images)
