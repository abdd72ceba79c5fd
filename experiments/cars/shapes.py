r"""The shape of a car in space: flat faces and wheels, in metres.

A car is a profile, two convex polygons that share an edge, extruded to its width:

             roof_rear ______ roof_front
                      /      \             cabin, leaning in towards the roof
        deck ___ foot/________\cowl___     height of the belt
            |                         \ bonnet
    bumper <                           >   lower body, down to the sill
            |____O_______________O____|

x points forward, y away from the camera, z up; the car stands on z = 0, centred at x = y = 0.
Positions along it are shares of its length, counted from the rear. A face is [k, 3, n]: k corners
of n cars, anticlockwise seen from outside.
"""

import numpy as np

from experiments.cars.designs import Car

_LEAN = 0.14  # how much the cabin narrows towards the roof, on each side


def points(*corners) -> np.ndarray:
    """[k, 3, n] from k corners (x, y, z) of numbers and arrays [n]."""
    values = np.broadcast_arrays(*(value for corner in corners for value in corner))
    return np.stack(values).reshape(len(corners), 3, -1)


def patch(quad: np.ndarray, left, right, low, high) -> np.ndarray:
    """The part of a face [4, 3, n] between shares of its width and of its height."""

    def at(s, t):
        return (1 - t) * ((1 - s) * quad[0] + s * quad[1]) + t * ((1 - s) * quad[3] + s * quad[2])

    return np.stack([at(left, low), at(right, low), at(right, high), at(left, high)])


class Shape:
    """The faces of n cars."""

    def __init__(self, car: Car):
        b = self.body = car.body
        self.near, self.far = -car.width / 2, car.width / 2
        self.axles = 0.185 * b.length - b.length / 2, 0.815 * b.length - b.length / 2
        self.bumper = b.sill + 0.42 * (b.bonnet - b.sill)
        base = b.deck + (b.belt - b.deck) * b.foot / b.cowl  # height of the rear window's foot

        profile = (
            (0.025, b.sill),
            (0.975, b.sill),
            (1.0, self.bumper),
            (0.975, b.bonnet),
            (b.cowl, b.belt),
            (0.015, b.deck),
            (0.0, self.bumper),
        )
        near, far = self.near + _LEAN, self.far - _LEAN
        front, rear = self.x(b.roof_front), self.x(b.roof_rear)
        self.flank = points(*((self.x(share), self.near, z) for share, z in profile))
        self.roof = points(
            (front, near, b.height),
            (front, far, b.height),
            (rear, far, b.height),
            (rear, near, b.height),
        )
        self.cabin = points(
            (self.x(b.foot), self.near, base),
            (self.x(b.cowl), self.near, b.belt),
            (front, near, b.height),
            (rear, near, b.height),
        )
        self.deck = self.sheet((0.015, b.deck), (b.foot, base), -1.0)
        self.bonnet = self.sheet((0.975, b.bonnet), (b.cowl, b.belt))
        self.windscreen = self.sheet((b.cowl, b.belt), (b.roof_front, b.height), lean=_LEAN)
        self.rear_window = self.sheet((b.foot, base), (b.roof_rear, b.height), -1.0, _LEAN)

    def x(self, share):
        """Metres along the car of a share of its length."""
        return (share - 0.5) * self.body.length

    def sheet(self, low, high, towards=1.0, lean=0.0) -> np.ndarray:
        """The face across the car between two points (share, z) of its profile.

        It faces the front, or the rear with towards = -1.
        """
        left, right, inset = towards * self.near, towards * self.far, towards * lean
        x0, x1 = self.x(low[0]), self.x(high[0])
        return points(
            (x0, left, low[1]),
            (x0, right, low[1]),
            (x1, right - inset, high[1]),
            (x1, left + inset, high[1]),
        )

    def panel(self, rear, front, low, high) -> np.ndarray:
        """A rectangle on the near flank, by shares of the length and heights."""
        rear, front, y = self.x(rear), self.x(front), self.near
        return points((rear, y, low), (front, y, low), (front, y, high), (rear, y, high))

    def end(self, front: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lower and the upper end face: of the front where `front`, bool [n], else the rear."""
        b = self.body
        towards, share = np.where(front, 1.0, -1.0), np.where(front, 1.0, 0.0)
        foot = np.where(front, 0.975, 0.025), b.sill
        head = np.where(front, 0.975, 0.015), np.where(front, b.bonnet, b.deck)
        middle = share, self.bumper
        return self.sheet(foot, middle, towards), self.sheet(middle, head, towards)

    def wheel(self, x, y, size=1.0) -> np.ndarray:
        """Centre and two half axes [3, 3, n] of a wheel with `size` times its own radius."""
        radius = self.body.wheel * size
        return points((x, y, self.body.wheel), (radius, 0, 0), (0, 0, radius))

    def extremes(self) -> np.ndarray:
        """Points [k, 3, n] that are in the frame only if the whole car is."""
        mirror = self.flank * np.array([1, -1, 1])[:, None]
        ground = points(*((x, y, 0) for x in self.axles for y in (self.near, self.far)))
        return np.concatenate([self.flank, mirror, self.roof, ground])
