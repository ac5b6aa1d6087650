"""Transposed convolutions, whose weight has the groups on the other axis."""

from __future__ import annotations

from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes


def grouped(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(s.c, 6, 3, groups=2), nn.BatchNorm2d(6))


def depthwise(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(s.c, 2 * s.c, 3, groups=s.c), nn.BatchNorm2d(2 * s.c))


def forward(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(s.c), nn.ConvTranspose2d(s.c, s.k, 3, padding=1, groups=2))


def square(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(s.c, s.c, 3), nn.BatchNorm2d(s.c))


def strided(s: Sizes) -> nn.Module:
    options = {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2}
    return nn.Sequential(nn.ConvTranspose2d(s.c, s.k, 3, **options), nn.BatchNorm2d(s.k))


THROUGH = [
    Micro("transposed conv, square -> BatchNorm", square),
    Micro("transposed conv, strided, dilated, padded -> BatchNorm", strided),
    Micro("transposed conv, 1-D -> BatchNorm",
          lambda s: nn.Sequential(nn.ConvTranspose1d(s.c, s.k, 3, 2), nn.BatchNorm1d(s.k)), shape="sequence"),
    Micro("transposed conv, 3-D -> BatchNorm",
          lambda s: nn.Sequential(nn.ConvTranspose3d(s.c, s.k, 2, groups=2), nn.BatchNorm3d(s.k)),
          shape="volume"),
]  # fmt: skip
