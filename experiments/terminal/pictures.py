"""Grids of images, and PNG and NPZ files."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.terminal.files import replace


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Images, RGB or grey, as one picture, row by row, with white gaps.

    Args:
      images: uint8 [n, h, w, c].
      columns: images per row; by default about the square root of n.
      gap: white pixels between images.
    Returns:
      uint8 [rows * (h + gap) - gap, columns * (w + gap) - gap, c].
    Example:
      >>> grid(np.zeros((6, 8, 8, 3), np.uint8)).shape
      (18, 28, 3)
    """
    n, h, w, c = images.shape
    columns = columns or int(np.ceil(n**0.5))
    rows = -(-n // columns)
    cells = np.full((rows * columns, h + gap, w + gap, c), 255, np.uint8)
    cells[:n, :h, :w] = images
    picture = cells.reshape(rows, columns, h + gap, w + gap, c).swapaxes(1, 2)
    picture = picture.reshape(rows * (h + gap), columns * (w + gap), c)
    return picture[: rows * (h + gap) - gap, : columns * (w + gap) - gap]


def by_class(images: np.ndarray, classes: int) -> np.ndarray:
    """Images [n, h, w, c] of all classes by turns, in the order of their classes.

    Example:
      >>> by_class(np.arange(6).reshape(6, 1, 1, 1), 3).ravel().tolist()
      [0, 3, 1, 4, 2, 5]
    """
    turns = images.reshape(-1, classes, *images.shape[1:])
    return turns.swapaxes(0, 1).reshape(images.shape)


def zoom(images: Any) -> int:
    """How much a picture of images [n, h, w, c] is enlarged: to about 96 pixels an image."""
    return max(1, 96 // max(images.shape[1:3]))


def save_png(path: Path, pixels: np.ndarray, zoom: int = 1) -> None:
    """Writes uint8 [h, w, c], RGB or grey, atomically, each pixel enlarged to zoom x zoom."""
    from PIL import Image

    if zoom > 1:
        pixels = pixels.repeat(zoom, 0).repeat(zoom, 1)
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    replace(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def save_npz(path: Path, images: np.ndarray) -> None:
    """Writes uint8 [n, h, w, c] atomically, under the name "images"."""
    replace(path, lambda file: np.savez_compressed(file, images=images))
