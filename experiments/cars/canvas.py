"""A canvas for pictures of flat faces in space: a camera, and coverage from signed distances.

A camera with yaw and pitch projects each face to a convex polygon in the frame:

    d(p)     = max_k  n_k . (p - a_k)       signed distance to edges a_k with outward normals n_k
    coverage = clip(1/2 - d / pixel, 0, 1)  how much of a pixel the face covers: antialiasing
    canvas   = canvas + coverage * (colour - canvas)

Ellipses have d = (|M^-1 (p - c)| - 1) r. Faces turned away from the camera have negative area and
are left out; of the others, the one drawn last is in front.

The last axis of an array is the picture: a quantity is [n], a point in space [3, n], a plane of
pixels [rows, columns, n], so every formula reads as if for a single picture. Frame coordinates are
pixels, y down.
"""

import numpy as np

from experiments.cars.designs import Camera

Window = tuple[slice, slice]  # rows and columns


class Canvas:
    """The pixels of n pictures, [3, height, width, n], and their camera."""

    def __init__(self, camera: Camera, size: tuple[int, int]):
        self.camera, (self.height, self.width) = camera, size
        self.grid = (np.arange(max(size), dtype=np.float32) + 0.5)[:, None]
        self.pixels = np.empty((3, *size, len(camera.yaw)), np.float32)
        self.scale, self.offset = 1.0, 0.0

    def project(self, points: np.ndarray) -> np.ndarray:
        """Positions in the frame [k, 2, n] of points in space [k, 3, n]."""
        x, y, z = np.moveaxis(points, 1, 0)
        yaw, pitch = self.camera.yaw, self.camera.pitch
        x, y = x * np.cos(yaw) + y * np.sin(yaw), y * np.cos(yaw) - x * np.sin(yaw)
        up = z * np.cos(pitch) + y * np.sin(pitch)
        depth = y * np.cos(pitch) - z * np.sin(pitch) + self.camera.distance
        return np.stack([x / depth, -up / depth], axis=1) * self.scale + self.offset

    def fit(self, points: np.ndarray) -> None:
        """Scales and shifts the projection so that the points fill the frame as the camera asks."""
        frame = self.project(points)
        low, high = frame.min(0), frame.max(0)
        width, height = high - low
        across, down = self.width * self.camera.fill / width, self.height * 0.74 / height
        self.scale = np.minimum(across, down)
        frame = np.array([[self.width], [self.height]])
        centre = frame * (np.array([[0.5], [0.56]]) + self.camera.shift)
        self.offset = centre - self.scale * (low + high) / 2

    def window(self, low: np.ndarray, high: np.ndarray) -> Window:
        """The window that shapes with corners [2, n] may touch in any of the pictures."""
        size = np.array([self.width, self.height])
        first = np.clip(np.floor(low.min(1)) - 1, 0, size - 1).astype(int)
        last = np.clip(np.ceil(high.max(1)) + 1, first + 1, size).astype(int)
        return slice(first[1], last[1]), slice(first[0], last[0])

    def blend(self, window: Window, coverage, colour) -> None:
        """Blends a colour, [3, n] or [3, rows, 1, n], over a window."""
        rows, columns = window
        colour = np.asarray(colour, np.float32)
        colour = colour[:, None, None] if colour.ndim == 2 else colour
        view = self.pixels[:, rows, columns]
        view += coverage * (colour - view)

    def shade(self, rows: slice, low, high, bottom, top) -> np.ndarray:
        """Colours [3, rows, 1, n] from `top` at the height `high` to `bottom` at `low`, [n]."""
        low, high = np.float32(low), np.float32(high)
        weight = np.clip((self.grid[rows] - high) / (low - high), 0, 1)[:, None]
        bottom, top = (np.asarray(c, np.float32)[:, None, None] for c in (bottom, top))
        return top + weight * (bottom - top)

    def face(self, points: np.ndarray, colour, top=None, alpha=1.0, grow=0.4) -> None:
        """Draws a convex face [k, 3, n], its corners anticlockwise seen from outside.

        It is shaded from `colour` to `top`; `grow` extra pixels hide the seams between faces.
        """
        corner = self.project(points)
        edge = np.roll(corner, -1, axis=0) - corner
        length = np.hypot(edge[:, 0], edge[:, 1]) + 1e-6
        area = (edge[:, 0] * corner[:, 1] - edge[:, 1] * corner[:, 0]).sum(0) / 2
        thickness = np.maximum(area / length.max(0), 0) + np.where(area > 0, grow, 0)
        alpha = (alpha * np.minimum(2 * thickness / (1 + thickness), 1)).astype(np.float32)
        if not alpha.any():
            return
        normal = np.stack([-edge[:, 1], edge[:, 0]], axis=1) / length[:, None]
        low, high = corner.min(0), corner.max(0)
        window = rows, _ = self.window(low, high)
        distance = self._distance(window, corner, normal, grow)
        if top is not None:
            colour = self.shade(rows, high[1] + 1, low[1], colour, top)
        self.blend(window, np.clip(0.5 - distance, 0, 1) * alpha, colour)

    def _distance(self, window: Window, corner, normal, grow: float) -> np.ndarray:
        """d(p) [rows, columns, n] to the polygon with corners and outward normals [k, 2, n]."""
        x, y = self.grid[window[1]], self.grid[window[0]]
        # With half-planes alone, sharp corners would extend too far: the bounding box cuts them.
        low, high = corner.min(0), corner.max(0)
        middle = ((high + low) / 2).astype(np.float32)
        half = ((high - low) / 2 + grow).astype(np.float32)
        beside, above = np.abs(x - middle[0]) - half[0], np.abs(y - middle[1]) - half[1]
        distance = np.maximum(beside, above[:, None])
        reach = ((normal * corner).sum(1) + grow).astype(np.float32)
        for (across, down), limit in zip(normal.astype(np.float32), reach, strict=True):
            distance = np.maximum(distance, (across * x - limit) + (down * y)[:, None])
        return distance

    def disc(self, centre: np.ndarray, first: np.ndarray, second: np.ndarray):
        """The ellipse with a centre and two half axes, all [3, n], in its own coordinates (u, v).

        Returns:
          Its window; u and |(u, v)| there, the latter 1 on the rim; and its radius in pixels.
        """
        points = self.project(np.stack([centre, centre + first, centre + second]))
        middle, (a, c), (b, d) = points[0], points[1] - points[0], points[2] - points[0]
        extent = np.stack([np.hypot(a, b), np.hypot(c, d)])
        window = rows, columns = self.window(middle - extent, middle + extent)
        inverse = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
        inverse, middle = inverse.astype(np.float32), middle.astype(np.float32)
        x, y = self.grid[columns] - middle[0], (self.grid[rows] - middle[1])[:, None]
        u, v = inverse[:, 0, None, None] * x + inverse[:, 1, None, None] * y
        pixels = np.sqrt(np.abs(a * d - b * c)).astype(np.float32)
        return window, u, np.sqrt(u * u + v * v), pixels
