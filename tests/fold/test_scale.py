"""Deep networks fold in a fraction of the time that torch.export takes, and large ones in little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from bnfold.fold import fold
from tests.fold.networks import draw_statistics


class Block(nn.Module):
    """A bottleneck, normalised behind its convolutions or before them."""

    def __init__(self, channels: int, *, before: bool) -> None:
        super().__init__()
        kernels = (1, 3, 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, k, padding=k // 2) for k in kernels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in kernels)
        self.before = before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = conv(torch.relu(norm(y))) if self.before else torch.relu(norm(conv(y)))
        return x + y


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True], ids=["behind", "before"])
def test_300_batch_norms(before: bool) -> None:
    """Edits and algebra, and then the proof, each take less time than torch.export does.

    A generous bound (a quarter is the goal, see `make bench-fold`), and relative: it holds on any machine.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), *(Block(8, before=before) for _ in range(100)))
    with torch.no_grad():
        for name, parameter in draw_statistics(module, 1).named_parameters():
            if "norms" in name and name.endswith("weight"):
                parameter.mul_(0.1)  # a hundred sums stay small
    report = fold(module, (torch.randn(1, 3, 8, 8),)).report
    assert len(report.batch_norms) == 300
    assert {entry.status for entry in report.batch_norms} <= {"folded", "reduced"}
    assert report.max_rel_error is not None
    assert report.max_rel_error <= report.tolerance
    assert report.seconds["fold"] < report.seconds["capture"]
    assert report.seconds["certificate"] < report.seconds["capture"]


MEMORY = """
import sys
from bnfold.runtime.coldstart import peak_memory as peak
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from bnfold.fold import fold

def network(channels, depth):
    layers = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        layers += [weight_norm(conv) if sys.argv[1] == "weight norm" else conv]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers).eval()

torch.set_num_threads(1)
fold(network(4, 2), (torch.randn(1, 4, 4, 4),))  # what is imported and cached on the way
module = network(512, 6)
size = 8 * sum(parameter.numel() for parameter in module.parameters())
before = peak()
report = fold(module, (torch.randn(1, 512, 4, 4),)).report
assert {entry.status for entry in report.batch_norms} == {"folded"}
print(size, peak() - before)
"""


@pytest.mark.parametrize("kind", ["plain", pytest.param("weight norm", marks=pytest.mark.slow)])
def test_peak_memory(kind: str) -> None:
    """Above the loaded model, less than three times its size in float64 (113 MB).

    getrusage would count what the process that starts this one held: `peak_memory` does not, on Linux.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, kind], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    size, peak = map(int, done.stdout.split())
    assert size > 100e6
    assert 0.5 * size < peak < 3 * size
