"""Pooling, means and up-sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net

Build = Callable[[Sizes], nn.Module]


def after(pool: nn.Module, norm: type[nn.Module] = nn.BatchNorm2d) -> Build:
    """Conv -> pooling -> BatchNorm."""
    return lambda s: nn.Sequential(nn.Conv2d(s.c, s.k, 3, padding=1), pool, norm(s.k))


def between(pool: nn.Module, **options: Any) -> Build:
    """Conv -> pooling -> BatchNorm -> Conv."""
    return lambda s: nn.Sequential(*after(pool)(s), nn.Conv2d(s.k, s.c, **options))


def before(pool: nn.Module, **options: Any) -> Build:
    """BatchNorm -> pooling -> Conv, on the network's input."""
    return lambda s: nn.Sequential(nn.BatchNorm2d(s.c), pool, nn.Conv2d(s.c, s.k, **options))


def enlarged(mode: str, **options: Any) -> nn.Module:
    return Net(lambda m, x: F.interpolate(x, scale_factor=2.0, mode=mode, **options))


def mean(*axes: int, keep: bool = False) -> nn.Module:
    return Net(lambda m, x: x.mean(axes, keep))


def even_windows(s: Sizes) -> nn.Module:
    pool = nn.AdaptiveMaxPool2d((3, 2))
    return nn.Sequential(nn.AdaptiveAvgPool2d((6, 8)), nn.Conv2d(s.c, s.k, 1), pool, nn.BatchNorm2d(s.k))


_SIGN = "a maximum turns no sign round: one multiplication by it"
_COUNTED = "the zeros of the padding are counted, so the shift stays: one addition"

THROUGH = [
    Micro("BatchNorm, all s > 0 -> max pooling -> conv", lambda s: nn.Sequential(
        nn.BatchNorm2d(s.c, affine=False), nn.MaxPool2d(2), nn.Conv2d(s.c, s.k, 2))),
    Micro("conv -> adaptive average -> BatchNorm", after(nn.AdaptiveAvgPool2d((3, 2)))),
    Micro("conv -> adaptive maximum, one position -> BatchNorm", after(nn.AdaptiveMaxPool2d(1)), "reduced",
          _SIGN),
    Micro("conv -> adaptive maximum, equal windows -> BatchNorm", even_windows, "reduced", _SIGN),
    Micro("conv -> adaptive maximum, unequal windows -> BatchNorm", after(nn.AdaptiveMaxPool2d(4)), "kept",
          "no pooling that has no windows of one size lets an affine pass"),
    Micro("conv -> max pooling with indices that nobody reads -> BatchNorm -> conv",
          between(Net(lambda m, x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[0]), kernel_size=1)),
    Micro("conv -> spatial mean -> BatchNorm", after(mean(2, 3), nn.BatchNorm1d)),
    Micro("conv -> spatial mean, kept -> BatchNorm", after(mean(-1, -2, keep=True))),
    Micro("BatchNorm -> spatial mean -> Linear", lambda s: nn.Sequential(
        nn.BatchNorm2d(s.c), mean(2, 3), nn.Linear(s.c, s.k))),
    Micro("BatchNorm -> average -> conv", before(nn.AvgPool2d(2), kernel_size=2)),
    Micro("BatchNorm -> average, padding counted -> conv", before(nn.AvgPool2d(2, padding=1), kernel_size=2),
          "reduced", _COUNTED),
    *(Micro(f"conv -> {mode} -> BatchNorm", after(enlarged(mode))) for mode in (
        "nearest", "nearest-exact", "bilinear", "bicubic")),
    *(Micro(f"conv -> {mode}, antialiased -> BatchNorm", after(enlarged(mode, antialias=True))) for mode in (
        "bilinear", "bicubic")),
    *(Micro(f"BatchNorm -> {mode} -> conv", before(enlarged(mode), kernel_size=2)) for mode in (
        "nearest", "bilinear", "bicubic")),
    Micro("conv -> bilinear, corners aligned -> BatchNorm", after(enlarged("bilinear", align_corners=True))),
]  # fmt: skip
