"""Networks that write into parts of tensors, as their authors wrote them: folded, and in both formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bnfold
from bnfold.numerics import max_rel_error
from tests.drawn import with_statistics

FLOAT32 = 1e-5


class TemporalShift(nn.Module):
    """TSM: an eighth of the channels comes from the frame before, an eighth from the one behind."""

    SHAPE = (4, 8, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.behind = nn.Sequential(nn.Conv2d(8, 5, 3, padding=1), nn.BatchNorm2d(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        clip = x.view(-1, 4, *x.shape[1:])
        out = torch.zeros_like(clip)
        out[:, :-1, :1] = clip[:, 1:, :1]
        out[:, 1:, 1:2] = clip[:, :-1, 1:2]
        out[:, :, 2:] = clip[:, :, 2:]
        y: torch.Tensor = self.behind(out.view(x.shape))
        return y


class PaddedWithBias(nn.Module):
    """The 1x1-3x3 branch of a diverse branch block: the border is what the BatchNorm makes of zeros."""

    SHAPE = (1, 4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
        self.behind = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.pad(self.bn(self.conv(x)), [1] * 4)
        scale = self.bn.weight.detach() / torch.sqrt(self.bn.running_var + self.bn.eps)  # type: ignore[operator]
        border = (self.bn.bias.detach() - self.bn.running_mean * scale).view(1, -1, 1, 1)  # type: ignore[operator]
        y[:, :, 0:1, :] = border
        y[:, :, -1:, :] = border
        y[:, :, :, 0:1] = border
        y[:, :, :, -1:] = border
        z: torch.Tensor = self.behind(y)
        return z


class Boxes(nn.Module):
    """YOLO's head: centres and sizes are decoded in place."""

    SHAPE = (1, 4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(4, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Conv2d(12, 18, 1)
        self.register_buffer("grid", torch.arange(216.0).view(1, 3, 6, 6, 2) / 216)
        self.register_buffer("anchors", torch.arange(1.0, 7).view(1, 3, 1, 1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.head(self.trunk(x)).view(x.shape[0], 3, 6, 6, 6).permute(0, 1, 3, 4, 2).contiguous()
        y = z.sigmoid()
        y[..., 0:2] = (y[..., 0:2] * 2 - 0.5 + self.grid) * 8
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors
        return y.view(x.shape[0], -1, 6)


class InverseWavelet(nn.Module):
    """MWCNN's: four bands become every other row and column."""

    SHAPE = (1, 4, 5, 6)

    def __init__(self) -> None:
        super().__init__()
        self.bands = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.behind = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c, d = (self.bands(x) / 2).chunk(4, 1)
        y = torch.zeros(x.shape[0], 2, 2 * x.shape[2], 2 * x.shape[3])
        y[:, :, 0::2, 0::2] = a - b - c + d
        y[:, :, 1::2, 0::2] = a - b + c - d
        y[:, :, 0::2, 1::2] = a + b - c - d
        y[:, :, 1::2, 1::2] = a + b + c + d
        z: torch.Tensor = self.behind(y)
        return z


class ShiftedWindows(nn.Module):
    """Swin's mask, made in forward: regions are numbered one after the other."""

    SHAPE = (1, 4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        regions, number = torch.zeros(1, 6, 6, 1), 0
        for rows in (slice(0, -3), slice(-3, -1), slice(-1, None)):
            for columns in (slice(0, -3), slice(-3, -1), slice(-1, None)):
                regions[:, rows, columns, :] = number
                number += 1
        windows = regions.view(1, 2, 3, 2, 3, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9)
        apart = windows.unsqueeze(1) - windows.unsqueeze(2)
        mask = apart.masked_fill(apart != 0, -100.0)
        y = self.tokens(x).view(-1, 8, 4, 9).permute(0, 2, 3, 1)
        z: torch.Tensor = (y @ y.transpose(-1, -2) + mask).softmax(-1) @ y
        return z


class PartialConv(nn.Module):
    """FasterNet's: a quarter of the channels is convolved, the rest is left."""

    SHAPE = (1, 4, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.part = nn.Conv2d(2, 2, 3, padding=1)
        self.mlp = nn.Sequential(nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = x.clone()
        y[:, :2, :, :] = self.part(y[:, :2, :, :])
        z: torch.Tensor = x + self.mlp(y)
        return z


@pytest.mark.parametrize(
    "network", [TemporalShift, PaddedWithBias, Boxes, InverseWavelet, ShiftedWindows, PartialConv]
)
def test_folded_and_exported(network: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = with_statistics(network())
    shape = network.SHAPE  # type: ignore[attr-defined]
    x = torch.randn(shape)
    result = bnfold.convert(module, (x,), to=("onnx", "tflite"), output=tmp_path, name="net")
    assert result.passed
    assert [entry.status for entry in result.batch_norms] == ["folded"] * len(result.batch_norms)
    other = torch.randn(shape)
    with torch.no_grad():
        expected = module(other).numpy()
    for suffix in ("onnx", "tflite"):
        (actual,) = bnfold.open(tmp_path / f"net.{suffix}").predict_raw(other.numpy()).values()
        assert max_rel_error(actual, expected) <= FLOAT32


@pytest.mark.parametrize("network", [Boxes, InverseWavelet, PartialConv])
def test_any_batch(network: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = with_statistics(network())
    shape = network.SHAPE  # type: ignore[attr-defined]
    bnfold.convert(module, (torch.randn(shape),), output=tmp_path, name="net", dynamic_batch=True)
    x = torch.randn(3, *shape[1:])
    with torch.no_grad():
        expected = module(x).numpy()
    (actual,) = bnfold.open(tmp_path / "net.onnx").predict_raw(x.numpy()).values()
    assert max_rel_error(actual, expected) <= FLOAT32
