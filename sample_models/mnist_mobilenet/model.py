"""A small MobileNetV2: inverted residuals with depthwise convolutions, BatchNorm before each activation."""

from __future__ import annotations

import torch
from torch import nn

# expansion, output channels, stride
_BLOCKS = ((1, 16, 1), (4, 24, 2), (4, 24, 1), (4, 40, 2), (4, 40, 1), (4, 40, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """Expand (1 x 1), depthwise 3 x 3, project (1 x 1); the input is added where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_conv(inputs, width, 1), nn.ReLU6()]
        layers += [*_conv(width, width, 3, stride, groups=width), nn.ReLU6(), *_conv(width, outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Input: (batch, 1, 28, 28), pixels from 0 to 1. Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [*_conv(1, 16, 3), nn.ReLU6()]
        channels = 16
        for expansion, outputs, stride in _BLOCKS:
            blocks.append(InvertedResidual(channels, outputs, stride, expansion))
            channels = outputs
        blocks += [*_conv(channels, 128, 1), nn.ReLU6()]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits


def mobilenet() -> nn.Module:
    """The network of ``mobilenet.safetensors``."""
    return MobileNet()
