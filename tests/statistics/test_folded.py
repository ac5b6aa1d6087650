"""The range of folded weights by output channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.fold import fold
from bnfold.statistics.folded import beyond_half, folded_weights

from .networks import trained


@pytest.mark.parametrize("groups", [1, 2])
def test_output_channels_of_a_transposed_convolution(groups: int) -> None:
    network = trained(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups), nn.BatchNorm2d(6)))
    (weights,) = folded_weights(fold(network, (torch.randn(1, 4, 5, 5),)))
    conv, norm = network[0], network[1]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().numpy()
    raw = conv.weight.detach().double().numpy()
    for channel in range(6):
        group, inside = divmod(channel, 6 // groups)
        rows = raw[group * 4 // groups : (group + 1) * 4 // groups, inside]
        assert weights.size[channel] == pytest.approx(np.abs(rows).max() * abs(scale[channel]), rel=1e-6)
    assert weights.folded
    assert weights.range == pytest.approx(weights.size.max() / weights.size.min())


def test_linear_layers_before_and_after_a_batch_norm() -> None:
    network = trained(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)))
    with torch.no_grad():
        network[0].weight[4] = 0
        network[3].weight[1] = 1e5
    first, second = folded_weights(fold(network, (torch.randn(2, 3),)))
    assert (first.layer, first.folded, len(first.size)) == ("0", True, 5)
    assert (second.layer, second.folded, len(second.size)) == ("3", False, 2)
    assert first.size[4] == 0
    some = first.size[:4]
    assert first.range == pytest.approx(some.max() / some.min())
    (finding,) = beyond_half([first, second])
    assert (finding.code, finding.severity, finding.where) == ("BNF-A008", "warning", "3.weight[1]")
    assert finding.evidence["largest"] == pytest.approx(1e5)
