"""Operators that only move values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net

Build = Callable[[Sizes], nn.Module]


def pixel_shuffle(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Conv2d(s.c, 4 * s.k, 3), nn.PixelShuffle(2), nn.BatchNorm2d(s.k))


def channel_shuffle(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Conv2d(s.c, s.k, 3), nn.ChannelShuffle(2), nn.BatchNorm2d(s.k))


def shuffle_then_conv(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(s.c), nn.ChannelShuffle(2), nn.Conv2d(s.c, s.k, 2))


def to_features(flatten: Callable[[torch.Tensor], torch.Tensor]) -> Build:
    """BatchNorm -> flatten or reshape -> Linear over channels, height and width."""
    return lambda s: Net(
        lambda m, x: m.linear(flatten(m.norm(x))), norm=nn.BatchNorm2d(s.c),
        linear=nn.Linear(s.c * s.h * s.w, s.k),
    )  # fmt: skip


def flattened_conv(s: Sizes) -> nn.Module:
    """One channel per position: no conv has so many."""
    return nn.Sequential(nn.Conv2d(s.c, 2, 3), nn.Flatten(), nn.BatchNorm1d(2 * (s.h - 2) * (s.w - 2)))


def last_axis(s: Sizes) -> nn.Module:
    """Channels last and back."""
    return Net(
        lambda m, x: m.norm(m.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        linear=nn.Linear(s.c, s.k), norm=nn.BatchNorm2d(s.k),
    )  # fmt: skip


def to_tokens(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.linear(m.norm(x).flatten(2).transpose(1, 2)), norm=nn.BatchNorm2d(s.c),
        linear=nn.Linear(s.c, s.k),
    )  # fmt: skip


def pieces(cut: Callable[[torch.Tensor], Any], *sizes: Callable[[int], int]) -> Build:
    """BatchNorm -> split -> a conv for each piece."""

    def build(s: Sizes) -> nn.Module:
        def run(m: Net, x: torch.Tensor) -> Any:
            return tuple(conv(piece) for conv, piece in zip(m.convs, cut(m.norm(x)), strict=True))

        convs = nn.ModuleList(nn.Conv2d(size(s.c), s.k, 2) for size in sizes)
        return Net(run, norm=nn.BatchNorm2d(s.c), convs=convs)

    return build


def sliced(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.norm(m.conv(x)[:, 1 : s.k - 1, 1:]), conv=nn.Conv2d(s.c, s.k, 3),
        norm=nn.BatchNorm2d(s.k - 2),
    )  # fmt: skip


def normalised_pieces(s: Sizes) -> nn.Module:
    """A gate: the two halves of a conv meet again."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        a, b = m.conv(x).chunk(2, 1)
        return m.a(a) * torch.sigmoid(m.b(b))

    conv = nn.Conv2d(s.c, 2 * s.k, 3)
    return Net(run, conv=conv, a=nn.BatchNorm2d(s.k), b=nn.BatchNorm2d(s.k))


def one_piece(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        a, b = m.conv(x).chunk(2, 1)
        return a, m.norm(b)

    return Net(run, conv=nn.Conv2d(s.c, 2 * s.k, 3), norm=nn.BatchNorm2d(s.k))


def overlapping(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return m.norm(y[:, : s.k - 1]), y[:, s.k - 3 :]

    return Net(run, conv=nn.Conv2d(s.c, s.k, 3), norm=nn.BatchNorm2d(s.k - 1))


def half(c: int) -> int:
    return c // 2


THROUGH = [
    Micro("BatchNorm -> channel shuffle -> conv", shuffle_then_conv),
    Micro("BatchNorm -> flatten -> Linear", to_features(lambda y: y.flatten(1))),
    Micro("BatchNorm -> reshape -> Linear", to_features(lambda y: y.reshape(y.shape[0], -1))),
    Micro("conv -> flatten -> BatchNorm", flattened_conv, "kept",
          "one scale per position, where the conv has one weight for all positions"),
    Micro("channels last: Linear -> permute -> BatchNorm", last_axis),
    Micro("BatchNorm -> tokens -> Linear", to_tokens),
    Micro("BatchNorm -> chunk -> convs", pieces(lambda y: y.chunk(2, 1), half, half)),
    Micro("BatchNorm -> split -> convs",
          pieces(lambda y: y.split([1, y.shape[1] - 1], 1), lambda c: 1, lambda c: c - 1)),
    Micro("BatchNorm -> tensor_split -> convs", pieces(lambda y: y.tensor_split(2, 1), half, half)),
    Micro("BatchNorm -> slices -> convs",
          pieces(lambda y: (y[:, :3], y[:, 2:]), lambda c: 3, lambda c: c - 2)),
    Micro("conv -> slice -> BatchNorm", sliced),
    Micro("conv -> chunk -> a BatchNorm for each", normalised_pieces, "folded folded"),
    Micro("conv -> chunk -> a BatchNorm for one", one_piece),
    Micro("conv -> overlapping slices -> a BatchNorm for one", overlapping, "kept",
          "the other slice reads two of its channels as they are"),
]  # fmt: skip
