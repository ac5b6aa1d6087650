"""The robot's camera: from a scene to a uint8 frame, and what can go wrong on the way.

A pinhole 35 cm above the floor, looking down; four rays per pixel. Then fog, the lens, exposure, noise, the
sensor's curve and the encoder, each as an `Environment` has it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from world import Obstacle, Scene

Array = NDArray[np.float64]
Frame = NDArray[np.uint8]

WIDTH, HEIGHT = 64, 48
_UP = 0.35  # metres above the floor
_DOWN = math.radians(32)
_ACROSS = math.radians(70)
_GREY = 0.55
_SHOT, _READ = 0.02, 0.008


@dataclass(frozen=True)
class Environment:
    """Where the robot is, and in what state its camera is.

    Attributes:
        exposure: of the light that falls in; 1 is home.
        noise: of the sensor's noise; 1 is home. A camera in the dark amplifies it.
        fog: per metre, the share of light that is scattered.
        blur: standard deviation in pixels.
        roll, pitch: how far the camera is tilted, radians.
        drops: drops of water on the lens.
        quality: of JPEG; None: uncompressed.
    """

    floor: Literal["wood", "tiles"] = "wood"
    exposure: float = 1.0
    noise: float = 1.0
    fog: float = 0.0
    blur: float = 0.0
    roll: float = 0.0
    pitch: float = 0.0
    drops: int = 0
    quality: int | None = None


HOME = Environment()
ENVIRONMENTS: dict[str, Environment] = {
    "home": HOME,
    "night": replace(HOME, exposure=0.12, noise=2.0),
    "fog": replace(HOME, fog=0.9),
    "overexposure": replace(HOME, exposure=3.0),
    "blur": replace(HOME, blur=2.0),
    "tiles": replace(HOME, floor="tiles"),
    "tilted": replace(HOME, roll=math.radians(12), pitch=math.radians(5)),
    "raindrop": replace(HOME, drops=5),
    "compression": replace(HOME, quality=8),
}
"""By name: home, and eight places that the network was not trained for."""


def shoot(environment: Environment, generator: np.random.Generator) -> tuple[Frame, tuple[float, float]]:
    """One frame of a scene drawn at random, and where the obstacle stands in it.

    Returns:
        RGB (48, 64, 3), and the pixel (column, row) of the middle of the obstacle's base.
    """
    jitter = math.radians(float(generator.normal(0, 0.5)))
    turn = _orientation(environment.roll, _DOWN + environment.pitch + jitter)
    scene, place = _scene(environment, turn, generator)
    colours, distance = scene.colours(*_rays(turn))
    fog = np.exp(-environment.fog * distance)[:, None]
    light = (colours * fog + _GREY * (1 - fog)).reshape(HEIGHT, 2, WIDTH, 2, 3).mean(axis=(1, 3))
    light = _blurred(light, environment.blur)
    for _ in range(environment.drops):
        light = _with_drop(light, generator)
    light = _exposed(light * environment.exposure, environment.noise, generator)
    frame = np.round(255 * np.clip(light, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return _encoded(frame, environment.quality), place


def many(environment: Environment, count: int, seed: int) -> tuple[Frame, NDArray[np.float32]]:
    """``count`` frames, uint8 (count, 48, 64, 3), and the places, float32 (count, 2)."""
    generator = np.random.default_rng(seed)
    shots = [shoot(environment, generator) for _ in range(count)]
    return np.stack([frame for frame, _ in shots]), np.array([place for _, place in shots], np.float32)


def _scene(
    environment: Environment, turn: Array, generator: np.random.Generator
) -> tuple[Scene, tuple[float, float]]:
    """A scene whose obstacle stands anywhere within the frame, and its pixel."""
    uniform = generator.uniform
    place = (float(uniform(4, WIDTH - 4)), float(uniform(9, HEIGHT - 2)))
    at = _on_floor(place, turn)
    shape = ("ball", "box", "post")[int(generator.integers(3))]
    size = float(uniform(0.05, 0.11)) if shape != "post" else float(uniform(0.025, 0.05))
    colour = np.array([uniform(0.05, 0.9) for _ in range(3)])
    obstacle = Obstacle(shape, at, size, float(uniform(0, math.pi / 2)), tuple(colour))  # type: ignore[arg-type]
    height, around = math.radians(float(uniform(35, 75))), float(uniform(0, 2 * math.pi))
    light = (math.cos(height) * math.cos(around), math.cos(height) * math.sin(around), math.sin(height))
    warm, power = float(uniform(-0.06, 0.06)), float(uniform(0.75, 1.25))
    lamp = (power * (1 + warm), power, power * (1 - warm))
    shifted = (float(uniform(-50, 50)), float(uniform(-50, 50)))
    turned = float(uniform(-math.pi, math.pi))
    seed = int(generator.integers(2**31))
    return Scene(obstacle, environment.floor, seed, shifted, turned, light, lamp), place


def _orientation(roll: float, down: float) -> Array:
    """Columns: where the camera's right, bottom and axis point in the world."""
    axis = np.array([math.cos(down), 0.0, -math.sin(down)])
    right = np.array([0.0, -1.0, 0.0])
    bottom = np.cross(axis, right)
    c, s = math.cos(roll), math.sin(roll)
    return np.stack([c * right + s * bottom, -s * right + c * bottom, axis], axis=1)


