"""Convolutions behind a BatchNorm, and what their padding does to its shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net

Build = Callable[[Sizes], nn.Module]


def before(**options: Any) -> Build:
    """BatchNorm -> Conv."""
    return lambda s: nn.Sequential(nn.BatchNorm2d(s.c), nn.Conv2d(s.c, s.k, 3, **options))


def depthwise(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(s.c), nn.Conv2d(s.c, 2 * s.c, 3, groups=s.c))


def pad(mode: str, value: float | None = None) -> nn.Module:
    return Net(lambda m, x: F.pad(x, (1, 1, 2, 1), mode, value))


def padded_then_normalised(value: float) -> Build:
    """Conv -> Pad -> BatchNorm."""
    return lambda s: nn.Sequential(
        nn.Conv2d(s.c, s.k, 3), nn.ConstantPad2d((1, 2, 0, 1), value), nn.BatchNorm2d(s.k)
    )


def normalised_then_padded(padding: nn.Module) -> Build:
    """BatchNorm -> Pad -> Conv."""
    return lambda s: nn.Sequential(nn.BatchNorm2d(s.c), padding, nn.Conv2d(s.c, s.k, 3))


def one_channel(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Conv2d(s.c, 1, 3), nn.ConstantPad2d(1, 0.5), nn.BatchNorm2d(1))


def head(pool: nn.Module, features: Callable[[Sizes], int]) -> Build:
    """BatchNorm -> padded conv -> pooling -> flatten -> Linear."""
    return lambda s: nn.Sequential(
        *before(padding=1)(s), pool, nn.Flatten(), nn.Linear(features(s), s.c)
    )


def two_convs(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(s.c), nn.Conv2d(s.c, s.k, 3, padding=1), nn.BatchNorm2d(s.k))


_BORDER = "behind zero padding the shift differs at the border: one addition of a map, or before the conv"
_PAD = "the border keeps what is padded with: one addition"

THROUGH = [
    Micro("BatchNorm -> Conv1d", lambda s: nn.Sequential(nn.BatchNorm1d(s.c), nn.Conv1d(s.c, s.k, 2)),
          shape="sequence"),
    Micro("BatchNorm -> Conv3d", lambda s: nn.Sequential(nn.BatchNorm3d(s.c), nn.Conv3d(s.c, s.k, 2)),
          shape="volume"),
    Micro("BatchNorm -> padded Conv3d",
          lambda s: nn.Sequential(nn.BatchNorm3d(s.c), nn.Conv3d(s.c, s.k, 3, padding=1)), "reduced", _BORDER,
          shape="volume"),
    Micro("BatchNorm -> padded, strided, dilated, grouped conv",
          before(padding=2, stride=2, dilation=2, groups=2), "reduced", _BORDER),
    Micro("BatchNorm -> conv, padding='same'", before(padding="same"), "reduced", _BORDER),
    Micro("BatchNorm -> conv, padding='valid'", before(padding="valid")),
    Micro("BatchNorm -> padded conv -> BatchNorm", two_convs, "reduced folded", _BORDER),
    Micro("conv -> reflecting padding -> BatchNorm",
          lambda s: nn.Sequential(nn.Conv2d(s.c, s.k, 3), pad("reflect"), nn.BatchNorm2d(s.k))),
    Micro("BatchNorm -> reflecting padding -> conv", normalised_then_padded(pad("reflect"))),
    Micro("BatchNorm -> zeros -> conv", normalised_then_padded(pad("constant", 0.0)), "reduced", _BORDER),
    Micro("BatchNorm -> constant padding -> conv", normalised_then_padded(pad("constant", 0.5)), "reduced",
          _BORDER),
    Micro("BatchNorm -> padded conv -> mean -> Linear", head(nn.AdaptiveAvgPool2d(1), lambda s: s.k)),
    Micro("BatchNorm -> padded conv -> flatten -> Linear", head(nn.Identity(), lambda s: s.k * s.h * s.w)),
    Micro("BatchNorm -> transposed 1 x 1 conv",
          lambda s: nn.Sequential(nn.BatchNorm2d(s.c), nn.ConvTranspose2d(s.c, s.k, 1, groups=2))),
    Micro("conv -> zeros -> BatchNorm -> conv", lambda s: nn.Sequential(
        *padded_then_normalised(0.0)(s), nn.Conv2d(s.k, s.c, 2))),
]  # fmt: skip
