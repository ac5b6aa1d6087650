"""Pruning: which channels go, which must stay, and that the answer does not change."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bnfold import graph as g
from bnfold.fold import FoldResult, fold
from bnfold.fold.prune._base import Channels, Keep, Kind, Known
from bnfold.fold.prune.layers import Layers
from bnfold.fold.prune.pointwise import Pointwise
from bnfold.fold.rules import Operator
from tests.fold.networks import check_fold, draw_statistics
from tests.fold.pruned_networks import ACTIVATIONS, BLOCKS, HEADS, Network, kill

SHAPE = (2, 3, 8, 7)


def pruned(module: nn.Module, *shape: int, **options: Any) -> FoldResult:
    """The fold with pruning; every check of a fold has passed, and no answer has changed."""
    x = torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(3))
    result = fold(module, (x,), prune=True, **options)
    check_fold(module, result, (x,))
    return result


def removed(result: FoldResult) -> dict[str, list[int]]:
    assert result.report.pruned is not None
    return {layer.name: layer.removed for layer in result.report.pruned.layers if layer.removed}


def left(result: FoldResult) -> dict[str, tuple[list[int], str | None]]:
    assert result.report.pruned is not None
    return {layer.name: (layer.left, layer.reader) for layer in result.report.pruned.layers if layer.left}


def weights(result: FoldResult) -> list[tuple[int, ...]]:
    """The shapes of the layers' weights, in execution order."""
    found = []
    for node in result.module.body.graph.nodes:
        if node.target in Layers.operators:
            found.append(tuple(g.fetch(result.module.body, str(g.arguments(node)["weight"].target)).shape))
    return found


def dead(module: nn.Module, **channels: dict[int, float]) -> nn.Module:
    """Drawn statistics, and dead channels: by the BatchNorm's name, channel to constant."""
    torch.manual_seed(0)
    draw_statistics(module, 5)
    for name, constants in channels.items():
        norm = module.get_submodule(name.replace("_", "."))
        kill(norm, constants)
    return module


def chain(*layers: nn.Module, first: dict[int, float], name: str = "1") -> nn.Module:
    module = nn.Sequential(*layers)
    torch.manual_seed(0)
    draw_statistics(module, 5)
    kill(module.get_submodule(name), first)
    return module


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


# --- chains ----------------------------------------------------------------------------------------------


def test_a_dead_channel_goes_on_both_sides() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), first={1: -1.0, 4: 2.0})
    result = pruned(module)
    assert removed(result) == {"0": [1, 4]}
    assert weights(result) == [(4, 3, 3, 3), (5, 4, 3, 3)]
    assert result.report.pruned is not None
    assert result.report.pruned.weight_bytes == 4 * (2 * 27 + 2 + 5 * 2 * 9)


def test_sizes_equal() -> None:
    module = chain(conv(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 4, 1), first={0: 1.5, 3: 0.0})
    result = pruned(module, 4, 4, 4, 4)
    assert removed(result) == {"0": [0, 3]}
    assert weights(result) == [(2, 4, 1, 1), (4, 2, 1, 1)]


def test_without_asking_nothing_is_pruned() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), conv(6, 5), first={1: 1.0})
    result = fold(module, (torch.zeros(SHAPE),))
    assert result.report.pruned is None
    assert weights(result) == [(6, 3, 3, 3), (5, 6, 3, 3)]


@pytest.mark.parametrize(
    "activation",
    [nn.SiLU(), nn.Sigmoid(), nn.GELU(), nn.Hardswish(), nn.PReLU(6), nn.ReLU6(), nn.Tanh(), nn.Softplus()],
    ids=lambda layer: type(layer).__name__,
)
def test_a_constant_goes_through_the_activation_into_the_bias(activation: nn.Module) -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), activation, conv(6, 5), first={0: 0.7, 5: -0.4})
    result = pruned(module)
    assert removed(result) == {"0": [0, 5]}
    assert weights(result) == [(4, 3, 3, 3), (5, 4, 3, 3)]


def test_zeros_meet_zero_padding() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5, padding=1), first={1: -1.0, 2: -0.5})
    assert removed(pruned(module)) == {"0": [1, 2]}


def test_constants_at_the_border_leave_one_channel_for_all() -> None:
    """The border reads 0 there, so no bias can hold them; the largest constant stands for the others."""
    module = chain(conv(3, 6), nn.BatchNorm2d(6), conv(6, 5, padding=1), first={1: 1.0, 2: -3.0, 4: 0.5})
    result = pruned(module)
    assert removed(result) == {"0": [1, 4]}
    assert left(result) == {"0": ([2], "2")}


