"""Pictures to be decoded, and decoding: one encoded picture -> uint8 [h, w, c]."""

import contextlib
import difflib
import functools
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from experiments.data import metadata
from experiments.terminal.errors import UserError
from experiments.terminal.texts import brief

SMALLEST_SIDE = 4  # pixels; smaller pictures are skipped
NOT_AN_IMAGE = "not an image"


Shape = tuple[int, int, int]  # height, width and channels of an image


class Pictures(NamedTuple):
    """Pictures to be decoded."""

    names: Sequence[str]  # for messages
    read: Callable[[int], tuple[Path | BinaryIO, int]]  # position -> (encoded file, label)
    class_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # "name (reason)" of what could not be listed


class Decoded(NamedTuple):
    """One picture, or why there is none."""

    image: np.ndarray | None  # uint8 [h, w, c]
    remark: str = ""  # what had to be converted, or the reason for skipping


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silences Pillow's warnings, and makes too many pixels an error.

    Filters of warnings are per process, not per thread, so this goes around all threads.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield


def decode(file: Path | BinaryIO, size: tuple[int, int] | None, channels: int = 3) -> Decoded:
    """One encoded picture, upright and resized, as RGB or grey.

    As in the seed, the whole picture is kept, but not its aspect ratio. Resizing is
    Lanczos with antialiasing. JPEGs are first shrunk in the frequency domain to no
    less than twice the wanted size, which is three times faster. Grey is Rec. 601's luma.

    Args:
      file: a path, or an open binary file.
      size: height and width of the result; None leaves the picture as large as it is.
      channels: 3 for RGB, 1 for grey.
    Returns:
      The image with a remark on what was converted, or no image and the reason.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return opened(file, functools.partial(_decode, size=size, channels=channels))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Decoded(None, "too many pixels")
    except UnidentifiedImageError:
        return Decoded(None, NOT_AN_IMAGE)
    except PermissionError:
        return Decoded(None, "no permission to read it")
    except Exception as error:  # decoders may raise anything on damaged files
        return Decoded(None, f"damaged: {brief(error)}")


def opened(file: Path | BinaryIO, use: Callable[[Any], Any]) -> Any:
    """``use(image)`` for a picture, which must read all that it needs of it.

    If that fails, it is tried again without the picture's texts, profiles and other metadata that
    pixels do not depend on, and then without EXIF too.

    Raises:
      Exception: of the first try, of any kind, when no try succeeds.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return use(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, PermissionError):
        raise
    except Exception as error:  # decoders may raise anything on damaged files
        for bare in metadata.without(file):
            with contextlib.suppress(Exception), Image.open(io.BytesIO(bare)) as image:
                return use(image)
        raise error


def _decode(image: Any, size: tuple[int, int] | None, channels: int) -> Decoded:
    from PIL import Image

    if size is not None and min(image.size) < SMALLEST_SIDE:
        return Decoded(None, f"{image.height}x{image.width} pixels")
    remark = "rotated by EXIF" if _turn(image) else _remark(image, channels)
    if size is not None:
        longer = 2 * max(size)  # on either axis, as EXIF may swap them
        image.draft(None, (longer, longer))
    image.load()
    turn = _turn(image)  # only now: TIFF turns itself while it is loaded
    upright = image if turn is None else image.transpose(turn)
    picture = _to_rgb(upright).convert("RGB" if channels == 3 else "L")
    if size is not None:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    return Decoded(np.asarray(picture).reshape(*picture.size[::-1], channels), remark)


def _turn(image: Any) -> Any:
    """The transposition that EXIF asks for, None if there is none or EXIF is damaged."""
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_270,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_90,
    )
    try:
        return dict(enumerate(turns, 2)).get(image.getexif().get(0x0112, 1))
    except Exception:  # the reader raises many kinds of errors
        return None


def _remark(image: Any, channels: int) -> str:
    """The conversion that this picture needs, for the summary."""
    if image.has_transparency_data:
        return "transparent"
    if image.mode == "RGB" or (image.mode == "L" and channels == 1):
        return ""
    return {"L": "grey", "P": "palette"}.get(image.mode, image.mode)


def _to_rgb(image: Any) -> Any:
    """Any Pillow mode to RGB: transparency over white, high-bit-depth grey to 8 bits."""
    from PIL import Image

    if image.mode[0] in "IF":
        levels = np.asarray(image)
        grey = _eight_bits(levels)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[levels == clear] = 255  # a PNG may have one transparent level
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integer or float grey levels to uint8; the type, then the maximum, determines the range."""
    levels = values.astype(np.float64)
    peak = levels.max(initial=0.0, where=np.isfinite(levels))
    levels = np.nan_to_num(levels, posinf=peak, neginf=0.0)
    if peak > 65535:
        levels = levels * (255 / peak)
    elif values.dtype.itemsize == 2 or peak > 255:
        levels = levels / 257
    elif values.dtype.kind == "f" and peak < 2:  # a little above 1 is rounding or sharpening
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
