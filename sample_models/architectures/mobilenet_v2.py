"""MobileNetV2, small: inverted residuals with linear bottlenecks (Sandler et al., 2018)."""

from __future__ import annotations

import torch
from layers import conv_norm
from torch import nn

_BLOCKS = ((1, 8, 1), (4, 12, 2), (4, 12, 1), (4, 16, 2), (4, 16, 1))  # expansion, channels, stride


class InvertedResidual(nn.Module):
    """Expand (1 x 1), depthwise 3 x 3, project (1 x 1, linear); added to the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [] if expansion == 1 else [conv_norm(inputs, width, 1, act=nn.ReLU6())]
        depthwise = conv_norm(width, width, 3, stride, groups=width, act=nn.ReLU6())
        self.layers = nn.Sequential(*expand, depthwise, conv_norm(width, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Input: (batch, 1, 28, 28). Output: logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 8
        parts: list[nn.Module] = [conv_norm(1, channels, 3, 2, act=nn.ReLU6())]
        for expansion, outputs, stride in _BLOCKS:
            parts.append(InvertedResidual(channels, outputs, stride, expansion))
            channels = outputs
        self.features = nn.Sequential(*parts, conv_norm(channels, 64, 1, act=nn.ReLU6()))
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(image).mean((2, 3)))
        return logits
