"""ResNet-18 and MobileNetV2 as published, for 224 x 224 pixels, with drawn statistics."""

from __future__ import annotations

import torch
from natural_crops import MobileNetV2
from torch import nn


def _norm(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_norm(inputs, outputs, 3, stride), nn.ReLU(), *_norm(outputs, outputs, 3, 1)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_norm(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """Input (batch, 3, 224, 224). Output (batch, 1000). He, Zhang, Ren and Sun, 2015, table 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.blocks = nn.Sequential(
            *(block for i, o, s in widths for block in (_Block(i, o, s), _Block(o, o, 1)))
        )
        self.head = nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return y


FULL_SIZE = {"resnet18": ResNet18, "mobilenet_v2": lambda: MobileNetV2(1000)}
