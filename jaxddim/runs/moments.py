"""moments.npz of a run: the moments of its images, around which its network was trained."""

import io
from pathlib import Path

import numpy as np

from jaxddim.files import arrays
from jaxddim.files.arrays import Form
from jaxddim.ideal import Moments
from jaxddim.runs import record
from jaxddim.runs.config import Config
from jaxddim.runs.errors import RunError

NAME = "moments.npz"


def write(workdir: str, moments: Moments) -> None:
    """Writes the moments of a run's training images.

    Raises:
      RunError: when the folder cannot be written to.
    """
    content = io.BytesIO()
    np.savez(content, **moments._asdict())
    record.replace(workdir, NAME, content.getvalue())


def read(workdir: str, config: Config) -> Moments | None:
    """The moments of a run; None for a run without --diffusion.precondition.

    Raises:
      RunError: when they are missing, damaged, or of images of another shape.
    """
    if config.diffusion.precondition == "none":
        return None
    path = Path(workdir) / NAME
    shape, channels = config.data.shape, config.data.channels
    forms = dict(
        zip(
            Moments._fields,
            (Form("f", form) for form in (shape, (channels, channels), shape)),
            strict=True,
        )
    )
    try:
        found = Moments(**arrays.read(path, forms))
        if not all(np.isfinite(a).all() for a in found) or not (found.variance > 0).all():
            raise ValueError("not finite, or without variance")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}), and the network was trained around these moments: "
            "restore the file"
        ) from None
    return found
