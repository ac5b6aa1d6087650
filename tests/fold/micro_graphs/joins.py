"""Concatenations, sums of branches, residual streams, and the network's own arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net

Build = Callable[[Sizes], nn.Module]


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def joined(s: Sizes) -> nn.Module:
    """Two convs and the input itself."""
    return Net(
        lambda m, x: m.norm(torch.cat([m.a(x), m.b(x), x], 1)),
        a=conv(s.c, s.k), b=conv(s.c, s.c, 1), norm=nn.BatchNorm2d(s.k + 2 * s.c),
    )  # fmt: skip


def joined_then_conv(s: Sizes) -> nn.Module:
    return nn.Sequential(joined(s), nn.Conv2d(s.k + 2 * s.c, s.k, 2))


def two_convs(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.norm(m.a(torch.sigmoid(x)) + m.b(torch.tanh(x))),
        a=conv(s.c, s.k), b=conv(s.c, s.k, 1, bias=False), norm=nn.BatchNorm2d(s.k),
    )  # fmt: skip


def identity_beside_a_conv(s: Sizes) -> nn.Module:
    return Net(lambda m, x: m.conv(x) + m.norm(x), conv=conv(s.c, s.c, groups=2), norm=nn.BatchNorm2d(s.c))


def three_terms(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        return m.norm(m.a(torch.sigmoid(x)) - m.b(torch.tanh(x)) + m.c(x))

    layers = {name: conv(s.c, s.k) for name in "abc"}
    return Net(run, norm=nn.BatchNorm2d(s.k), **layers)


def along_the_height(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.norm(torch.cat([m.a(x), m.b(x)], 2)),
        a=conv(s.c, s.k), b=conv(s.c, s.k, 1), norm=nn.BatchNorm2d(s.k),
    )  # fmt: skip


def normalised_parts(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.conv(torch.cat([m.a(torch.sigmoid(x)), m.b(torch.tanh(x))], 1)),
        a=nn.BatchNorm2d(s.c), b=nn.BatchNorm2d(s.c), conv=nn.Conv2d(2 * s.c, s.k, 2),
    )  # fmt: skip


def one_input_normalised_twice(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.conv(torch.cat([m.a(x), m.b(x)], 1)),
        a=nn.BatchNorm2d(s.c), b=nn.BatchNorm2d(s.c), conv=nn.Conv2d(2 * s.c, s.k, 2),
    )  # fmt: skip


def residual_stream(kernel: int) -> Build:
    """Pre-activation blocks: the stream is read by the next block's BatchNorm and by its sum."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.stem(x)
        y = y + m.a(F.relu(m.p(y)))
        return y + m.b(F.relu(m.q(y)))

    return lambda s: Net(
        run, stem=conv(s.c, s.k), a=conv(s.k, s.k, kernel), b=conv(s.k, s.k, kernel), p=nn.BatchNorm2d(s.k),
        q=nn.BatchNorm2d(s.k),
    )  # fmt: skip


def residual_block(s: Sizes) -> nn.Module:
    """A BatchNorm behind each conv, the second before the sum."""
    return Net(
        lambda m, x: F.relu(x + m.q(m.b(F.relu(m.p(m.a(x)))))),
        a=conv(s.c, s.k), b=conv(s.k, s.c), p=nn.BatchNorm2d(s.k), q=nn.BatchNorm2d(s.c),
    )  # fmt: skip


def parallel(s: Sizes) -> nn.Module:
    """k x k, 1 x 1 and identity, each with a BatchNorm."""
    return Net(
        lambda m, x: m.p(m.a(x)) + m.q(m.b(x)) + m.r(x),
        a=conv(s.c, s.c, bias=False), b=conv(s.c, s.c, 1), p=nn.BatchNorm2d(s.c), q=nn.BatchNorm2d(s.c),
        r=nn.BatchNorm2d(s.c),
    )  # fmt: skip


def parallel_strided(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.p(m.a(x)) + m.q(m.b(x)),
        a=conv(s.c, s.k, groups=2, stride=2), b=conv(s.c, s.k, 1, groups=2, stride=2),
        p=nn.BatchNorm2d(s.k), q=nn.BatchNorm2d(s.k),
    )  # fmt: skip


def own_scale_and_shift(s: Sizes) -> nn.Module:
    """A layer scale, then a bias of the network's own."""
    return Net(
        lambda m, x: m.norm(m.conv(x) * m.scale + m.shift), conv=conv(s.c, s.k), norm=nn.BatchNorm2d(s.k),
        scale=nn.Parameter(torch.randn(s.k, 1, 1)), shift=nn.Parameter(torch.randn(1, s.k, 1, 1)),
    )  # fmt: skip


def own_arithmetic(compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Build:
    """Conv -> what the network computes of it and a constant per channel -> BatchNorm."""
    return lambda s: Net(
        lambda m, x: m.norm(compute(m.conv(x), m.constant)), conv=conv(s.c, s.k), norm=nn.BatchNorm2d(s.k),
        constant=nn.Parameter(torch.randn(s.k, 1, 1)),
    )  # fmt: skip


def own_input_normalisation(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.conv(m.norm((x - m.mean) / m.std)), conv=nn.Conv2d(s.c, s.k, 3),
        norm=nn.BatchNorm2d(s.c), mean=nn.Parameter(torch.rand(s.c, 1, 1)),
        std=nn.Parameter(torch.rand(s.c, 1, 1) + 0.5),
    )  # fmt: skip


THROUGH = [
    Micro("three terms -> BatchNorm", three_terms),
    Micro("parts joined along the height -> BatchNorm", along_the_height),
    Micro("two BatchNorms joined -> conv", normalised_parts, "folded folded"),
    Micro("one input, two BatchNorms joined -> conv", one_input_normalised_twice, "folded folded"),
    Micro("parts joined -> BatchNorm -> conv", joined_then_conv),
    Micro("residual stream, 1 x 1 blocks", residual_stream(1), "folded folded"),
    Micro("residual stream, 3 x 3 blocks", residual_stream(3), "reduced reduced",
          "the stream is read before the shift, and the shift behind the relu meets zero padding"),
    Micro("residual block", residual_block, "folded folded"),
    Micro("k x k, 1 x 1 and identity", parallel, "folded folded folded", saves=3),
    Micro("k x k and 1 x 1, grouped and strided", parallel_strided, "folded folded", saves=2),
    Micro("layer scale and bias -> BatchNorm", own_scale_and_shift, saves=2),
    *(Micro(f"{name} -> BatchNorm", own_arithmetic(compute), saves=saves) for name, compute, saves in (
        ("negated", lambda y, c: -y, 1), ("subtracted from", lambda y, c: c - y, 1),
        ("1 minus", lambda y, c: 1.0 - y, 1), ("divided", lambda y, c: y / (2 + c.abs()), 1),
        ("rsub", lambda y, c: torch.rsub(y, c, alpha=3), 1), ("rsub of a constant",
        lambda y, c: torch.rsub(c, y, alpha=3), 1),
        ("torch.multiply and torch.subtract", lambda y, c: torch.subtract(torch.multiply(y, c), 2.0), 2))),
    Micro("input normalisation -> BatchNorm -> conv", own_input_normalisation, saves=2),
]  # fmt: skip
