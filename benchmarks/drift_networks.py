"""The networks of the drift experiment, each with frames that it has not been trained on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "sample_models"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(MODELS), str(MODELS / "architectures")]

from corruptions import CORRUPTIONS  # noqa: E402

CACHE = ROOT / "out" / "drift"

Shifted = tuple[torch.Tensor, torch.Tensor]
"""Frames and what the right answers for them are."""

SHIFTED = 300
"""Frames of each shift, and the first ones of the held-out frames, which no calibration set is drawn from."""

HARM = 0.10
"""Of accuracy: a shift that costs this much must be seen."""


@dataclass(frozen=True)
class Subject:
    """A network and held-out frames, in random order.

    Attributes:
        name: for the tables.
        module: in eval mode.
        frames: (count, channels, height, width), as the network takes them.
        answers: the right ones: labels (count,), or for a regression places (count, 2).
        shifts: by name, what makes ``SHIFTED`` frames of something new.
        real: shifts that no one made, between two data sets.
        share: of the draws that a small network gets.
    """

    name: str
    module: nn.Module
    frames: torch.Tensor
    answers: torch.Tensor
    shifts: Mapping[str, Callable[[], Shifted]]
    real: Mapping[str, Callable[[], Shifted]] = field(default_factory=dict)
    share: float = 1.0

    @property
    def regression(self) -> bool:
        return self.answers.dim() > 1

    def error(self, scores: NDArray[Any], answers: torch.Tensor) -> float:
        """The share of wrong classes; of a regression the median distance."""
        right = answers.numpy()[: len(scores)]
        if self.regression:
            return float(np.median(np.linalg.norm(scores - right, axis=1)))
        return float((scores.argmax(1) != right).mean())

    def harmful(self, before: float, after: float) -> bool:
        """Whether a shift costs 10 points of accuracy, or doubles the error."""
        return after >= 2 * before if self.regression else after - before >= HARM

    def cost(self, before: float, after: float) -> str:
        return f"x{after / before:.1f}" if self.regression else f"{100 * (after - before):.0f} points"


def corrupted(
    frames: torch.Tensor, answers: torch.Tensor, names: tuple[str, ...] = tuple(CORRUPTIONS)
) -> dict[str, Callable[[], Shifted]]:
    """The corruptions of the first held-out frames."""
    few = min(SHIFTED, len(frames))
    return {name: lambda name=name: (CORRUPTIONS[name](frames[:few]), answers[:few]) for name in names}


def _digits(folder: Path, count: int, pool: int) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST's test digits, shuffled: its first half is of other writers than its second."""
    import mnist

    images, labels = mnist.load(folder, "test")
    order = np.random.default_rng(0).permutation(len(images))[pool * count : (pool + 1) * count]
    return (
        torch.from_numpy(images[order, None].astype(np.float32) / 255),
        torch.from_numpy(labels[order].astype(np.int64)),
    )


