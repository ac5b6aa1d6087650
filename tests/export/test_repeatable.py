"""The same network gives the same bytes: in another process, folder, home and hash seed, and after others."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from bnfold.export import onnx, tflite
from bnfold.fold import fold
from tests.export.bodies import body_of, draw, set_weights

ROOT = Path(__file__).resolve().parents[2]


class Repeated(nn.Module):
    """Two inputs, a rewritten transposed convolution, a recurrent layer, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1)
        self.memory = nn.GRU(5, 3, batch_first=True)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"up": F.relu(self.up(self.norm(self.down(x)))), "state": self.memory(y)[0]}


def digests() -> list[str]:
    net = Repeated()
    net.norm.running_mean = draw(4)
    example = draw(1, 3, 6, 8), draw(1, 4, 5)
    module = fold(set_weights(net), example).module
    files = [
        target.export(module.body, module.inputs, module.outputs, example).data for target in (onnx, tflite)
    ]
    for data in files:
        for trace in (str(ROOT).encode(), b"site-packages", b".py", b"Repeated", str(Path.cwd()).encode()):
            assert trace not in data, trace
    return [hashlib.sha256(data).hexdigest() for data in files]


def test_repeatable(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345", "HOME": str(other), "USER": "eve",
    }  # fmt: skip
    script = "from tests.export.test_repeatable import digests; print(*digests())"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=other, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for target in (onnx, tflite):  # what was written before leaves no trace in what comes after
            target.export(*body_of(nn.Conv2d(3, 4, 3), draw(1, 3, 5, 6)).arguments)
        mine = digests()
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.split() == mine
    assert {path.name for path in other.iterdir()} <= {".cache"}  # a library's, in its home