def test_a_single_constant_at_the_border_stays() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), conv(6, 5, padding=1), first={1: 1.0})
    result = pruned(module)
    assert removed(result) == {}
    assert left(result) == {"0": ([1], "2")}
    assert "BNF-A034" not in [finding.code for finding in result.report.findings]


def test_real_values_at_the_border() -> None:
    module = chain(
        conv(3, 6),
        nn.BatchNorm2d(6),
        conv(6, 5, padding=1, padding_mode="reflect"),
        first={1: 1.0},
    )
    assert removed(pruned(module)) == {"0": [1]}


def test_transposed_convolutions() -> None:
    module = chain(
        nn.ConvTranspose2d(3, 6, 2, 2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, 2, 1),
        first={0: -1.0, 1: 1.0, 3: 2.0},
    )
    result = pruned(module)
    assert removed(result) == {"0": [0, 1]}  # channel 3 stands for the other constant
    assert weights(result) == [(3, 4, 2, 2), (4, 4, 3, 3)]


def test_one_dimension_and_three() -> None:
    one = chain(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Conv1d(6, 4, 2), first={2: 1.0})
    assert removed(pruned(one, 2, 3, 9)) == {"0": [2]}
    three = chain(nn.Conv3d(3, 6, 2), nn.BatchNorm3d(6), nn.Conv3d(6, 4, 2), first={2: 1.0})
    assert removed(pruned(three, 1, 3, 4, 5, 4)) == {"0": [2]}


def test_linear_layers() -> None:
    module = chain(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6, bias=False), first={1: 2.0, 5: -2.0}
    )
    result = pruned(module, 6, 3)
    assert removed(result) == {"0": [1, 5]}
    assert weights(result) == [(4, 3), (6, 4)]


def test_one_after_the_other() -> None:
    """A channel that only a dead one read is read by nobody."""
    module = dead(
        nn.Sequential(
            conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 6, groups=6), nn.BatchNorm2d(6), conv(6, 4)
        ),
        **{"4": {2: 1.0}},
    )
    assert removed(pruned(module)) == {"0": [2], "3": [2]}


def test_before_the_activation() -> None:
    """A dead channel of a BatchNorm before a relu: nobody reads what is before it."""
    module = dead(
        nn.Sequential(conv(3, 6), nn.Sigmoid(), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4)),
        **{"2": {0: 1.0, 3: -1.0}},
    )
    assert removed(pruned(module)) == {"0": [0, 3]}


def test_a_symbolic_batch() -> None:
    module = chain(
        conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 5, 4), first={1: 1.0}
    )
    result = pruned(module, dynamic_batch=True)
    assert removed(result) == {"0": [1]}
    x = torch.randn(5, *SHAPE[1:])
    torch.testing.assert_close(result.module(x), module(x), rtol=1e-4, atol=1e-5)


# --- what must stay --------------------------------------------------------------------------------------


def test_outputs_keep_their_channels() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), first={1: 1.0})
    result = pruned(module)
    assert removed(result) == {}
    assert left(result) == {"0": ([1], "the network's output")}


def test_what_an_unknown_operator_reads_stays() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), nn.Softmax(1), conv(6, 4), first={1: 1.0})
    result = pruned(module)
    assert removed(result) == {}
    assert left(result) == {"0": ([1], "2")}


def test_the_input_stays() -> None:
    module = chain(nn.BatchNorm2d(3), conv(3, 6), first={1: 1.0}, name="0")
    assert weights(pruned(module))[0][1] == 3


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_all_channels_dead(constant: float) -> None:
    """One channel is left, so that there is something to compute."""
    module = chain(
        conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 5), first=dict.fromkeys(range(4), constant)
    )
    result = pruned(module)
    assert removed(result) == {"0": [1, 2, 3]}
    assert weights(result)[0] == (1, 3, 3, 3)


def test_batch_statistics_stay_as_they_are() -> None:
    module = chain(
        conv(3, 6),
        nn.BatchNorm2d(6),
        nn.BatchNorm2d(6, track_running_stats=False),
        conv(6, 4),
        first={1: 1.0},
    )
    x = torch.randn(SHAPE)
    result = fold(module, (x,), prune=True)
    assert removed(result) == {}
    torch.testing.assert_close(result.module(x), module(x), rtol=1e-4, atol=1e-5)


# --- groups ----------------------------------------------------------------------------------------------


