"""The networks of the drift experiment, each with frames that it has not been trained on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "sample_models"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(MODELS), str(MODELS / "architectures")]

CACHE = ROOT / "out" / "drift"


@dataclass(frozen=True)
class Subject:
    """A network and held-out frames, in random order.

    Attributes:
        name: for the tables.
        module: in eval mode.
        frames: (count, channels, height, width), as the network takes them.
        labels: (count,).
    """

    name: str
    module: nn.Module
    frames: torch.Tensor
    labels: torch.Tensor


def _digits(folder: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST's test digits, shuffled: its first half is of other writers than its second."""
    import mnist

    images, labels = mnist.load(folder, "test")
    order = np.random.default_rng(0).permutation(len(images))[:count]
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


def mlp(folder: Path, count: int) -> Subject:
    module = _loaded(
        _from(MODELS / "mnist_mlp" / "model.py", "after"), MODELS / "mnist_mlp" / "after.safetensors"
    )
    return Subject("mnist_mlp", module, *_digits(folder, count))


def mobilenet(folder: Path, count: int) -> Subject:
    home = MODELS / "mnist_mobilenet"
    module = _loaded(_from(home / "model.py", "mobilenet"), home / "mobilenet.safetensors")
    return Subject("mnist_mobilenet", module, *_digits(folder, count))


def densenet(folder: Path, count: int) -> Subject:
    from models import ARCHITECTURES

    module = _loaded(ARCHITECTURES["densenet"][0], MODELS / "architectures" / "densenet.safetensors")
    return Subject("densenet", module, *_digits(folder, count))


def natural(folder: Path, count: int) -> Subject:
    """17,056 channels; trained on the first call (minutes), then kept."""
    import natural_crops

    kept = CACHE / "natural_crops.safetensors"
    images = natural_crops.photographs()
    if not kept.exists():
        module, _ = natural_crops.trained()
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(module.state_dict(), str(kept))
    module = _loaded(lambda: natural_crops.MobileNetV2(len(images)), kept)
    return Subject("natural_crops", module, *natural_crops.crops(count, 7, images))


def flashes(folder: Path, count: int) -> Subject:
    """natural_crops, where one frame in fifty is overexposed: rare frames far out in many channels."""
    plain = natural(folder, count)
    frames = plain.frames.clone()
    hit = np.random.default_rng(3).uniform(size=count) < 0.02
    frames[hit] = (4 * frames[hit]).clamp(0, 1)
    return Subject("natural_flashes", plain.module, frames, plain.labels)


SUBJECTS: dict[str, Callable[[Path, int], Subject]] = {
    "mnist_mlp": mlp,
    "mnist_mobilenet": mobilenet,
    "densenet": densenet,
    "natural_crops": natural,
    "natural_flashes": flashes,
}