_FOCAL = WIDTH / 2 / math.tan(_ACROSS / 2)


def _rays(turn: Array) -> tuple[Array, Array]:
    """Four rays per pixel, row by row."""
    column = (np.arange(2 * WIDTH) + 0.5) / 2 - WIDTH / 2
    row = (np.arange(2 * HEIGHT) + 0.5) / 2 - HEIGHT / 2
    rows, columns = np.meshgrid(row, column, indexing="ij")
    inside = np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, _FOCAL)], axis=1)
    direction = inside @ turn.T
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.broadcast_to(np.array([0.0, 0.0, _UP]), direction.shape), direction


def _on_floor(pixel: tuple[float, float], turn: Array) -> tuple[float, float]:
    """The place on the floor that is seen at a (column, row), counted from the upper left corner."""
    ray = turn @ np.array([pixel[0] - WIDTH / 2, pixel[1] - HEIGHT / 2, _FOCAL])
    reach = _UP / max(-ray[2], 1e-9)
    return float(reach * ray[0]), float(reach * ray[1])


def _blurred(light: Array, sigma: float) -> Array:
    if sigma == 0:
        return light
    reach = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        wide = np.pad(light, pad, mode="edge")
        size = light.shape[axis]
        light = sum(weight * wide.take(range(i, i + size), axis=axis) for i, weight in enumerate(weights))  # type: ignore[assignment]
    return light


def _with_drop(light: Array, generator: np.random.Generator) -> Array:
    """A drop: a small lens that shows what is around it upside down, out of focus."""
    x, y = generator.uniform(0, WIDTH), generator.uniform(0, HEIGHT)
    radius = float(generator.uniform(6, 12))
    rows, columns = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    across, down = columns - x, rows - y
    inside = np.clip(1.5 * (1 - np.sqrt(across**2 + down**2) / radius), 0, 1)[..., None]
    from_row = np.clip(np.round(y - 2 * down), 0, HEIGHT - 1).astype(int)
    from_column = np.clip(np.round(x - 2 * across), 0, WIDTH - 1).astype(int)
    turned = _blurred(light[from_row, from_column], 1.5)
    result: Array = light * (1 - inside) + 1.15 * turned * inside
    return result


def _exposed(light: Array, noise: float, generator: np.random.Generator) -> Array:
    """Photons are counted (their noise grows with the root of the light), then read out."""
    shot = _SHOT * np.sqrt(np.maximum(light, 0)) * generator.standard_normal(light.shape)
    read = _READ * generator.standard_normal(light.shape)
    result: Array = light + noise * (shot + read)
    return result


def _encoded(frame: Frame, quality: int | None) -> Frame:
    if quality is None:
        return frame
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