def test_depthwise() -> None:
    module = chain(
        conv(3, 6),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        conv(6, 6, groups=6),
        nn.ReLU(),
        conv(6, 4, 1),
        first={1: 1.0, 4: -1.0},
    )
    result = pruned(module)
    assert removed(result) == {"0": [1, 4], "3": [1, 4]}
    assert weights(result) == [(4, 3, 3, 3), (4, 1, 3, 3), (4, 4, 1, 1)]


def test_depthwise_padded() -> None:
    """Behind zero padding a constant that is not 0 is constant no more."""
    module = chain(
        conv(3, 6),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        conv(6, 6, groups=6, padding=1),
        conv(6, 4, 1),
        first={1: 1.0, 4: -1.0},
    )
    assert removed(pruned(module)) == {"0": [4], "3": [4]}


def test_depthwise_multiplier() -> None:
    module = chain(
        conv(3, 4), nn.BatchNorm2d(4), conv(4, 8, groups=4), nn.ReLU(), conv(8, 3, 1), first={1: 1.0}
    )
    result = pruned(module)
    assert removed(result) == {"0": [1], "2": [2, 3]}
    assert weights(result) == [(3, 3, 3, 3), (6, 1, 3, 3), (3, 6, 1, 1)]


def test_half_a_multiplier_stays() -> None:
    """Of two outputs of one input only one is dead: groups must stay of one size."""
    module = chain(
        conv(3, 4),
        nn.ReLU(),
        conv(4, 8, groups=4),
        nn.BatchNorm2d(8),
        conv(8, 3, 1),
        first={2: 1.0},
        name="3",
    )
    result = pruned(module)
    assert removed(result) == {}
    assert weights(result) == [(4, 3, 3, 3), (8, 1, 3, 3), (3, 8, 1, 1)]


def test_groups_lose_alike() -> None:
    """Two channels of the first group and one of the second: one of each goes."""
    module = chain(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, groups=2), first={0: 1.0, 2: 2.0, 5: -1.0}
    )
    result = pruned(module)
    assert removed(result) == {"0": [2, 5]}
    assert weights(result) == [(6, 3, 3, 3), (4, 3, 3, 3)]


def test_a_whole_group_goes() -> None:
    module = dead(
        nn.Sequential(
            conv(3, 6), nn.BatchNorm2d(6), conv(6, 9, groups=3), nn.BatchNorm2d(9), nn.ReLU(), conv(9, 4)
        ),
        **{"1": {2: 1.0, 3: 0.5}, "3": {3: 1.0, 4: -1.0, 5: 2.0}},
    )
    result = pruned(module)
    assert removed(result) == {"0": [2, 3], "2": [3, 4, 5]}
    assert weights(result) == [(4, 3, 3, 3), (6, 2, 3, 3), (4, 6, 3, 3)]


def test_transposed_groups() -> None:
    module = chain(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, groups=2),
        first={0: -1.0, 5: -1.0},
    )
    result = pruned(module)
    assert removed(result) == {"0": [0, 5]}
    assert weights(result) == [(6, 3, 3, 3), (6, 3, 2, 2)]


