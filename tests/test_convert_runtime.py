"""TFLite files for ai-edge-litert alone: an operator that tflite-runtime 2.14.0 lacks, and what says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bnfold_cli.main import main
from torch import Tensor, nn

import bnfold
from bnfold import manifest
from bnfold.errors import ExportError, UsageError
from bnfold.export import tflite as target
from bnfold.runtime import interpreters


@pytest.fixture(autouse=True)
def as_the_converter_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooling in 3-D is not rewritten: no other operator is known that only one of the two lacks."""
    monkeypatch.setattr(target, "REWRITES", ())


class Cube(nn.Module):
    """Its pooling becomes an operator that tflite-runtime 2.14.0 does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 2)
        self.norm = nn.BatchNorm3d(4)
        self.pool = nn.MaxPool3d(2)

    def forward(self, cube: Tensor) -> Tensor:
        return self.pool(self.norm(self.conv(cube))).flatten(1)


def built() -> Cube:
    torch.manual_seed(2)
    network = Cube().eval()
    assert network.norm.running_mean is not None
    assert network.norm.running_var is not None
    assert network.norm.num_batches_tracked is not None
    network.norm.running_mean.uniform_(-0.5, 0.5)
    network.norm.running_var.uniform_(0.5, 2)
    network.norm.num_batches_tracked.fill_(100)
    return network


EXAMPLE = (torch.zeros(1, 2, 5, 7, 5),)


def attempt(folder: Path, **options: Any) -> Any:
    return bnfold.convert(built(), EXAMPLE, output=folder, name="net", **{"to": "tflite", **options})


def test_an_operator_that_only_one_interpreter_knows(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"BNF-E013.*REDUCE_WINDOW"):
        attempt(tmp_path)
    assert not list(tmp_path.iterdir())
    result = attempt(tmp_path, runtime="litert")
    assert result.passed, result.findings
    path = tmp_path / "net.tflite"
    assert {entry["runtime"] for entry in manifest.read(path)["runs_on"]} == {"ai-edge-litert"}
    model = bnfold.open(path)
    assert model.runtime.startswith("ai-edge-litert")
    cube = torch.randn(EXAMPLE[0].shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = built().double()(cube.double()).numpy()
    assert np.abs(model.predict_raw(cube.numpy())["output"] - expected).max() < 1e-5
    rows = bnfold.verify(built(), path, cube.numpy())
    assert [row.runtime.split()[0] for row in rows] == ["ai-edge-litert"]
    assert rows[0].passed


def test_what_is_refused(tmp_path: Path) -> None:
    for options in ({"runtime": "tflite"}, {"runtime": "litert", "to": "onnx"}):
        with pytest.raises(UsageError, match="BNF-U188"):
            attempt(tmp_path, **options)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(built().state_dict(), tmp_path / "net.pt")
    arguments = [
        "convert", str(tmp_path / "net.pt"), "--model", f"{__file__}:Cube", "--input", "1x2x5x7x5",
        "-o", str(tmp_path), "--to", "tflite",
    ]  # fmt: skip
    assert main(arguments) == 2
    assert "--runtime litert" in capsys.readouterr().err
    assert main([*arguments, "--runtime", "litert"]) == 0
    assert main(["run", str(tmp_path / "net.tflite"), "--self-test"]) == 0


def test_it_is_compared_where_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "at_hand", lambda target: ["tflite-runtime", "ai-edge-litert"])
    result = attempt(tmp_path, runtime="litert")
    ran = {row.runtime.split()[0] for row in result.parity if row.candidate == "tflite"}
    assert ran == {"ai-edge-litert"}


def test_half_the_size(tmp_path: Path) -> None:
    result = attempt(tmp_path, runtime="litert", precision="fp16", min_agreement=0.5)
    assert result.passed, result.findings
    (artifact,) = result.artifacts
    assert {entry["runtime"] for entry in manifest.read(artifact.path)["runs_on"]} == {"ai-edge-litert"}