def _from(path: Path, name: str) -> Callable[[], nn.Module]:
    spec = importlib.util.spec_from_file_location(f"sample_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    factory: Callable[[], nn.Module] = getattr(module, name)
    return factory


def _loaded(factory: Callable[[], nn.Module], weights: Path) -> nn.Module:
    module = factory()
    module.load_state_dict(load_file(str(weights)))
    return module.eval()


def _scanned(side: int) -> Callable[[], Shifted]:
    """scikit-learn's 1,797 digits, 8 x 8 pixels of 17 levels, brought to MNIST's size with this side."""

    def make() -> Shifted:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(5).permutation(len(digits.images))
        images = torch.from_numpy(digits.images[order, None].astype(np.float32) / 16)
        larger = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        edge = (28 - side) // 2
        return F.pad(larger, (edge,) * 4), torch.from_numpy(digits.target[order].astype(np.int64))

    return make


def _of_digits(name: str, module: nn.Module, folder: Path, count: int, pool: int) -> Subject:
    frames, labels = _digits(folder, count, pool)
    real = {"scikit-learn's digits, 28 x 28": _scanned(28), "the same, 20 x 20 in the middle": _scanned(20)}
    return Subject(name, module, frames, labels, corrupted(frames, labels), real)


def mlp(folder: Path, count: int, pool: int = 0) -> Subject:
    module = _loaded(
        _from(MODELS / "mnist_mlp" / "model.py", "after"), MODELS / "mnist_mlp" / "after.safetensors"
    )
    return _of_digits("mnist_mlp", module, folder, count, pool)


def mobilenet(folder: Path, count: int, pool: int = 0) -> Subject:
    home = MODELS / "mnist_mobilenet"
    module = _loaded(_from(home / "model.py", "mobilenet"), home / "mobilenet.safetensors")
    return _of_digits("mnist_mobilenet", module, folder, count, pool)


def densenet(folder: Path, count: int, pool: int = 0) -> Subject:
    from models import ARCHITECTURES

    module = _loaded(ARCHITECTURES["densenet"][0], MODELS / "architectures" / "densenet.safetensors")
    return _of_digits("densenet", module, folder, count, pool)


def robot(folder: Path, count: int, pool: int = 0) -> Subject:
    """A regression; the shifts are its other environments, rendered anew."""
    sys.path.insert(0, str(MODELS / "robot_camera"))
    import camera

    home = MODELS / "robot_camera"
    module = _loaded(_from(home / "model.py", "locator"), home / "locator.safetensors")

    def rendered(name: str, count: int, seed: int) -> Shifted:
        kept = CACHE / f"robot_{name}_{count}_{seed}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            frames, places = camera.many(camera.ENVIRONMENTS[name], count, seed)
            np.savez(kept, frames=frames, places=places)
        with np.load(kept) as found:
            frames = torch.from_numpy(found["frames"]).permute(0, 3, 1, 2).float() / 255
            return frames.contiguous(), torch.from_numpy(found["places"])

    new = {
        name: lambda name=name, seed=seed: rendered(name, SHIFTED, seed)
        for seed, name in enumerate(camera.ENVIRONMENTS, start=1000 * pool + 100)
        if name != "home"
    }
    return Subject("robot_camera", module, *rendered("home", count, 1000 * pool + 99), new, share=0.6)


# A forward pass of natural_crops takes a while: of each kind of corruption the strong ones.
_FEW = ("noise 0.1", "noise 0.3", "impulse 0.05", "brightness -0.2", "brightness +0.2", "contrast 0.4",
        "gamma 2.0", "blur 1.0", "blur 2.0", "pixelate 4", "rotate 45", "zoom 0.6", "zoom 1.4",
        "occlusion 12", "negative")  # fmt: skip


_FEWER = 1500


def natural(folder: Path, count: int, pool: int = 0) -> Subject:
    """17,056 channels; trained on the first call (minutes), then kept."""
    import natural_crops

    kept = CACHE / "natural_crops.safetensors"
    images = natural_crops.photographs()
    if not kept.exists():
        module, _ = natural_crops.trained()
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(module.state_dict(), str(kept))
    module = _loaded(lambda: natural_crops.MobileNetV2(len(images)), kept)
    frames, labels = natural_crops.crops(min(count, _FEWER), 1000 * pool + 7, images)
    return Subject("natural_crops", module, frames, labels, corrupted(frames, labels, _FEW), share=0.4)


def flashes(folder: Path, count: int, pool: int = 0) -> Subject:
    """natural_crops, where one frame in fifty is overexposed: rare frames far out in many channels."""
    plain = natural(folder, count, pool)
    frames = plain.frames.clone()
    hit = np.random.default_rng(3).uniform(size=len(frames)) < 0.02
    frames[hit] = (4 * frames[hit]).clamp(0, 1)
    return replace(
        plain, name="natural_flashes", frames=frames, shifts=corrupted(frames, plain.answers, _FEW), share=0.2
    )


SUBJECTS: dict[str, Callable[..., Subject]] = {
    "mnist_mlp": mlp,
    "mnist_mobilenet": mobilenet,
    "densenet": densenet,
    "robot_camera": robot,
    "natural_crops": natural,
    "natural_flashes": flashes,
}
