"""Random small networks: whatever is built around a BatchNorm, the fold is exact or leaves it in place.

Channel counts are drawn from a few small numbers, so that axes of equal size (which hide a mixed-up axis) are
as common as distinct ones.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bnfold.fold import fold
from bnfold.fold.site import BATCH_NORMS
from tests.fold.networks import check_fold, draw_statistics

SIZES = st.sampled_from([2, 4, 4, 6])


@st.composite
def convolutions(draw: st.DrawFn, channels: int) -> tuple[nn.Module, int]:
    """A conv or a transposed conv over ``channels`` with any legal groups, padding, stride and dilation."""
    groups = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]))
    outputs = groups * draw(st.sampled_from([1, 2, 3]))
    options: dict[str, Any] = {"groups": groups, "bias": draw(st.booleans())}
    kernel = draw(st.sampled_from([1, 2, 3]))
    if draw(st.booleans()):
        stride = draw(st.sampled_from([1, 2]))
        return nn.ConvTranspose2d(
            channels, outputs, kernel, stride, draw(st.integers(0, kernel // 2)), **options
        ), outputs
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return nn.Conv2d(
        channels,
        outputs,
        kernel,
        draw(st.sampled_from([1, 2])),
        draw(st.integers(0, kernel // 2)),
        draw(st.sampled_from([1, 2])) if kernel < 3 else 1,
        padding_mode=mode,
        **options,
    ), outputs


@st.composite
def chains(draw: st.DrawFn) -> tuple[nn.Module, int]:
    """BatchNorms among convs, poolings, activations and dropout, and a classifier behind some of them."""
    channels = inputs = draw(SIZES)
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["norm", "norm", "conv", "conv", "pool", "relu", "sigmoid", "dropout"]))
        if kind == "norm":
            layers.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        elif kind == "conv":
            layer, channels = draw(convolutions(channels))
            layers.append(layer)
        elif kind == "pool":
            padding = draw(st.integers(0, 1))
            layers.append(nn.AvgPool2d(2, 1, padding, count_include_pad=draw(st.booleans())))
        else:
            layers.append({"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "dropout": nn.Dropout}[kind]())
    layers.append(nn.BatchNorm2d(channels))
    if draw(st.booleans()):
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, draw(SIZES))]
        if draw(st.booleans()):
            layers.append(nn.BatchNorm1d(layers[-1].out_features))
    return nn.Sequential(*layers), inputs


SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@SETTINGS
@given(chains(), st.integers(0, 2**16))
def test_chains(network: tuple[nn.Module, int], seed: int) -> None:
    body, channels = network
    module = draw_statistics(body, seed)
    x = torch.randn(1, channels, 9, 8, generator=torch.Generator().manual_seed(seed))
    result = fold(module, (x,))
    check_fold(module, result, (x,))
    assert not [node for node in result.module.body.graph.nodes if node.target in BATCH_NORMS]
    again = fold(result.module, (x,))
    assert not again.report.batch_norms


class Branches(nn.Module):
    """One stem read by several heads; ``shared`` heads are one module, called for each."""

    def __init__(self, stem: nn.Module, heads: list[nn.Module], raw: bool) -> None:
        super().__init__()
        self.stem, self.heads, self.raw = stem, nn.ModuleList(heads), raw

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.stem(x)
        outputs = tuple(head(y) for head in self.heads) + tuple(head(F.relu(y)) for head in self.heads)
        return (*outputs, y) if self.raw else outputs


@SETTINGS
@given(
    st.lists(
        st.sampled_from(["conv", "padded conv", "conv norm", "norm", "norm conv"]), min_size=1, max_size=3
    ),
    SIZES,
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_branches(kinds: list[str], channels: int, normalised: bool, raw: bool, seed: int) -> None:
    torch.manual_seed(seed)
    built: dict[str, nn.Module] = {}
    for kind in kinds:  # the same kind twice is the same module twice: its weights are shared
        if kind not in built:
            built[kind] = nn.Sequential(
                *(
                    nn.BatchNorm2d(channels)
                    if part == "norm"
                    else nn.Conv2d(channels, channels, 3, padding=int(kind.startswith("padded")))
                    for part in kind.removeprefix("padded ").split()
                )
            )
    stem = nn.Sequential(nn.Conv2d(3, channels, 3), *([nn.BatchNorm2d(channels)] if normalised else []))
    module = draw_statistics(Branches(stem, [built[kind] for kind in kinds], raw), seed)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    check_fold(module, fold(module, (x,)), (x,))


@pytest.mark.parametrize("shape", [(5, 5), (4, 4, 4), (3, 3, 3, 3), (2, 2, 2, 2, 2)])
def test_equal_dimensions_do_not_hide_the_channel_axis(shape: tuple[int, ...]) -> None:
    channels = shape[1]
    norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 2]
    layer = {
        2: nn.Linear(channels, channels),
        3: nn.Conv1d(channels, channels, 1),
        4: nn.Conv2d(channels, channels, 1),
        5: nn.Conv3d(channels, channels, 1),
    }[len(shape)]
    module = draw_statistics(nn.Sequential(norm(channels), layer, norm(channels)), 11)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    result = fold(module, (x,))
    assert [entry.status for entry in result.report.batch_norms] == ["folded", "folded"]
    check_fold(module, result, (x,))
