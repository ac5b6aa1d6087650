"""Random small networks: whatever is built around a BatchNorm, the fold is exact or leaves it in place.

``BNFOLD_RANDOM_NETWORKS`` says how many are built. Channel counts are drawn from a few small numbers, so that
axes of equal size (which hide a mixed-up axis) are as common as distinct ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
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


EXAMPLES = int(os.environ.get("BNFOLD_RANDOM_NETWORKS", "200"))


def examples(share: float) -> settings:
    """A share of all the random networks; the same ones every time."""
    return settings(
        max_examples=round(EXAMPLES * share),
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@examples(0.2)
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


@examples(0.2)
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


# --- programs: any operator that a rule knows, on any earlier value -----------------------------------------


@dataclass(frozen=True)
class Call:
    """One step: what to do, on which earlier values, and which of the layers to use."""

    kind: str
    inputs: tuple[int, ...]
    layer: int = 0


_NORMS = ("norm", "norm", "norm")
_POINTWISE = ("relu", "relu6", "leaky", "prelu", "abs", "sigmoid", "gelu", "tanh")
_LAYERS = ("conv", "padded", "depthwise", "grouped", "transposed", "pointwise")
_MOVES = ("max pool", "avg pool", "counted", "shuffle", "transpose", "upsample", "zeros", "reflect", "tokens")
_OWN = ("layer scale", "own shift", "halve")
_PRODUCTS = ("matrix", "turned matrix", "matrix first", "edges")
_NORMALISED = ("group norm", "layer norm")
_PAIRS = ("add", "add", "sub", "weighed", "cat", "stack", "depth", "gate")
_KINDS = _NORMS + _POINTWISE + _LAYERS + _MOVES + _OWN + _PRODUCTS + _NORMALISED + _PAIRS


class Program(nn.Module):
    """Runs calls in order on values (batch, 4, 6, 6); a layer that is drawn twice is shared."""

    def __init__(self, calls: list[Call], outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.calls, self.outputs = calls, outputs
        c = 4
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=i != 2) for i in range(4))
        self.convs = nn.ModuleDict(
            {
                "conv": nn.Conv2d(c, c, 3, bias=False),
                "padded": nn.Conv2d(c, c, 3, padding=1),
                "depthwise": nn.Conv2d(c, c, 3, padding=1, groups=c),
                "grouped": nn.Conv2d(c, c, 3, padding=1, groups=2),
                "transposed": nn.ConvTranspose2d(c, c, 3, padding=1, groups=2),
                "pointwise": nn.Conv2d(c, c, 1),
            }
        )
        self.narrow = nn.Conv2d(2 * c, c, 1)
        self.linear = nn.Linear(c, c)
        self.matrix, self.edges = nn.Parameter(torch.randn(c, c)), nn.Parameter(torch.randn(6, 6))
        self.group, self.layer = nn.GroupNorm(2, c), nn.LayerNorm((c, 6, 6))
        self.prelu = nn.PReLU(c)
        self.scale, self.shift = nn.Parameter(torch.randn(c, 1, 1)), nn.Parameter(torch.randn(1, c, 1, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x]
        for call in self.calls:
            values.append(self._run(call, *(values[i] for i in call.inputs)))
        return tuple(values[i] for i in self.outputs)

    def _run(self, call: Call, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        kind = call.kind
        if kind == "norm":
            return self.norms[call.layer % 4](x)
        if kind == "conv":
            return F.pad(self.convs["conv"](x), (1, 1, 1, 1), "replicate")
        if kind in self.convs:
            return self.convs[kind](x)
        if y is not None:
            joined: dict[str, Callable[[], torch.Tensor]] = {
                "add": lambda: x + y,
                "sub": lambda: x - y,
                "weighed": lambda: torch.add(x, y, alpha=-0.5),
                "cat": lambda: self.narrow(torch.cat([x, y], 1)),
                "stack": lambda: self.narrow(torch.stack([x, y], 1).flatten(1, 2)),
                "depth": lambda: torch.stack([y, x], 2).amax(2),
                "gate": lambda: x * torch.sigmoid(y.mean((2, 3), keepdim=True)),
            }
            return joined[kind]()
        unary: dict[str, Callable[[], torch.Tensor]] = {
            "relu": lambda: F.relu(x),
            "relu6": lambda: F.relu6(x),
            "leaky": lambda: F.leaky_relu(x, 0.1),
            "prelu": lambda: self.prelu(x),
            "abs": lambda: x.abs(),
            "sigmoid": lambda: torch.sigmoid(x),
            "gelu": lambda: F.gelu(x),
            "tanh": lambda: torch.tanh(x),
            "max pool": lambda: F.max_pool2d(x, 3, 1, 1),
            "avg pool": lambda: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
            "counted": lambda: F.avg_pool2d(x, 3, 1, 1),
            "shuffle": lambda: F.channel_shuffle(x, 2),
            "transpose": lambda: x.transpose(2, 3),
            "upsample": lambda: F.interpolate(x, scale_factor=2.0, mode="bilinear")[:, :, 3:9, 2:8],
            "zeros": lambda: F.pad(x[:, :, 1:-1, 1:-1], (1, 1, 1, 1)),
            "reflect": lambda: F.pad(x[:, :, 1:-1, 1:-1], (1, 1, 1, 1), "reflect"),
            "tokens": lambda: self.linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape),
            "layer scale": lambda: x * self.scale,
            "own shift": lambda: x + self.shift,
            "halve": lambda: 0.5 * x,
            "matrix": lambda: torch.einsum("nchw,kc->nkhw", x, self.matrix),
            "turned matrix": lambda: torch.einsum("ck,nchw->nkwh", self.matrix, x),
            "matrix first": lambda: (self.matrix @ x.flatten(2)).unflatten(2, (6, 6)),
            "edges": lambda: x @ self.edges,
            "group norm": lambda: self.group(x),
            "layer norm": lambda: self.layer(x),
        }
        return unary[kind]()


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Calls on recent values more often than on old ones; a BatchNorm is certain."""
    calls: list[Call] = []
    for i in range(draw(st.integers(3, 9))):
        kind = "norm" if i == 1 else draw(st.sampled_from(_KINDS))
        recent = st.integers(max(0, i - 2), i)
        first = draw(recent)
        inputs = (first, draw(recent.filter(lambda j, k=first: j != k))) if kind in _PAIRS and i else (first,)
        if kind in _PAIRS and len(inputs) == 1:
            kind = "sigmoid"
        calls.append(Call(kind, inputs, draw(st.integers(0, 3))))
    last = len(calls)
    outputs = (last, draw(st.integers(1, last))) if draw(st.booleans()) else (last,)
    return Program(calls, tuple(dict.fromkeys(outputs)))


ITS_OWN_READER = Program(  # what reads the BatchNorm also reads its producer, which an undo must not mistake
    [Call("tokens", (0,), 0), Call("norm", (1,), 0), Call("sub", (1, 2), 0), Call("max pool", (3,), 0)],
    (4, 3),
)


@examples(0.6)
@example(ITS_OWN_READER, 243)
@given(programs(), st.integers(0, 2**16))
def test_programs(program: Program, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in program.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    module = draw_statistics(program, seed)
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed))
    result = fold(module, (x,))
    check_fold(module, result, (x,))
    assert not [node for node in result.module.body.graph.nodes if node.target in BATCH_NORMS]


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
