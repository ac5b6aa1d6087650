"""What stands before the robot: a floor, one obstacle on it and a lamp, as colours along rays.

Lengths are metres. The robot looks along +x, y is to its left, z is up, and the floor is z = 0. Everything is
computed for arrays of points or rays at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FAR = 1e6
_AMBIENT = 0.35
_SHADOW = 0.45


@dataclass(frozen=True)
class Obstacle:
    """A ball, a box or a post.

    Attributes:
        at: where its middle stands on the floor, (x, y).
        size: radius of a ball or a post, half the side of a box.
        turned: angle of a box about the vertical, radians.
        colour: RGB from 0 to 1.
    """

    shape: Literal["ball", "box", "post"]
    at: tuple[float, float]
    size: float
    turned: float
    colour: tuple[float, float, float]

    @property
    def height(self) -> float:
        """A post is three times as high as it is thick."""
        return 2 * self.size if self.shape != "post" else 6 * self.size

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """How far along each ray the surface is (`FAR` where it is missed), and its normal there.

        Args:
            origin, direction: shape (rays, 3).
        """
        moved = origin - np.array([*self.at, 0.0])
        if self.shape == "ball":
            return _ball(moved - np.array([0, 0, self.size]), direction, self.size)
        if self.shape == "post":
            return _post(moved, direction, self.size, self.height)
        return _box(moved, direction, self.size, self.height, self.turned)


def _ball(origin: Array, direction: Array, radius: float) -> tuple[Array, Array]:
    b = (origin * direction).sum(axis=1)
    inside = b**2 - (origin**2).sum(axis=1) + radius**2
    distance = -b - np.sqrt(np.maximum(inside, 0))
    distance = np.where((inside > 0) & (distance > 1e-6), distance, FAR)
    normal = (origin + distance[:, None] * direction) / radius
    return distance, normal


def _post(origin: Array, direction: Array, radius: float, height: float) -> tuple[Array, Array]:
    """An upright cylinder with a lid."""
    flat = np.maximum((direction[:, :2] ** 2).sum(axis=1), 1e-12)
    b = (origin[:, :2] * direction[:, :2]).sum(axis=1) / flat
    inside = b**2 - ((origin[:, :2] ** 2).sum(axis=1) - radius**2) / flat
    side = -b - np.sqrt(np.maximum(inside, 0))
    z = origin[:, 2] + side * direction[:, 2]
    side = np.where((inside > 0) & (side > 1e-6) & (z > 0) & (z < height), side, FAR)
    point = origin + np.minimum(side, 1e3)[:, None] * direction
    normal = np.concatenate([point[:, :2] / radius, np.zeros((len(point), 1))], axis=1)
    lid, lid_point = _level(origin, direction, height)
    lid = np.where((lid_point[:, :2] ** 2).sum(axis=1) < radius**2, lid, FAR)
    return _nearer(side, normal, lid, np.array([0.0, 0.0, 1.0]))


def _box(origin: Array, direction: Array, half: float, height: float, turned: float) -> tuple[Array, Array]:
    """The slab method in the box's own axes."""
    c, s = np.cos(turned), np.sin(turned)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    o, d = origin @ turn.T - np.array([0, 0, height / 2]), direction @ turn.T
    d = np.where(np.abs(d) < 1e-9, 1e-9, d)
    extent = np.array([half, half, height / 2])
    first, second = (-extent - o) / d, (extent - o) / d
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    near, far = enter.max(axis=1), leave.min(axis=1)
    distance = np.where((near < far) & (near > 1e-6), near, FAR)
    face = enter.argmax(axis=1)
    normal = np.zeros_like(d)
    rows = np.arange(len(d))
    normal[rows, face] = -np.sign(d[rows, face])
    return distance, normal @ turn


def _level(origin: Array, direction: Array, height: float) -> tuple[Array, Array]:
    """Where rays meet the horizontal plane at a height."""
    z = np.where(np.abs(direction[:, 2]) < 1e-9, -1e-9, direction[:, 2])
    distance = (height - origin[:, 2]) / z
    distance = np.where(distance > 1e-6, distance, FAR)
    return distance, origin + np.minimum(distance, 1e3)[:, None] * direction


