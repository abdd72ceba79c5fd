"""Pictures to be decoded, and decoding: one encoded picture -> uint8 [size, size, 3]."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from experiments.terminal.errors import UserError
from experiments.terminal.texts import brief

SMALLEST_SIDE = 4  # pixels; smaller pictures are skipped


class Pictures(NamedTuple):
    """Pictures to be decoded."""

    names: Sequence[str]  # for messages
    read: Callable[[int], tuple[Path | BinaryIO, int]]  # position -> (encoded file, label)
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # "name (reason)" of what could not be listed


class Decoded(NamedTuple):
    """One picture, or why there is none."""

    image: np.ndarray | None  # uint8 [size, size, 3]
    remark: str = ""  # what had to be converted, or the reason for skipping


def decode(file: Path | BinaryIO, size: int) -> Decoded:
    """One encoded picture as upright RGB, resized to a square of `size` pixels.

    As in the seed, the whole picture is kept, but not its aspect ratio. Resizing is
    Lanczos with antialiasing. JPEGs are first shrunk in the frequency domain to no
    less than twice the wanted size, which is three times faster.

    Args:
      file: a path, or an open binary file.
      size: side of the result in pixels.
    Returns:
      The image with a remark on what was converted, or no image and the reason.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if min(image.size) < SMALLEST_SIDE:
                return Decoded(None, f"{image.size[0]}x{image.size[1]} pixels")
            remark = _remark(image)
            image.draft(None, (2 * size, 2 * size))
            image.load()
            turned = ImageOps.exif_transpose(image)
            rgb = _to_rgb(turned).resize((size, size), Image.Resampling.LANCZOS)
        return Decoded(np.asarray(rgb), remark)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Decoded(None, "too many pixels")
    except UnidentifiedImageError:
        return Decoded(None, "not an image")
    except PermissionError:
        return Decoded(None, "no permission to read it")
    except Exception as error:  # decoders may raise anything on damaged files
        return Decoded(None, f"damaged: {brief(error)}")


def _remark(image: Any) -> str:
    """The conversion that this picture needs, for the summary."""
    if image.getexif().get(0x0112, 1) not in (0, 1):
        return "rotated by EXIF"
    if image.has_transparency_data:
        return "transparent"
    return "" if image.mode == "RGB" else {"L": "grey", "P": "palette"}.get(image.mode, image.mode)


def _to_rgb(image: Any) -> Any:
    """Any Pillow mode to RGB: transparency over white, high-bit-depth grey to 8 bits."""
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode[0] in "IF":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integer or float grey levels to uint8; the type, then the maximum, determines the range."""
    levels = np.nan_to_num(values.astype(np.float64))
    peak = levels.max(initial=0.0)
    if values.dtype.itemsize == 2 or peak > 255:
        levels = levels / 257
    elif values.dtype.kind == "f" and peak <= 1:
        levels = levels * 255
    return np.round(np.clip(levels, 0, 255)).astype(np.uint8)


def choose(pictures: Pictures, classes: Sequence[str]) -> Pictures:
    """Only the pictures of the named classes; all pictures if no class is named.

    Raises:
      UserError: when there is no class with one of the names.
    """
    if not classes:
        return pictures
    known = pictures.class_names
    for name in classes:
        if name not in known:
            near = [other for other in known if name.lower() in other.lower()]
            near = near or difflib.get_close_matches(name, known, n=1, cutoff=0) or known[:1]
            advice = f"did you mean {near[0]!r}?" if near else "this source has no classes"
            raise UserError(f"unknown class {name!r} in --data.classes: {advice}")
    wanted = {known.index(name) for name in classes}
    kept = [i for i in range(len(pictures.names)) if pictures.read(i)[1] in wanted]
    names = [pictures.names[i] for i in kept]
    return pictures._replace(names=names, read=lambda i: pictures.read(kept[i]))
