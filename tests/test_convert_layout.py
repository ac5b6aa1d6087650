"""What a conversion records of where things stand is what the device measures on the same frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.drift import Baseline, Reference
from bnfold.drift.layout import COLUMNS, layout_of
from tests.fold.networks import draw_statistics

SIZE = (12, 17)
HOW = {
    "layout": "NCHW", "color": "bgr", "resize": "stretch", "scale": 1 / 255, "mean": [0.485, 0.2, 0.4],
    "std": [0.2, 0.3, 0.25],
}  # fmt: skip


class Net(nn.Module):
    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2) if self.last else image
        y: Tensor = self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return y


class Pair(nn.Module):
    """Two cameras and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, right: Tensor, left: Tensor, pose: Tensor) -> Tensor:
        y: Tensor = self.net(left) - self.net(right) + pose
        return y


def built(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    draw_statistics(module)
    return module.eval()


def camera(count: int = 24, seed: int = 0) -> np.ndarray[Any, Any]:
    """Noise that gets brighter to the bottom."""
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 80, SIZE[0])[:, None, None]
    return (random.integers(0, 170, (count, *SIZE, 3)) + slope).astype(np.uint8)


def recorded(path: Path) -> tuple[Any, Baseline]:
    model = bnfold.open(path)
    baseline = Reference.from_json(model.manifest["drift_reference"]).baseline
    assert baseline is not None
    assert baseline.layout is not None
    return model, baseline.layout


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize("how", ["plain", "last", "baked", "file last"])
def test_the_same_numbers_on_the_device(tmp_path: Path, target: str, how: str) -> None:
    if (target, how) == ("onnx", "file last"):
        pytest.skip("channels last is a layout of TFLite files")
    last = how == "last"
    shape = (1, *SIZE, 3) if last else (1, 3, *SIZE)
    options: dict[str, Any] = {"layout": "nhwc"} if how == "file last" else {}
    options |= {"bake_normalisation": True} if how == "baked" else {}
    result = bnfold.convert(
        built(Net(last=last)), (torch.zeros(shape),), to=(target,), output=tmp_path, name="net",
        samples=camera(), normalisation={**HOW, "layout": "NHWC" if last else "NCHW"}, monitor=True,
        **options,
    )  # fmt: skip
    assert result.passed, result.findings
    model, layout = recorded(tmp_path / f"net.monitor.{target}")
    assert layout.codes.shape == (24, COLUMNS)
    for frame, codes in zip(camera(), layout.codes, strict=True):
        measured = layout_of(model.prepare(frame))
        assert measured is not None
        assert np.array_equal(layout.code(measured)[0], codes)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_picture_upside_down_is_seen_by_its_layout(tmp_path: Path, target: str) -> None:
    network = built(Net())
    with torch.no_grad():  # the mean over all positions of a symmetric filter does not tell top from bottom
        network.conv.weight.copy_(network.conv.weight + network.conv.weight.flip(2))
    bnfold.convert(
        network, (torch.zeros(1, 3, *SIZE),), to=(target,), output=tmp_path, name="net", samples=camera(64),
        normalisation=HOW, monitor=True,
    )  # fmt: skip
    path = tmp_path / f"net.monitor.{target}"
    assert not bnfold.drift.check(path, camera(64, seed=1)).drifted
    result = bnfold.drift.check(path, np.ascontiguousarray(camera(64, seed=1)[:, ::-1]))
    assert result.drifted
    tier = result.tiers[0]
    assert tier.layout is not None
    assert {"brighter in the upper part", "darker in the lower part"} <= set(tier.layout.words)
    first = result.findings[0]
    assert (first.code, first.where) == ("BNF-A017", "input")
    assert "brighter in the upper part" in first.message


def test_two_cameras_and_a_vector(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = {
        "right": random.normal(size=(24, 3, *SIZE)).astype(np.float32),
        "left": random.normal(size=(24, 3, *SIZE)).astype(np.float32),
        "pose": random.normal(size=(24, 4)).astype(np.float32),
    }
    example = (torch.zeros(1, 3, *SIZE), torch.zeros(1, 3, *SIZE), torch.zeros(1, 4))
    network = built(Pair())
    result = bnfold.convert(network, example, output=tmp_path, name="net", samples=samples, monitor=True)
    assert result.passed, result.findings
    _, layout = recorded(tmp_path / "net.monitor.onnx")
    expected = layout_of(samples)
    assert expected is not None
    assert np.array_equal(layout.codes, layout.code(expected))
    assert layout.channels == 2 * COLUMNS
    moved = {**samples, "left": np.flip(samples["left"] + np.linspace(0, 1, SIZE[1], dtype=np.float32), 3)}
    seen = bnfold.drift.check(
        tmp_path / "net.monitor.onnx", {k: np.ascontiguousarray(v) for k, v in moved.items()}
    )
    assert seen.tiers[0].layout is not None
    ours = bnfold.drift.check(
        network, {k: np.ascontiguousarray(v) for k, v in moved.items()}, baseline=samples
    )
    assert ours.tiers[0].layout is not None
    assert ours.tiers[0].layout.words == seen.tiers[0].layout.words


def test_what_is_no_picture_records_none(tmp_path: Path) -> None:
    network = built(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)))
    samples = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    bnfold.convert(
        network, (torch.zeros(1, 6),), output=tmp_path, name="net", samples=samples, monitor=True
    )  # fmt: skip
    document = bnfold.manifest.read(tmp_path / "net.monitor.onnx")["drift_reference"]
    assert "layout" not in document["baseline"]
    assert bnfold.drift.check(tmp_path / "net.monitor.onnx", samples).tiers[0].layout is None