def _nearer(a: Array, normal_a: Array, b: Array, normal_b: Array) -> tuple[Array, Array]:
    return np.minimum(a, b), np.where((a <= b)[:, None], normal_a, normal_b)


@dataclass(frozen=True)
class Scene:
    """One moment before the robot.

    Attributes:
        floor: ``wood`` (home) or ``tiles``.
        seed: of the floor's pattern.
        shifted, turned: where the robot stands on the floor, and which way it looks.
        light: unit vector towards the lamp.
        lamp: RGB of its light.
    """

    obstacle: Obstacle
    floor: Literal["wood", "tiles"]
    seed: int
    shifted: tuple[float, float]
    turned: float
    light: tuple[float, float, float]
    lamp: tuple[float, float, float]

    def colours(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """Linear RGB along each ray, shape (rays, 3), and the distance to what is seen, shape (rays,)."""
        light = np.array(self.light)
        floor, point = _level(origin, direction, 0.0)
        obstacle, normal = self.obstacle.hit(origin, direction)
        pattern = self._pattern(point)
        shadow, _ = self.obstacle.hit(point + 1e-4 * light, np.broadcast_to(light, point.shape))
        lit = np.where(shadow < FAR, _SHADOW * light[2], light[2])
        seen = pattern * (_AMBIENT + (1 - _AMBIENT) * lit)[:, None]
        lambert = np.maximum(normal @ light, 0)
        body = np.array(self.obstacle.colour) * (_AMBIENT + (1 - _AMBIENT) * lambert)[:, None]
        front = obstacle < floor
        return np.where(front[:, None], body, seen) * np.array(self.lamp), np.minimum(floor, obstacle)

    def _pattern(self, point: Array) -> Array:
        """The floor's own colour at points on it."""
        c, s = np.cos(self.turned), np.sin(self.turned)
        x = c * point[:, 0] - s * point[:, 1] + self.shifted[0]
        y = s * point[:, 0] + c * point[:, 1] + self.shifted[1]
        return _wood(x, y, self.seed) if self.floor == "wood" else _tiles(x, y, self.seed)


def _wood(x: Array, y: Array, seed: int) -> Array:
    """Planks 12 cm wide and 80 cm long, each of its own tone, with a grain along them."""
    row = np.floor(y / 0.12)
    along = x + 0.8 * _hash(row, np.zeros_like(row), seed)
    column = np.floor(along / 0.8)
    tone = 0.75 + 0.25 * _hash(row, column, seed + 1)
    grain = 0.88 + 0.24 * _noise(along * 3 + 7 * row, y * 60, seed + 2)
    edge = np.minimum(y / 0.12 - row, along / 0.8 - column)
    joint = np.where(edge < 0.03, 0.6, 1.0)
    return np.array([0.62, 0.42, 0.24]) * (tone * grain * joint)[:, None]


def _tiles(x: Array, y: Array, seed: int) -> Array:
    """Black and white tiles of 20 cm."""
    column, row = np.floor(x / 0.2), np.floor(y / 0.2)
    tone = np.where((column + row) % 2 == 0, 0.85, 0.12) * (0.9 + 0.2 * _hash(column, row, seed))
    return np.repeat(tone[:, None], 3, axis=1)


def _hash(i: Array, j: Array, seed: int) -> Array:
    """A number from 0 to 1 for each pair of whole numbers."""
    with np.errstate(over="ignore"):
        h = i.astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        h ^= j.astype(np.int64).astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        h += np.uint64(seed) * np.uint64(0x165667B19E3779F9)
        for shift in (33, 29, 32):
            h ^= h >> np.uint64(shift)
            h *= np.uint64(0xFF51AFD7ED558CCD)
    return (h >> np.uint64(11)).astype(np.float64) / 2**53


def _noise(x: Array, y: Array, seed: int) -> Array:
    """Value noise: numbers at whole places, smoothly joined."""
    i, j = np.floor(x), np.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    below = _hash(i, j, seed) * (1 - u) + _hash(i + 1, j, seed) * u
    above = _hash(i, j + 1, seed) * (1 - u) + _hash(i + 1, j + 1, seed) * u
    mixed: Array = below * (1 - v) + above * v
    return mixed
