"""A MobileNetV2 of full width (17,056 BatchNorm channels) that tells from which photograph a crop was taken.

What it is for: the sample models are narrow and their channel means nearly normal. This one has the two
things that break a test per channel: thousands of channels, and heavy tails (a crop of plain sky or text
drives a few late channels far out). The photographs are those that scikit-learn and scikit-image ship.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

SIDE = 64
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "rocket.jpg",
               "retina.jpg", "motorcycle_left.png", "brick.png", "grass.png")  # fmt: skip

# expansion, channels, repeats, stride: table 2 of Sandler et al., MobileNetV2, 2018
_BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        first = [*_conv(inputs, width, 1), nn.ReLU6()] if expansion != 1 else []
        self.layers = nn.Sequential(
            *first, *_conv(width, width, 3, stride, width), nn.ReLU6(), *_conv(width, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Input (batch, 3, 64, 64), values from 0 to 1. Output: logits, one for each photograph."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv(3, 32, 3, 2), nn.ReLU6()]
        width = 32
        for expansion, channels, repeats, stride in _BLOCKS:
            for index in range(repeats):
                layers.append(_Block(width, channels, stride if index == 0 else 1, expansion))
                width = channels
        self.features = nn.Sequential(*layers, *_conv(width, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return y


def photographs() -> list[NDArray[np.uint8]]:
    """The photographs, each (height, width, 3)."""
    import skimage
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.__file__).parent / "data"
    shipped = [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]
    return [*shipped, *load_sample_images().images]


def crops(count: int, seed: int, images: list[NDArray[np.uint8]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random crops, 40 to 160 pixels wide, brought to 64 x 64: (count, 3, 64, 64), and from which image."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(images), count)
    found = torch.empty(count, 3, SIDE, SIDE)
    for at, label in enumerate(labels):
        image = images[label]
        size = int(random.integers(40, 161))
        top, left = (int(random.integers(0, limit - size + 1)) for limit in image.shape[:2])
        patch = torch.from_numpy(image[top : top + size, left : left + size].copy()).permute(2, 0, 1)[None]
        found[at] = F.interpolate(patch.float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return found, torch.from_numpy(labels)


def trained(steps: int = 600, batch: int = 32, seed: int = 0) -> tuple[MobileNetV2, list[NDArray[np.uint8]]]:
    """The network after ``steps`` batches of fresh crops, in eval mode, and its photographs."""
    images = photographs()
    torch.manual_seed(seed)
    model = MobileNetV2(len(images)).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        x, y = crops(batch, 1_000_000 * (seed + 1) + step, images)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval(), images
