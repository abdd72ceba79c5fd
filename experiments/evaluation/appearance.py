r"""What is wrong with pictures, in four numbers and a curve that need no feature network.

    brightness   deviation of the images' mean brightness: too even, or drifting in colour
    saturation   share of values beyond 0.98 of [-1, 1]: burnt out or black
    detail       power at 0.2 <= f < 0.5 cycles a pixel: blurred below 1, noisy above
    corner       power at f = (1/2, 1/2): dots, as from networks that work on patches

Power is |DFT of the luminance minus its mean|^2, as a mean over the images, and is compared with
that of real images.
"""

from typing import NamedTuple

import numpy as np

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
BEYOND = 0.98
DETAIL = (0.2, 0.5)
RINGS = 24
BLOCK = 512


class Appearance(NamedTuple):
    """Statistics of a set of images.

    Attributes:
      brightness: standard deviation over the images of their mean value in [-1, 1].
      beyond: share of values beyond `BEYOND` in size.
      power: mean power by frequency, float64 [h, w], as `numpy.fft.fft2` orders it.
    """

    brightness: float
    beyond: float
    power: np.ndarray

    @property
    def corner(self) -> float:
        """Power at the highest frequency in both directions."""
        height, width = self.power.shape
        return float(self.power[height // 2, width // 2])

    @property
    def detail(self) -> float:
        """Mean power over the frequencies of `DETAIL`."""
        f = frequencies(self.power.shape)
        return float(self.power[(f >= DETAIL[0]) & (f < DETAIL[1])].mean())


def measure(images: np.ndarray) -> Appearance:
    """The statistics of images.

    Args:
      images: uint8 [n, h, w, c], RGB or grey; may be memory-mapped.
    Returns:
      The Appearance.
    Example:
      >>> grey = np.full((2, 8, 8, 3), 128, np.uint8)
      >>> found = measure(grey)
      >>> found.brightness, found.beyond, bool(found.power.max() < 1e-20)
      (0.0, 0.0, True)
    """
    means, beyond, power = [], 0, np.zeros(images.shape[1:3])
    for start in range(0, len(images), BLOCK):
        pixels = images[start : start + BLOCK] / 127.5 - 1
        means.append(pixels.mean((1, 2, 3)))
        beyond += int((np.abs(pixels) > BEYOND).sum())
        light = pixels @ LUMINANCE if pixels.shape[-1] == 3 else pixels.mean(-1)
        light = light - light.mean((1, 2), keepdims=True)
        power += np.square(np.abs(np.fft.fft2(light))).sum(0)
    brightness = float(np.concatenate(means).std())
    return Appearance(brightness, beyond / images.size, power / len(images))


def frequencies(shape: tuple[int, ...]) -> np.ndarray:
    """The frequency of each coefficient of a DFT in cycles a pixel, [h, w]; 0.71 at the corner."""
    down, across = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1])
    return np.hypot(down[:, None], across)


def rings(ours: Appearance, real: Appearance) -> tuple[list[float], list[float]]:
    """Mean frequency of each ring of equal width, and our power over that of real images."""
    f = frequencies(ours.power.shape)
    number = np.minimum((f / f.max() * RINGS).astype(int), RINGS - 1)
    number[f == 0] = -1
    masks = [number == ring for ring in range(RINGS) if np.any(number == ring)]
    middles = [float(f[mask].mean()) for mask in masks]
    return middles, [ratio(ours.power[mask].mean(), real.power[mask].mean()) for mask in masks]


def ratio(ours: float, real: float) -> float:
    """ours / real; not finite where the real images have none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(ours) / np.float64(real))
