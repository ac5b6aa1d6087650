"""One layer or one value that several read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net


def two_norms(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return m.a(y), m.b(y)

    return Net(run, conv=nn.Conv2d(s.c, s.k, 3), a=nn.BatchNorm2d(s.k), b=nn.BatchNorm2d(s.k))


def one_call_raw(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        return m.norm(m.conv(x)), m.conv(torch.sigmoid(x))

    return Net(run, conv=nn.Conv2d(s.c, s.k, 3), norm=nn.BatchNorm2d(s.k))


def pair_twice(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        return m.norm(m.conv(x)), m.norm(m.conv(torch.sigmoid(x)))

    return Net(run, conv=nn.Conv2d(s.c, s.k, 3), norm=nn.BatchNorm2d(s.k))


def pair_in_a_row(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        return m.norm(m.conv(torch.sigmoid(m.norm(m.conv(x)))))

    return Net(run, conv=nn.Conv2d(s.c, s.c, 3, padding=1), norm=nn.BatchNorm2d(s.c))


def also_activated(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return m.norm(y), F.relu(y)

    return Net(run, conv=nn.Conv2d(s.c, s.k, 3), norm=nn.BatchNorm2d(s.k))


def also_returned(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> Any:
        y = m.conv(x)
        return m.norm(y), y

    return Net(run, conv=nn.Conv2d(s.c, s.k, 3), norm=nn.BatchNorm2d(s.k))


def head_per_level(s: Sizes) -> nn.Module:
    """A detector's head: one conv for all levels, a BatchNorm for each."""

    def run(m: Net, x: torch.Tensor) -> Any:
        levels = x, F.avg_pool2d(x, 2), F.max_pool2d(x, 3)
        return tuple(norm(m.conv(level)) for norm, level in zip((m.a, m.b, m.c), levels, strict=True))

    norms = {name: nn.BatchNorm2d(s.k) for name in "abc"}
    return Net(run, conv=nn.Conv2d(s.c, s.k, 3, padding=1), **norms)


def one_parameter(s: Sizes) -> nn.Module:
    """Two convs that share one parameter."""
    layers = [nn.Conv2d(s.c, s.c, 3), nn.Conv2d(s.c, s.c, 3)]
    layers[1].weight = layers[0].weight
    return nn.Sequential(layers[0], nn.BatchNorm2d(s.c), nn.Sigmoid(), layers[1], nn.BatchNorm2d(s.c))


THROUGH = [
    Micro("a pair, twice in a row", pair_in_a_row, "folded folded"),
    Micro("one conv for three levels, a BatchNorm for each", head_per_level, "folded folded folded"),
    Micro("two convs with one parameter", one_parameter, "folded folded"),
]
