"""A one-stage detector, small: one head for all levels, with a BatchNorm of its own for each.

Feature pyramid (Lin et al., 2016); convolutions that the levels share and statistics that they do not, as in
EfficientDet (Tan, Pang and Le, 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from layers import conv_norm
from torch import nn

LEVELS, CLASSES = 3, 4


class Head(nn.Module):
    """Two 3 x 3 convolutions and a last one; the same weights on every level, other BatchNorms."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)])
        self.norms = nn.ModuleList(
            [nn.ModuleList([nn.BatchNorm2d(width) for _ in self.convs]) for _ in range(LEVELS)]
        )
        self.last = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms[level], strict=True):
            x = torch.relu(norm(conv(x)))
        y: torch.Tensor = self.last(x)
        return y


class Detector(nn.Module):
    """Input: (batch, 3, 64, 64). Output: by level, class logits and boxes, each (batch, 4, h, w)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 8, 3, 2, act=nn.ReLU()), conv_norm(8, 16, 3, 2, act=nn.ReLU()))
        self.stages = nn.ModuleList([conv_norm(16, 16, 3, 2, act=nn.ReLU()) for _ in range(LEVELS)])
        self.lateral = nn.ModuleList([conv_norm(16, width, 1) for _ in range(LEVELS)])
        self.smooth = nn.ModuleList([conv_norm(width, width, 3) for _ in range(LEVELS)])
        self.classes, self.boxes = Head(width, CLASSES), Head(width, 4)

    def forward(self, image: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        x, levels = self.stem(image), []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for i in range(LEVELS - 2, -1, -1):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], scale_factor=2.0, mode="nearest")
        levels = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        return {
            "classes": [self.classes(level, i) for i, level in enumerate(levels)],
            "boxes": [torch.relu(self.boxes(level, i)) for i, level in enumerate(levels)],
        }
