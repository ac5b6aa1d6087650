"""The robot's camera: the renderer tells the truth about its scenes, and the network about home."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[2] / "sample_models" / "robot_camera"
NEW = ("night", "fog", "overexposure", "blur", "tiles", "tilted", "raindrop", "compression")
HARMFUL = ("night", "fog", "overexposure", "tiles", "compression")


@pytest.fixture(scope="module", autouse=True)
def on_path() -> None:
    sys.path.insert(0, str(FOLDER))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    from importlib import util

    spec = util.spec_from_file_location("robot_model", FOLDER / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: torch.nn.Module = module.locator()
    made.load_state_dict(load_file(FOLDER / "locator.safetensors"))
    return made.eval()


def distances(network: torch.nn.Module, name: str) -> np.ndarray:
    frames = np.load(FOLDER / "frames" / f"{name}.npz")["image"]
    places = np.load(FOLDER / "frames" / f"{name}_places.npy")
    assert (frames.shape, frames.dtype, places.shape) == ((64, 48, 64, 3), np.uint8, (64, 2))
    with torch.no_grad():
        answers = network(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255).numpy()
    return np.linalg.norm(answers - places, axis=1)


def test_at_home_it_is_right_to_a_pixel(network: torch.nn.Module) -> None:
    apart = distances(network, "home")
    assert np.median(apart) < 1.1
    assert np.quantile(apart, 0.9) < 2.5


@pytest.mark.parametrize("name", HARMFUL)
def test_what_it_has_not_seen_it_gets_wrong(network: torch.nn.Module, name: str) -> None:
    assert np.median(distances(network, name)) > 5


def test_every_environment_has_its_frames(network: torch.nn.Module) -> None:
    import camera

    assert set(camera.ENVIRONMENTS) == {"home", *NEW}
    assert {file.stem for file in (FOLDER / "frames").glob("*.npz")} == {"home", *NEW}
    assert np.median(distances(network, "blur")) < 2


def test_the_kept_frames_are_what_the_seeds_give() -> None:
    import camera

    frames, places = camera.many(camera.HOME, 3, 3)
    assert np.array_equal(places, np.load(FOLDER / "frames" / "home_places.npy")[:3])
    kept = np.load(FOLDER / "frames" / "home.npz")["image"][:3]
    assert np.abs(frames.astype(int) - kept.astype(int)).max() <= 1  # the last bit of a power is the libm's


def test_the_place_is_where_the_obstacle_stands() -> None:
    """Seen without an obstacle, what changes is at the place that the renderer gives."""
    import camera
    from world import Obstacle, Scene

    turn = camera._orientation(0.2, camera._DOWN)
    for pixel in ((20.0, 30.0), (50.0, 14.0)):
        at = camera._on_floor(pixel, turn)
        obstacle = Obstacle("ball", at, 0.02, 0.0, (1.0, 0.0, 0.0))
        gone = Obstacle("ball", (at[0] - 40, at[1]), 0.02, 0.0, (1.0, 0.0, 0.0))
        pictures = [
            Scene(one, "wood", 1, (0.0, 0.0), 0.3, (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)).colours(
                *camera._rays(turn)
            )[0]
            for one in (obstacle, gone)
        ]
        changed = np.abs(pictures[0] - pictures[1]).sum(axis=1).reshape(96, 128) > 0.05
        rows, columns = np.nonzero(changed)
        assert abs(columns.mean() / 2 - pixel[0]) < 1.5
        # the ball stands on the floor: it rises above its place
        assert rows.max() / 2 - pixel[1] < 2
        assert rows.min() / 2 < pixel[1] < rows.max() / 2 + 1
