"""The end of a network that no statistics tell the range of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold import rounding
from bnfold.export import Exported
from bnfold.export import onnx as onnx_target
from bnfold.export import tflite as tflite_target
from bnfold.quantize import tail
from bnfold.quantize.inside import Step, steps
from bnfold.verify import compare
from tests.export.bodies import Net, body_of, draw


def test_from_the_last_linear_operator_back_to_what_it_averages() -> None:
    chain = [
        Step("Conv", ("x",), ("a",)),
        Step("Relu", ("a",), ("b",)),
        Step("ReduceMean", ("b",), ("c",)),
        Step("Reshape", ("c",), ("d",)),
        Step("Gemm", ("d",), ("e",)),
        Step("Sigmoid", ("e",), ("y",)),
        Step("Gemm", ("d",), ("scores",)),
    ]
    assert tail.floating(chain, "y") == ["c", "d", "e", "y"]
    assert tail.floating(chain, "scores") == ["c", "d", "scores"]
    assert tail.floating(chain, "x") == []


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_in_the_files_of_both_formats(target: str) -> None:
    net = Net(
        lambda m, x: m.fc(torch.relu(m.conv(x)).mean((2, 3))), conv=nn.Conv2d(3, 6, 3), fc=nn.Linear(6, 2)
    )
    export = {"onnx": onnx_target.export, "tflite": tflite_target.export}[target]
    exported: Exported = export(*body_of(net, draw(1, 3, 8, 8)).arguments)
    found = steps(target, exported.data)
    left = tail.floating(found, found[-1].outputs[0])
    operators = [step.operator for step in found if not set(left).isdisjoint(step.outputs)]
    assert any("MEAN" in name.upper() for name in operators), operators
    assert not any("CONV" in name.upper() for name in operators), operators


class Level(nn.Module):
    """One number for each frame: how much of a kind of texture there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_frames_that_differ_more_than_statistics_tell(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A texture covers half of the average frame, all of some, and nothing of others."""
    generator = np.random.default_rng(3)
    covered = generator.random((256, 1, 16, 16)) < generator.random((256, 1, 1, 1))
    frames = (generator.random((256, 1, 16, 16)) * covered).astype(np.float32)
    torch.manual_seed(1)
    network = bnfold.recalibrate(Level().eval(), [torch.from_numpy(frames)]).module
    with torch.no_grad():
        network.head.weight.fill_(1.0)

    def share(name: str) -> float:
        result = bnfold.convert(
            network, (torch.zeros(1, 1, 16, 16),), to=target, output=tmp_path, name=name, precision="int8",
            normalisation={"color": "gray"},
        )  # fmt: skip
        assert result.passed
        said = [found for found in result.findings if found.code == "BNF-E060"]
        assert [found.where for found in said] == (["output"] if name == "level" else [])
        assert "BNF-E054" not in {found.code for found in result.findings}
        (row,) = compare(network, tmp_path / f"{name}.{target}", frames).agreement
        assert row.kind == "values"
        return row.share

    assert share("level") == 1.0
    monkeypatch.setattr(rounding, "_untold", lambda *_: {})
    assert share("rounded") < 0.9
