"""Renders pictures of cars.

A picture is painted from back to front (painter's algorithm): backdrop, shadow, underside, top
faces, the end that the camera sees, the near flank, the windows, the wheels. Light comes from
above: faces that look up are brighter than the paint, upright ones darken towards the bottom.
`designs` draws the random quantities, `shapes` lays out the faces, and `canvas` turns them into
pixels.

Picture i depends only on (seed, i, size), and its design only on (seed, i).
"""

from collections.abc import Iterable

import numpy as np

from experiments.cars.canvas import Canvas
from experiments.cars.designs import BODY_TYPES, Car, design, kinds, rgb
from experiments.cars.shapes import Shape, patch, points

_BLACK, _RUBBER = rgb(0.05, 0.05, 0.05), rgb(0.09, 0.09, 0.09)
_WHITE, _RED = rgb(0.95, 0.95, 0.95), rgb(0.80, 0.07, 0.06)
_ARCH = 1.18  # drawn radius of a wheel with its arch; the tyre has radius 1
_CHUNK = 16  # pictures drawn together: enough to hide Python's overhead, few enough for the cache


class _Scene:
    """One chunk of cars on their canvas."""

    def __init__(self, car: Car, size: tuple[int, int]):
        self.car, self.body = car, car.body
        self.shape = Shape(car)
        self.canvas = Canvas(car.camera, size)
        self.canvas.fit(self.shape.extremes())
        self.glass = rgb(0.10, 0.13, 0.17), 0.35 * car.backdrop.sky + 0.12  # foot and top

    def backdrop(self) -> None:
        canvas, height, back = self.canvas, self.canvas.height, self.car.backdrop
        rows, columns = slice(0, height), slice(0, canvas.width)
        canvas.pixels[:] = canvas.shade(rows, 0.6 * height, 0, back.haze, back.sky)
        for top, colour in (
            (back.horizon, back.strip),
            (back.horizon + back.verge, back.ground),
        ):
            below = np.clip(canvas.grid[rows] - (top * height).astype(np.float32) + 0.5, 0, 1)
            ground = canvas.shade(rows, height, 0.4 * height, 1.15 * colour, 0.85 * colour)
            canvas.blend((rows, columns), below[:, None], ground)

    def shadow(self) -> None:
        along, across = 0.56 * self.body.length, 0.72 * self.car.width
        ellipse = points((0, 0, 0), (along, 0, 0), (0, across, 0))
        window, _, radius, _ = self.canvas.disc(*ellipse)
        shade = np.clip(2.2 * (1 - radius), 0, 0.8)
        self.canvas.blend(window, shade, 0.4 * self.car.backdrop.ground)

    def underside(self) -> None:
        """The far wheels and the inner sides of the near ones."""
        shape = self.shape
        for y in (shape.far - 0.03, shape.far - 0.22, shape.near + 0.22):
            for x in shape.axles:
                window, _, radius, pixels = self.canvas.disc(*shape.wheel(x, y))
                self.canvas.blend(window, np.clip(0.5 - (radius - 1) * pixels, 0, 1), _BLACK)

    def tops(self) -> None:
        """Deck, roof, windscreen, rear window and bonnet."""
        canvas, shape, paint = self.canvas, self.shape, self.car.paint
        sunny = paint + 0.25 * (1 - paint)
        bed = self.car.kind == BODY_TYPES.index("pickup")
        canvas.face(shape.deck, sunny)
        canvas.face(patch(shape.deck, 0.08, 0.92, 0.06, 1.0), 0.25 * paint, alpha=bed)
        canvas.face(shape.roof, sunny)
        for screen in (shape.rear_window, shape.windscreen):
            canvas.face(screen, 0.85 * paint)
            canvas.face(patch(screen, 0.07, 0.93, 0.06, 0.90), *self.glass)
        canvas.face(shape.bonnet, paint, sunny)

    def end(self) -> None:
        """The front or the rear, with bumper, grille, lamps and number plate."""
        canvas, paint = self.canvas, self.car.paint * self.car.light[1]
        front = self.car.camera.yaw > 0
        lower, upper = self.shape.end(front)
        canvas.face(lower, 0.55 * paint, 0.8 * paint)
        canvas.face(patch(lower, 0.04, 0.96, 0.0, 0.35), _BLACK)
        canvas.face(upper, 0.85 * paint, paint)
        canvas.face(patch(upper, 0.3, 0.7, 0.12, 0.62), 1.5 * _BLACK, alpha=front)
        lamp = np.where(front, 0.8 * _WHITE, 0.7 * _RED), np.where(front, _WHITE, _RED)
        for left, right in ((0.03, 0.25), (0.75, 0.97)):
            canvas.face(patch(upper, left, right, 0.32, 0.82), *lamp, grow=0.1)
        canvas.face(patch(lower, 0.36, 0.64, 0.55, 1.0), 0.85 * _WHITE, grow=0.1)

    def flank(self) -> None:
        """The near side below the windows, with doors, handles and lamps."""
        b, canvas, panel = self.body, self.canvas, self.shape.panel
        paint = self.car.paint * self.car.light[0]
        canvas.face(self.shape.flank, 0.58 * paint, 1.06 * paint)
        canvas.face(panel(0.02, 0.98, b.sill, b.sill + 0.09), 1.4 * _BLACK, alpha=0.75)
        shoulder = panel(0.03, 0.95, b.bonnet - 0.13 - 0.06, b.bonnet - 0.13)
        canvas.face(shoulder, paint + 0.5 * (1 - paint), alpha=0.5)
        _, (rear, _), (front, end) = self.car.windows
        for share in (end, front - 0.02, rear + 0.03):
            gap = b.foot + share * (b.cowl - b.foot)
            line = panel(gap, gap + 0.008, b.sill + 0.1, b.belt - 0.05)
            canvas.face(line, 0.35 * paint, alpha=0.7, grow=0.0)
        for share in (rear, front):
            handle = b.foot + (share + 0.03) * (b.cowl - b.foot)
            grip = panel(handle, handle + 0.04, b.belt - 0.22, b.belt - 0.16)
            canvas.face(grip, 0.4 * paint, grow=0.0)
        canvas.face(panel(0.93, 0.98, b.bonnet - 0.20, b.bonnet - 0.07), _WHITE, grow=0.1)
        canvas.face(panel(0.012, 0.05, b.deck - 0.30, b.deck - 0.08), _RED, grow=0.1)

    def cabin(self) -> None:
        """The near side from the belt to the roof, with windows and a mirror."""
        b, canvas, cabin = self.body, self.canvas, self.shape.cabin
        paint = self.car.paint * self.car.light[0]
        canvas.face(cabin, 1.02 * paint, 1.1 * paint)
        for number, (rear, front) in enumerate(self.car.windows):
            shown = (front > rear) & ~(self.car.panel & (number < 2))
            pane = patch(cabin, rear, front, 0.08, 0.86)
            canvas.face(pane, *self.glass, alpha=shown, grow=0.2)
        mirror = self.shape.panel(b.cowl - 0.055, b.cowl - 0.015, b.belt - 0.01, b.belt + 0.13)
        canvas.face(mirror, 0.6 * paint)

    def wheel(self, x: np.ndarray) -> None:
        """A near wheel in its arch: tyre, rim, five gaps between spokes, hub."""
        canvas, rim = self.canvas, self.car.rim
        window, u, share, pixels = canvas.disc(*self.shape.wheel(x, self.shape.near, _ARCH))
        radius, pixels = _ARCH * share, pixels / _ARCH

        def within(limit):
            return np.clip(0.5 - (radius - limit) * pixels, 0, 1)

        canvas.blend(window, within(1.16), _BLACK)
        canvas.blend(window, within(1.0), 1.3 * _RUBBER)
        canvas.blend(window, within(0.66), rim)
        cosine = u / np.maximum(radius / _ARCH, 1e-3)
        petals = cosine * (16 * cosine**4 - 20 * cosine**2 + 5)  # cos(5 angle)
        gaps = np.clip(0.3 + petals * radius * pixels / 3, 0, 1) * self.car.spokes
        gaps = gaps * within(0.58) * (1 - within(0.22))
        canvas.blend(window, gaps.astype(np.float32) * 0.75, 2 * _RUBBER)
        canvas.blend(window, within(0.16), 0.4 * rim)

    def picture(self) -> np.ndarray:
        """The pictures, uint8 [n, height, width, 3]."""
        self.backdrop()
        self.shadow()
        self.underside()
        self.tops()
        self.end()
        self.flank()
        self.cabin()
        for x in self.shape.axles:
            self.wheel(x)
        pixels = np.moveaxis(self.canvas.pixels, (0, 3), (3, 0))
        pixels = np.where(self.car.mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
        return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def render(
    indices: Iterable[int], *, size: int | tuple[int, int] = 64, seed: int = 0
) -> np.ndarray:
    """Pictures of cars, uint8 [n, height, width, 3], RGB.

    Args:
      indices: which pictures; picture i does not depend on the others.
      size: the side of a square in pixels, or (height, width); the design of a car does not
        depend on it.
      seed: another seed gives other cars.
    Returns:
      The pictures in the order of the indices.
    Example:
      >>> render(range(3), size=32).shape
      (3, 32, 32, 3)
      >>> bool((render([2], size=32)[0] == render(range(3), size=32)[2]).all())
      True
    """
    indices = np.atleast_1d(np.asarray(indices, np.int64))
    chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
    size = (size, size) if isinstance(size, int) else size
    pictures = [_Scene(design(chunk, seed), size).picture() for chunk in chunks]
    return np.concatenate([np.empty((0, *size, 3), np.uint8), *pictures])


def labels(indices: Iterable[int], *, seed: int = 0) -> np.ndarray:
    """The body types of `render(indices, seed=seed)`, int64 [n], indices of BODY_TYPES.

    Args:
      indices: which pictures.
      seed: as in `render`.
    Returns:
      One number for each index.
    Example:
      >>> [BODY_TYPES[kind] for kind in labels([0, 1])]
      ['hatchback', 'suv']
    """
    indices = np.atleast_1d(np.asarray(indices, np.int64))
    return kinds(indices, seed) if len(indices) else indices
