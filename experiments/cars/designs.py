"""The random design of a car picture: the body, the paint, the camera and the light.

Picture i has its own random generator, keyed by (seed, i), whose numbers u in 0..1 become
quantities low + (high - low) u. So a design depends neither on the size of the picture nor on the
other pictures. `design` uses the numbers in order: a new quantity must come last to leave the
others unchanged.

A car is one of seven body types. Each has a typical profile, which varies by a few per cent, so
the types stay distinct. The yaw's density grows with its angle, since exact side views look dull.
Lengths are metres and angles radians; a quantity is [n] and a colour [3, n] for n pictures.
"""

from typing import NamedTuple

import numpy as np

BODY_TYPES = ("hatchback", "saloon", "estate", "coupe", "suv", "pickup", "van")


class Body(NamedTuple):
    """A car's profile, arrays [n]: metres, then shares of the length, counted from the rear."""

    length: np.ndarray
    height: np.ndarray
    sill: np.ndarray  # heights: the lower edge of the doors,
    belt: np.ndarray  # the lower edge of the windscreen,
    bonnet: np.ndarray  # the front end of the bonnet,
    deck: np.ndarray  # and the rear end of the boot
    wheel: np.ndarray  # radius
    cowl: np.ndarray  # the foot of the windscreen
    roof_front: np.ndarray
    roof_rear: np.ndarray
    foot: np.ndarray  # of the rear window


class Camera(NamedTuple):
    """The camera's view of a car, arrays [n]."""

    yaw: np.ndarray  # > 0 shows the front, < 0 the rear
    pitch: np.ndarray
    distance: np.ndarray
    fill: np.ndarray  # share of the frame's width that the car takes
    shift: np.ndarray  # [2, n]: offset of the car in the frame, as shares of the frame's side


class Backdrop(NamedTuple):
    """The background: colours [3, n], and heights [n] as shares of the frame from its top."""

    sky: np.ndarray
    haze: np.ndarray  # the sky's colour further down
    ground: np.ndarray
    strip: np.ndarray  # the colour between ground and sky
    horizon: np.ndarray
    verge: np.ndarray  # height of the strip


class Car(NamedTuple):
    """The design of a picture."""

    kind: np.ndarray  # index of BODY_TYPES
    body: Body
    windows: np.ndarray  # [3, 2, n]: rear and front of the side windows
    width: np.ndarray
    paint: np.ndarray
    rim: np.ndarray
    spokes: np.ndarray  # bool
    panel: np.ndarray  # bool: a van without rear side windows
    camera: Camera
    mirrored: np.ndarray  # bool: it faces left
    light: np.ndarray  # [2, n]: on the flank, on the ends
    backdrop: Backdrop


# The columns are the fields of Body.
_BODIES = np.array(
    [
        (3.70, 1.58, 0.30, 1.00, 0.80, 0.97, 0.37, 0.74, 0.56, 0.15, 0.020),  # hatchback
        (4.35, 1.50, 0.29, 0.98, 0.79, 0.96, 0.37, 0.71, 0.54, 0.29, 0.140),  # saloon
        (4.35, 1.55, 0.29, 0.98, 0.79, 0.96, 0.37, 0.72, 0.55, 0.10, 0.015),  # estate
        (4.15, 1.34, 0.25, 0.90, 0.70, 0.88, 0.39, 0.64, 0.46, 0.33, 0.070),  # coupe
        (4.15, 1.86, 0.43, 1.16, 1.02, 1.14, 0.44, 0.75, 0.60, 0.07, 0.020),  # suv
        (4.75, 1.84, 0.47, 1.16, 1.04, 1.14, 0.44, 0.73, 0.60, 0.42, 0.390),  # pickup
        (4.30, 2.08, 0.33, 1.12, 0.94, 1.10, 0.38, 0.87, 0.69, 0.03, 0.012),  # van
    ]
)
# Side windows (rear, front) as shares of the cabin's length; an empty one is absent.
_WINDOWS = np.array(
    [
        ((0.00, 0.00), (0.08, 0.46), (0.51, 0.95)),
        ((0.00, 0.00), (0.13, 0.47), (0.52, 0.95)),
        ((0.04, 0.27), (0.31, 0.59), (0.63, 0.95)),
        ((0.00, 0.00), (0.22, 0.42), (0.46, 0.95)),
        ((0.05, 0.24), (0.28, 0.58), (0.62, 0.95)),
        ((0.00, 0.00), (0.08, 0.42), (0.48, 0.94)),
        ((0.05, 0.33), (0.37, 0.65), (0.69, 0.96)),
    ]
)
# Red, green, blue, and how common the paint is, all in per cent.
_PAINTS = np.array(
    [
        (93, 93, 91, 20),
        (72, 74, 76, 14),
        (42, 44, 47, 11),
        (12, 12, 14, 13),
        (74, 10, 10, 14),
        (13, 28, 64, 13),
        (14, 40, 25, 5),
        (92, 74, 12, 4),
        (90, 42, 10, 3),
        (76, 68, 53, 3),
    ]
)
_DRAWS = 32  # random numbers a design may use


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    """A colour for all pictures, [3, 1]."""
    return np.array([[red], [green], [blue]])


