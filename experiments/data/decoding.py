"""Pictures to be decoded, and decoding: one encoded picture -> uint8 [h, w, c]."""

import contextlib
import ctypes
import difflib
import functools
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from experiments.data import metadata, vetting
from experiments.terminal.errors import UserError
from experiments.terminal.texts import brief

SMALLEST_SIDE = 4  # pixels; smaller pictures are skipped
NOT_AN_IMAGE = "not an image"
BEGINNING = 32  # bytes that tell a format


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
    """Silences Pillow's warnings, and libtiff's lines on stderr: damage is told in one line.

    Filters of warnings are per process, not per thread, so this goes around all threads.
    """
    _silence_libtiff()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@functools.cache
def _silence_libtiff() -> None:
    from PIL import Image

    with contextlib.suppress(OSError, AttributeError):  # where it cannot be found by this name
        library = ctypes.CDLL(Image.core.__file__)
        library.TIFFSetErrorHandler.argtypes = [ctypes.c_void_p]
        library.TIFFSetErrorHandler(None)


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
    try:
        return opened(file, functools.partial(_decode, size=size, channels=channels))
    except NoPicture:
        return Decoded(None, NOT_AN_IMAGE)
    except vetting.Unfit as error:
        return Decoded(None, str(error))
    except PermissionError:
        return Decoded(None, "no permission to read it")
    except Exception as error:  # decoders may raise anything on damaged files
        return Decoded(None, f"damaged: {brief(error)}")


class NoPicture(ValueError):
    """A file of none of the formats that are read."""


def opened(file: Path | BinaryIO, use: Callable[[Any], Any]) -> Any:
    """``use(image)`` for a picture, which must read all that it needs of it.

    If that fails, it is tried again without the picture's texts, profiles and other metadata that
    pixels do not depend on, and then without EXIF too.

    Raises:
      NoPicture: when its first bytes are those of no format that is read.
      vetting.Unfit: when it would cost more than pictures do.
      Exception: of the first try, of any kind, when no try succeeds.
    """
    whole = _content(file)
    try:
        return _used(whole, use)
    except (NoPicture, vetting.Unfit):
        raise
    except Exception as error:  # decoders may raise anything on damaged files
        for bare in metadata.without(whole):
            with contextlib.suppress(Exception):
                return _used(bare, use)
        raise error


def _content(file: Path | BinaryIO) -> bytes:
    """The whole file; of what is no picture the beginning."""
    if not isinstance(file, Path):
        file.seek(0)
        return file.read()
    from jaxddim.files import reading  # here, as importing this must not import JAX

    with reading.opened(file) as source:
        start, size = source.read(BEGINNING), os.fstat(source.fileno()).st_size
        if vetting.kind(start) is None:
            return start
    if size > vetting.LARGEST_FILE:
        raise vetting.Unfit(f"{size:,} bytes, at most {vetting.LARGEST_FILE:,} are read")
    return reading.content(file, vetting.LARGEST_FILE)


def _used(whole: bytes, use: Callable[[Any], Any]) -> Any:
    from PIL import Image, UnidentifiedImageError

    kind = vetting.kind(whole[:BEGINNING])
    if kind is None:
        raise NoPicture
    vetting.check(whole, kind)
    try:
        with Image.open(io.BytesIO(whole), formats=[kind]) as image:
            vetting.check_size(*image.size)
            if image.tile and image.tile[0][0] in Image.DECODERS:  # written in Python
                raise vetting.Unfit(f"a kind of {kind} that is slow to read")
            return use(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise vetting.Unfit("too many pixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"not a whole {kind}") from None


def _decode(image: Any, size: tuple[int, int] | None, channels: int) -> Decoded:
    if size is not None and min(image.size) < SMALLEST_SIDE:
        return Decoded(None, f"{image.height}x{image.width} pixels")
    remark = "rotated by EXIF" if _turn(image) else _remark(image, channels)
    pixels = math.prod(image.size) if image.info.get("progressive") else 0  # held as coefficients
    if size is not None:
        longer = 2 * max(size)  # on either axis, as EXIF may swap them
        image.draft(None, (longer, longer))
    with vetting.ROOM.taken(pixels + math.prod(image.size)):
        return Decoded(_pixels(image, size, channels), remark)


def _pixels(image: Any, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    from PIL import Image

    image.load()
    turn = _turn(image)  # only now: TIFF turns itself while it is loaded
    upright = image if turn is None else image.transpose(turn)
    picture = _converted(_to_rgb(upright), "RGB" if channels == 3 else "L")
    if size is not None:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(picture).reshape(*picture.size[::-1], channels)


def _converted(image: Any, mode: str) -> Any:
    """The image in a mode; itself, not a copy, where it has that."""
    return image if image.mode == mode else image.convert(mode)


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
    texts = [image.info.get(name) for name in ("exif", "Raw profile type exif")]
    try:
        if not all(map(_is_modest, filter(None, texts))):
            return None
        return dict(enumerate(turns, 2)).get(image.getexif().get(0x0112, 1))
    except Exception:  # the reader raises many kinds of errors
        return None


def _is_modest(exif: bytes | str) -> bool:
    """Whether EXIF, or a text that holds it in hexadecimal digits, may be read."""
    if isinstance(exif, str):
        exif = bytes.fromhex("".join(exif.split("\n")[3:]))
    return vetting.is_modest(exif)


def _remark(image: Any, channels: int) -> str:
    """The conversion that this picture needs, for the summary."""
    if image.has_transparency_data:
        return "transparent"
    if image.mode == "RGB" or (image.mode == "L" and channels == 1):
        return ""
    return {"L": "grey", "P": "palette"}.get(image.mode, image.mode)


def _to_rgb(image: Any) -> Any:
    """Any Pillow mode to RGB: transparency over white, high-bit-depth grey to 8 bits."""
    if image.mode[0] in "IF":
        image = _grey(image)
    if image.has_transparency_data:
        return _over_white(image)
    return _converted(image, "RGB")


def _bands(image: Any) -> Iterator[tuple[int, Any]]:
    """(first row, image) of bands from top to bottom: copies of them are small."""
    height = max(2**20 // image.width, 1)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _over_white(image: Any) -> Any:
    from PIL import Image

    found = Image.new("RGB", image.size)
    for top, band in _bands(image):
        band = band.convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        found.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return found


def _grey(image: Any) -> Any:
    """Grey of more than 8 bits, or of floats, as grey of 8 bits."""
    from PIL import Image

    peak = 0.0
    for _, band in _bands(image):
        levels = np.asarray(band)
        peak = max(peak, float(levels.max(initial=0, where=np.isfinite(levels))))
    found = np.empty(image.size[::-1], np.uint8)
    clear = image.info.get("transparency")
    for top, band in _bands(image):
        levels = np.asarray(band)
        grey = _eight_bits(levels, peak)
        if isinstance(clear, int):
            grey[levels == clear] = 255  # a PNG may have one transparent level
        found[top : top + len(grey)] = grey
    return Image.fromarray(found)


def _eight_bits(values: np.ndarray, peak: float) -> np.ndarray:
    """Integer or float grey levels to uint8; the type, then the maximum, determines the range."""
    levels = np.nan_to_num(values.astype(np.float64), posinf=peak, neginf=0.0)
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
