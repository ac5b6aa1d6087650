"""Ranges with room: never so much that a threshold is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold import rounding
from bnfold.export import onnx as onnx_target
from bnfold.quantize import ranges
from bnfold.quantize.inside import steps
from tests.export.bodies import body_of, draw


def test_room_goes_away_from_zero() -> None:
    given = {"a": (-1.0, 2.0), "b": (0.0, 4.0), "c": (0.0, 1.0)}
    assert ranges.with_room(given, 1.5, but=["c"]) == {"a": (-1.5, 3.0), "b": (0.0, 6.0), "c": (0.0, 1.0)}


def test_stretching_stays_on_its_side_of_zero() -> None:
    given = {"both": (-1.0, 3.0), "relu": (0.0, 4.0), "below": (-4.0, -1.0), "other": (0.0, 1.0)}
    assert ranges.stretched(given, ["both", "relu", "below", "none"], 2.0) == {
        "both": (-3.0, 5.0), "relu": (0.0, 6.0), "below": (-5.5, 0.0), "other": (0.0, 1.0),
    }  # fmt: skip


class Thresholds(nn.Module):
    """A relu6 inside and a relu at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(nn.functional.relu6(4 * self.norm(self.conv(x))).flatten(1)))


class Clipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu6(20 * self.conv(x)) + 1


def test_what_is_clipped_gets_no_room() -> None:
    """onnxruntime's quantizer takes the Clip away where a range follows it: 6.6 would let a tenth through."""
    exported = onnx_target.export(*body_of(Clipped(), draw(1, 1, 8, 8)).arguments)
    (clip,) = [step for step in steps("onnx", exported.data) if step.operator == "Clip"]
    calls = [{"x": draw(1, 1, 8, 8, seed=seed).numpy()} for seed in range(8)]
    limits, source = rounding._ranges("onnx", exported, calls, told=True)  # type: ignore[arg-type]
    plain = ranges.of_frames("onnx", exported.data, calls)
    assert source == "samples"
    assert limits[clip.outputs[0]] == plain[clip.outputs[0]] == (0.0, 6.0)
    assert limits["x"] == plain["x"]
    assert limits["output"] == pytest.approx(tuple(1.1 * end for end in plain["output"]))


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_relu_at_the_end_holds_where_no_frame_told_the_range(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    frames = np.random.default_rng(1).standard_normal((64, 1, 8, 8)).astype(np.float32)
    module = bnfold.recalibrate(Thresholds().eval(), [torch.from_numpy(frames)], sequential=True).module
    result = bnfold.convert(
        module, (torch.zeros(1, 1, 8, 8),), to=target, output=tmp_path, name="net", precision="int8"
    )
    assert result.passed, [found.message for found in result.findings]
    model = bnfold.open(result.artifacts[0].path)
    answers = np.concatenate([model.predict_raw(frame[None])["output"] for frame in frames])
    with torch.no_grad():
        exact = module(torch.from_numpy(frames)).numpy()
    assert (exact == 0).any()
    assert (answers >= 0).all()
    assert np.abs(answers - exact).max() < 0.1 * np.ptp(exact)
