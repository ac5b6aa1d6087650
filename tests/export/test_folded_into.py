"""What took a BatchNorm in the place of a convolution: written to every target, and proved there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bnfold
from tests.fold.networks import Net, draw_statistics

IMAGE = (3, 7, 8)


def conv(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3, **options)


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def beside(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    return torch.tanh(y - m.norm(y))


def edges(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x).unflatten(1, (2, 2))
    return torch.tanh(m.norm(torch.einsum("nkctv,kvw->nctw", y, m.matrix)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "a sum of terms": (lambda: Net(beside, conv=conv(), norm=nn.BatchNorm2d(4)), IMAGE, "folded"),
    "group normalisation": (
        lambda: nn.Sequential(conv(), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.Tanh()),
        IMAGE,
        "folded",
    ),
    "layer normalisation": (
        lambda: nn.Sequential(nn.LayerNorm(6), nn.BatchNorm1d(6), nn.Tanh()),
        (6,),
        "folded",
    ),
    "W @ x": (
        lambda: Net(lambda m, x: torch.tanh(m.norm(m.w @ x)), w=matrix(5, 4), norm=nn.BatchNorm1d(5)),
        (4, 6),
        "folded",
    ),
    "einsum": (
        lambda: Net(
            lambda m, x: torch.tanh(m.norm(torch.einsum("nchw,kc->nwkh", x, m.w).transpose(1, 2))),
            w=matrix(5, 3),
            norm=nn.BatchNorm2d(5),
        ),
        IMAGE,
        "folded",
    ),
    "the edges of a graph": (
        lambda: Net(edges, conv=conv(), matrix=matrix(2, 6, 6), norm=nn.BatchNorm2d(2)),
        IMAGE,
        "reduced",
    ),
    "a stack": (
        lambda: Net(
            lambda m, x: torch.tanh(m.norm(torch.stack([m.a(x), m.b(x)], 2))),
            a=conv(),
            b=conv(bias=False),
            norm=nn.BatchNorm3d(4),
        ),
        IMAGE,
        "folded",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_target_computes_the_same(name: str, tmp_path: Path) -> None:
    build, shape, status = NETWORKS[name]
    torch.manual_seed(0)
    module = draw_statistics(build(), 5)
    frames = torch.randn(8, *shape)
    result = bnfold.convert(
        module,
        (frames[:1],),
        to=("onnx", "tflite"),
        output=tmp_path,
        name="net",
        samples=frames.numpy(),
    )
    assert result.passed
    assert [entry.status for entry in result.batch_norms] == [status]
