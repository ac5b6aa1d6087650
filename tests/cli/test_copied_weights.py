"""A head that is shared over levels: convert and inspect tell which weights were copied, and for whom."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from .conftest import Cli

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(2, 5, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(5) for _ in range(2))

    def forward(self, x):
        return self.norms[0](self.head(x)), self.norms[1](self.head(torch.relu(x)))
"""


def test_convert_and_inspect(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    torch.manual_seed(0)
    state = {"head.weight": torch.randn(5, 2, 3, 3), "head.bias": torch.randn(5)}
    for level in range(2):
        name = f"norms.{level}"
        state |= {
            f"{name}.weight": torch.randn(5), f"{name}.bias": torch.randn(5),
            f"{name}.running_mean": torch.randn(5), f"{name}.running_var": torch.rand(5) + 0.5,
            f"{name}.num_batches_tracked": torch.tensor(5000),
        }  # fmt: skip
    save_file(state, tmp_path / "net.safetensors")
    arguments = ("convert", "net.safetensors", "--model", "net.py:Net", "--input", "1x2x6x7", "-o", "out")
    result = cli(*arguments, "--format", "json")
    assert result.status == 0, result.err
    entries = result.document["batch_norms"]
    assert [entry["status"] for entry in entries] == ["folded", "folded"]
    assert [entry["copies"] for entry in entries] == [[], [{"weight": "head.weight", "bytes": 4 * 5 * 2 * 9}]]
    sentence = "head.weight is read by several calls: copied for norms.1, 360 B more"
    assert sentence in " ".join(cli(*arguments).out.split())
    artifact = result.document["artifacts"][0]["path"]
    manifest = cli("inspect", artifact, "--format", "json").document["manifest"]
    assert [entry["copies"] for entry in manifest["batch_norms"]] == [entry["copies"] for entry in entries]
    assert sentence in " ".join(cli("inspect", artifact).out.split())