# --- branches --------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A stream of 6 channels with two branches, then a layer that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 6, padding=1), nn.BatchNorm2d(6)
        self.convs = nn.ModuleList(conv(6, 6, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.head = conv(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for one, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(x + norm(one(torch.tanh(x))))
        y: torch.Tensor = self.head(x)
        return y


def test_a_stream_where_every_member_agrees() -> None:
    module = dead(Residual(), norm={1: -1.0, 4: -1.0}, norms_0={1: -1.0, 2: 0.0}, norms_1={1: 0.0, 5: 1.0})
    result = pruned(module)
    assert removed(result) == {"stem": [1], "convs.0": [1], "convs.1": [1]}
    assert weights(result) == [(5, 3, 3, 3), (5, 5, 3, 3), (5, 5, 3, 3), (4, 5, 1, 1)]


def test_a_stream_where_one_member_is_alive() -> None:
    module = dead(Residual(), norm={1: -1.0}, norms_0={1: -1.0})
    result = pruned(module)
    assert removed(result) == {}
    assert left(result)["convs.0"][0] == [1]


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.na, self.nb = conv(3, 4), conv(3, 5), nn.BatchNorm2d(4), nn.BatchNorm2d(5)
        self.head = conv(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.cat([self.na(self.a(x)), F.relu(self.nb(self.b(x)))], 1))
        return y


def test_concatenated() -> None:
    result = pruned(dead(Joined(), na={3: 1.0}, nb={0: -1.0, 2: 2.0}))
    assert removed(result) == {"a": [3], "b": [0, 2]}
    assert weights(result) == [(3, 3, 3, 3), (3, 3, 3, 3), (4, 6, 3, 3)]


def test_flatten_before_a_classifier() -> None:
    module = chain(
        conv(3, 4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 2, 5),
        first={2: 0.5},
    )
    result = pruned(module)
    assert removed(result) == {"0": [2]}
    assert weights(result) == [(3, 3, 3, 3), (5, 18)]


def test_sizes_that_the_network_names() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = conv(3, 4), nn.BatchNorm2d(4), nn.Linear(4 * 6 * 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.norm(self.conv(x)).reshape(2, 120))
            return y

    assert removed(pruned(dead(Named(), norm={1: 1.0}))) == {"conv": [1]}


def test_slices_and_unread_channels() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.a, self.b = conv(3, 9), nn.BatchNorm2d(9), conv(4, 3), conv(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second, _ = self.norm(self.conv(x)).split([4, 2, 3], 1)
            y: torch.Tensor = self.a(first) + self.b(second)
            return y

    result = pruned(dead(Sliced(), norm={1: 1.0, 5: -1.0}))
    assert removed(result) == {"conv": [1, 5, 6, 7, 8]}
    assert weights(result) == [(4, 3, 3, 3), (3, 3, 3, 3), (3, 1, 3, 3)]


def test_a_split_stays_one_split() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.a, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(4, 3), conv(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = torch.sigmoid(self.norm(self.conv(x))).chunk(2, 1)
            y: torch.Tensor = self.a(first) + self.b(second)
            return y

    result = pruned(dead(Split(), norm={1: 1.0, 2: -1.0, 5: -1.0}))
    assert removed(result) == {"conv": [1, 2, 5]}
    names = [g.operator_name(node) for node in result.module.body.graph.nodes]
    assert names.count("split_with_sizes") == 1
    assert names.count("slice") == 0


@pytest.mark.parametrize(
    ("channels", "expected"), [({0: 1.0, 3: 1.0}, [0, 3]), ({0: 1.0, 1: 1.0}, []), ({4: 1.0}, [])]
)
def test_a_shuffle_is_cut_only_where_it_stays_the_same_shuffle(
    channels: dict[int, float], expected: list[int]
) -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), nn.ChannelShuffle(2), conv(6, 4), first=channels)
    assert removed(pruned(module)).get("0", []) == expected


def test_pixel_shuffle() -> None:
    """Four channels become one: all four must be the same constant."""
    same = dict.fromkeys(range(4, 8), 1.0)
    module = chain(
        conv(3, 12),
        nn.BatchNorm2d(12),
        nn.PixelShuffle(2),
        conv(3, 4),
        first={**same, 0: 1.0, 8: 2.0, 9: 3.0},
    )
    result = pruned(module)
    assert removed(result) == {"0": [4, 5, 6, 7]}
    assert weights(result) == [(8, 3, 3, 3), (4, 2, 3, 3)]


def test_squeeze_and_excitation() -> None:
    """A gate's channels go with the channels that they gate."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = conv(3, 6), nn.BatchNorm2d(6), conv(6, 4)
            self.squeeze, self.excite = conv(6, 2, 1), conv(2, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.norm(self.conv(x)))
            gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
            y: torch.Tensor = self.head(x * gate)
            return y

    result = pruned(dead(Gated(), norm={1: -1.0, 3: 2.0}))
    assert removed(result) == {"conv": [1], "excite": [1]}  # 3 times a gate is no constant
    assert weights(result) == [(5, 3, 3, 3), (2, 5, 1, 1), (5, 2, 1, 1), (4, 5, 3, 3)]


def test_linear_layers_over_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(3, 6), nn.BatchNorm2d(6)
            self.mix, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = F.gelu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
            y: torch.Tensor = self.head(F.relu(self.mix(tokens)))
            return y

    assert removed(pruned(dead(Tokens(), norm={1: 1.0, 5: 0.0}))) == {"conv": [1, 5]}


def test_linear_layers_on_another_axis_are_not_cut() -> None:
    """(batch, channels, length): the layer reads the length, of the same size."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.mix = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.mix(self.norm(self.conv(x)))
            return y

    result = pruned(dead(Mixed(), norm={1: 1.0}), 4, 4, 4)
    assert removed(result) == {}
    assert left(result) == {"conv": ([1], "mix")}


# --- shared weights --------------------------------------------------------------------------------------


class Shared(nn.Module):
    """One convolution called for two values; each call has a BatchNorm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = conv(3, 6), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = conv(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.a(self.conv(x)), self.b(self.conv(torch.sigmoid(x)))
        y: torch.Tensor = self.head(F.relu(one)) + self.head(F.relu(other))
        return y


def test_a_shared_weight_is_cut_where_all_calls_agree() -> None:
    both = pruned(dead(Shared(), a={1: 1.0, 2: -1.0}, b={1: 0.5, 4: 1.0}))
    assert removed(both) == {"conv": [1]}
    assert [shape[1] for shape in weights(both)[-2:]] == [5, 5]
    heads = [node for node in both.module.body.graph.nodes if node.target in Layers.operators][-2:]
    assert g.arguments(heads[0])["weight"].target == g.arguments(heads[1])["weight"].target


# --- never silently wrong --------------------------------------------------------------------------------


def _swapped(self: Layers, operator: Operator, known: Known) -> Channels | None:
    found = _LAYERS(self, operator, known)
    return None if found is None else replace(found, constant=found.constant[::-1])


def _no_need(self: Layers, operator: Operator, known: Known, keep: Keep) -> None:
    """Columns that are read go with whatever is constant, at the border too."""


def _one_more(self: Pointwise, operator: Operator, known: Known) -> Channels | None:
    found = _POINTWISE(self, operator, known)
    return None if found is None else replace(found, constant=found.constant + 1.0)


def _not_together(self: Pointwise, operator: Operator, known: Known, keep: Keep) -> None:
    """The members of a sum keep what they like."""


def _plain() -> nn.Module:
    return chain(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4), first={1: 1.0, 2: -1.0})


def _stream() -> nn.Module:
    return dead(Residual(), norm={1: 1.0, 4: 2.0}, norms_0={1: 1.0, 2: 0.0}, norms_1={1: 0.5, 5: 1.0})


_LAYERS, _POINTWISE = Layers.channels, Pointwise.channels


@pytest.mark.parametrize(
    ("kind", "method", "wrong", "network"),
    [
        (Layers, "channels", _swapped, _plain),
        (Layers, "require", _no_need, _plain),
        (Pointwise, "channels", _one_more, _plain),
        (Pointwise, "require", _not_together, _stream),
    ],
)
def test_a_wrong_cut_is_caught_and_undone(
    kind: type[Kind],
    method: str,
    wrong: Callable[..., Any],
    network: Callable[[], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kind, method, wrong)
    module = network()
    x = torch.randn(SHAPE)
    result = fold(module, (x,), prune=True)
    assert "BNF-X004" in [finding.code for finding in result.report.findings]
    assert result.report.pruned is None
    assert result.report.max_rel_error is not None
    assert result.report.max_rel_error <= 1e-10
    torch.testing.assert_close(result.module(x), module(x), rtol=1e-4, atol=1e-5)


def test_what_is_told() -> None:
    module = chain(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 5), first={1: -1.0, 4: 2.0})
    (dead_ones, told) = pruned(module).report.findings
    assert (dead_ones.code, dead_ones.evidence["channels"]) == ("BNF-A020", [1, 4])
    assert "--prune" in dead_ones.remedy
    assert (told.code, told.severity, told.where) == ("BNF-A034", "info", "0")
    assert told.evidence == {"channels_removed": 2, "weight_bytes_saved": 4 * (2 * 27 + 2 + 5 * 2 * 9)}


# --- random networks of published blocks -----------------------------------------------------------------

EXAMPLES = int(os.environ.get("BNFOLD_RANDOM_NETWORKS", "200"))


@settings(
    max_examples=round(EXAMPLES * 0.3),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(st.sampled_from(BLOCKS), st.sampled_from([2, 4, 4, 6, 8]), st.sampled_from(ACTIVATIONS)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(HEADS),
    st.sampled_from([2, 4, 6]),
    st.integers(0, 2**16),
)
def test_random_networks(blocks: list[tuple[str, int, str]], head: str, channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    module = draw_statistics(Network(blocks, head, channels), seed)
    generator = np.random.default_rng(seed)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._NormBase):
            gone = np.flatnonzero(generator.random(norm.num_features) < 0.5)
            kill(norm, {int(c): float(generator.choice([0.0, -1.0, 0.5, 2.0])) for c in gone})
    result = pruned(module, 1, 3, 10, 8)
    assert result.report.pruned is not None
    assert result.report.pruned.weight_bytes >= 0