def _uniforms(indices: np.ndarray, seed: int) -> np.ndarray:
    """[_DRAWS, n] uniform numbers, from one generator per picture."""
    streams = (np.random.Philox(np.random.SeedSequence([seed, int(i)])) for i in indices)
    return np.stack([np.random.Generator(s).random(_DRAWS) for s in streams], axis=1)


def _kinds(uniforms: np.ndarray) -> np.ndarray:
    return (uniforms[0] * len(BODY_TYPES)).astype(np.int64)


def kinds(indices: np.ndarray, seed: int) -> np.ndarray:
    """The body types [n] of the designs alone, n > 0."""
    return _kinds(_uniforms(indices, seed))


def design(indices: np.ndarray, seed: int) -> Car:
    """The designs of the pictures with these indices [n], n > 0."""
    uniforms = _uniforms(indices, seed)
    rest = iter(uniforms[1:])

    def between(low, high):
        return low + (high - low) * next(rest)

    kind = _kinds(uniforms)
    body = Body(*_BODIES[kind].T)
    body = body._replace(
        length=body.length * between(0.96, 1.05),
        height=body.height * between(0.98, 1.04),
        wheel=body.wheel * between(0.95, 1.06),
        roof_front=body.roof_front + between(-0.015, 0.015),
    )
    pick = np.searchsorted(np.cumsum(_PAINTS[:, 3]) / 100, between(0, 1))
    paint = _PAINTS[pick, :3].T / 100 * between(0.88, 1.07) + between(-0.02, 0.02)
    paint = np.clip(paint, 0.08, 0.96)
    side = np.where(between(0, 1) < 0.65, 1, -1)
    yaw = side * np.radians(38) * np.sqrt(between(0, 1))
    # Outdoors a blue to white sky, indoors a wall of any mild hue; darker behind pale paint.
    hue = 2 * np.pi * (between(0, 1) + np.arange(3)[:, None] / 3)
    cloud, indoors = between(0, 1), between(0, 1) < 0.35
    blue = rgb(0.45, 0.65, 0.90) * (1 - cloud) + 0.80 * cloud
    wall = 0.62 + 0.08 * np.cos(hue)
    sky = np.where(indoors, wall, blue) * np.where(paint.mean(0) > 0.6, 0.76, 1.0)
    asphalt = between(0.36, 0.52) + rgb(0.01, 0.0, -0.01)
    grass = rgb(0.36, 0.47, 0.24) * between(0.8, 1.15)
    return Car(
        kind=kind,
        body=body,
        windows=np.moveaxis(_WINDOWS[kind], 0, -1),
        width=between(1.66, 1.80) + 0.12 * (kind >= BODY_TYPES.index("suv")),
        paint=paint,
        rim=between(0.55, 0.85) * np.ones((3, 1)),
        spokes=between(0, 1) < 0.6,
        panel=(kind == BODY_TYPES.index("van")) & (between(0, 1) < 0.5),
        camera=Camera(
            yaw=yaw,
            pitch=np.radians(between(4, 13)),
            distance=between(9, 18),
            fill=between(0.82, 0.92),
            shift=np.stack([between(-0.03, 0.03), between(-0.05, 0.04)]),
        ),
        mirrored=between(0, 1) < 0.5,
        light=np.stack([between(0.80, 1.0), between(0.72, 1.0)]),
        backdrop=Backdrop(
            sky=sky,
            haze=sky + (0.93 - sky) * between(0.2, 0.6),
            ground=np.where(between(0, 1) < 0.2, grass, asphalt),
            strip=np.where(indoors, 0.8 * asphalt, 0.8 * grass),
            horizon=between(0.40, 0.54),
            verge=np.maximum(between(-0.05, 0.12), 0),
        ),
    )
