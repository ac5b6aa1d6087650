"""Each rewrite computes what torch does, in float64, and leaves alone what needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from bnfold.capture import capture
from bnfold.errors import ExportError
from bnfold.export import rewrite, rewrite_repeat
from bnfold.export.source import private_copy, propagate
from bnfold.export.tflite import REWRITES
from bnfold.numerics import max_rel_error
from tests.export.bodies import Net, draw, set_weights

EXACT = 1e-13
"""Relative: float64 sums in another order."""


def rewritten(module: nn.Module, x: torch.Tensor) -> tuple[fx.GraphModule, list[str]]:
    captured = capture(module, (x,))
    copy = private_copy(captured.body, captured.inputs, captured.outputs, (x,))
    assert copy is not captured.body
    propagate(copy, (x,))
    first = rewrite.apply(copy, rewrite_repeat.FIRST, "TFLite")
    return copy, first + rewrite.apply(copy, REWRITES, "TFLite")


def check(module: nn.Module, *shape: int) -> list[str]:
    """Rewrite a module in float64 and compare; the rewrites used."""
    module, x = set_weights(module).double(), draw(*shape, dtype=torch.float64)
    graph, used = rewritten(module, x)
    with torch.no_grad():
        expected, (actual,) = module(x), graph(x)
    assert expected.abs().max() > 0.01
    assert max_rel_error(actual.numpy(), expected.numpy()) <= EXACT
    assert rewrite.apply(graph, REWRITES, "TFLite") == [] or used == []  # nothing is left to rewrite
    return used


def call(function: Callable[[torch.Tensor], Any]) -> nn.Module:
    return Net(lambda _, x: function(x))


REWRITTEN = {
    "output_padding": (nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), (2, 3, 5, 6), "transposed_conv"),
    "output_padding on one axis": (
        nn.ConvTranspose2d(3, 4, 3, 2, 0, output_padding=(0, 1)), (1, 3, 5, 6), "transposed_conv",
    ),
    "output_padding beyond the kernel": (
        nn.ConvTranspose2d(3, 4, 2, 3, 0, output_padding=2), (1, 3, 5, 6), "transposed_conv",
    ),
    "odd kernel, stride 2": (nn.ConvTranspose2d(3, 4, 3, 2, 1), (1, 3, 5, 6), "transposed_conv"),
    "grouped and padded": (nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), (1, 4, 5, 6), "transposed_conv"),
    "depthwise": (nn.ConvTranspose2d(4, 4, 3, 2, 1, groups=4), (1, 4, 5, 6), "transposed_conv"),
    "dilated and strided": (
        nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1, dilation=2), (1, 3, 5, 6), "transposed_conv",
    ),
    "unlike axes": (
        nn.ConvTranspose2d(3, 4, (3, 2), stride=(1, 2), padding=(1, 1)), (2, 3, 5, 6), "transposed_conv",
    ),
    "without batch": (nn.ConvTranspose2d(3, 4, 2, 2), (3, 5, 6), "transposed_conv"),
    "1-D": (nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1, groups=2), (2, 4, 7), "transposed_conv"),
    "1-D dilated": (nn.ConvTranspose1d(3, 4, 3, dilation=3), (1, 3, 7), "transposed_conv"),
    "3-D": (nn.ConvTranspose3d(2, 3, 3, 2, 1, output_padding=1), (2, 2, 3, 4, 5), "transposed_conv"),
    "3-D grouped": (nn.ConvTranspose3d(4, 6, (3, 2, 1), 2, groups=2), (1, 4, 3, 4, 5), "transposed_conv"),
    "3-D dilated": (nn.ConvTranspose3d(2, 3, 2, (1, 2, 3), dilation=2), (1, 2, 3, 4, 5), "transposed_conv"),
    "grouped conv 3-D": (nn.Conv3d(4, 6, 3, 2, 1, groups=2), (2, 4, 5, 6, 7), "grouped_conv3d"),
    "depthwise conv 3-D": (
        nn.Conv3d(4, 8, (3, 2, 1), dilation=(1, 2, 1), groups=4, bias=False), (1, 4, 5, 6, 7),
        "grouped_conv3d",
    ),
    "grouped conv 3-D, same": (
        nn.Conv3d(4, 4, (3, 4, 2), padding="same", groups=2), (1, 4, 5, 6, 7), "grouped_conv3d",
    ),
    "conv 1-D, same": (nn.Conv1d(3, 4, 3, padding="same", dilation=2), (2, 3, 9), "padded_conv1d"),
    "conv 1-D, same and not symmetric": (
        nn.Conv1d(4, 6, 4, padding="same", groups=2), (1, 4, 9), "padded_conv1d",
    ),
    "conv 1-D, valid, without batch": (
        nn.Conv1d(3, 4, 3, 2, padding="valid", bias=False), (3, 9), "padded_conv1d",
    ),
    "square, five axes": (call(lambda x: x**2 + x.square()), (1, 2, 3, 4, 2), "power"),
    "power, five axes": (call(lambda x: x.abs() ** 1.7), (1, 2, 3, 4, 2), "power"),
    "power of a number, five axes": (call(lambda x: 2**x), (1, 2, 3, 4, 2), "power"),
    "power of both, broadcast": (call(lambda x: x.abs() ** x[:, 0, ..., :1]), (2, 2, 3, 4, 2), "power"),
    "repeat": (call(lambda x: x.repeat(1, 2, 1, 3)), (2, 3, 4, 5), "repeat"),
    "repeat, one of them of size 1": (call(lambda x: x.repeat(1, 2, 4, 1)), (2, 2, 1, 2), "repeat"),
    "repeat, axes in front": (call(lambda x: x.repeat(2, 3, 1, 2)), (3, 4), "repeat"),
    "tile, fewer counts": (call(lambda x: torch.tile(x, (2, 1))), (2, 2, 2, 2), "repeat"),
    "expand": (call(lambda x: x.expand(2, 4, 6, 5)), (2, 4, 1, 5), "expand"),
    "expand, axes in front": (call(lambda x: x.expand(2, 3, 4, 5)), (4, 1), "expand"),
    "expand_as": (call(lambda x: x.mean((1, 2), keepdim=True).expand_as(x).relu()), (2, 3, 4, 5), "expand"),
    "expand, five axes": (call(lambda x: x.expand(-1, 7, -1, 4, -1)), (1, 1, 3, 1, 2), "expand"),
    "chunk, one": (call(lambda x: torch.cat([y * 2 for y in x.chunk(1, 0)], 0)), (2, 3), "split"),
    "split, one": (call(lambda x: x.split(5, 1)[0] * 2), (2, 3), "split"),
    "max pool 3-D": (nn.MaxPool3d(3, 2, 1), (2, 3, 5, 6, 8), "max_pool"),
    "max pool 3-D, ceil": (
        nn.MaxPool3d((2, 3, 2), 2, (1, 0, 1), ceil_mode=True), (1, 3, 5, 6, 8), "max_pool",
    ),
    "max pool dilated": (nn.MaxPool2d(3, (1, 2), 1, dilation=2), (1, 3, 8, 10), "max_pool"),
    "max pool 1-D dilated": (nn.MaxPool1d(2, 1, dilation=3), (1, 3, 9), "max_pool"),
    "avg pool 3-D": (nn.AvgPool3d((2, 3, 2)), (2, 3, 4, 6, 8), "avg_pool"),
    "avg pool 3-D padded": (nn.AvgPool3d(3, 2, 1), (1, 3, 5, 6, 8), "avg_pool"),
    "avg pool 3-D, ceil": (nn.AvgPool3d(3, 2, ceil_mode=True), (1, 3, 6, 6, 8), "avg_pool"),
    "avg pool 3-D, padding not counted": (
        nn.AvgPool3d(3, 2, 1, count_include_pad=False), (1, 3, 5, 6, 8), "avg_pool",
    ),
    "avg pool, padding not counted": (
        nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 3, 8, 10), "avg_pool",
    ),
    "avg pool, own divisor": (nn.AvgPool2d(3, 2, divisor_override=5), (1, 3, 8, 10), "avg_pool"),
    "adaptive max": (nn.AdaptiveMaxPool2d((3, 4)), (2, 3, 7, 9), "adaptive_pool"),
    "adaptive max to one": (nn.AdaptiveMaxPool2d(1), (1, 3, 7, 9), "adaptive_pool"),
    "adaptive max 1-D": (nn.AdaptiveMaxPool1d(3), (1, 3, 9), "adaptive_pool"),
    "adaptive average 3-D": (nn.AdaptiveAvgPool3d((2, 3, 1)), (1, 3, 5, 6, 7), "adaptive_pool"),
    "nearest, 7 of 5": (call(lambda x: F.interpolate(x, size=(7, 9))), (1, 3, 5, 6), "nearest"),
    "nearest, own factor": (
        call(lambda x: F.interpolate(x, scale_factor=1.7, recompute_scale_factor=False)), (1, 3, 5),
        "nearest",
    ),
    "nearest exact": (
        call(lambda x: F.interpolate(x, size=(4, 3), mode="nearest-exact")), (1, 3, 5, 6), "nearest",
    ),
    "bilinear, own factor": (
        call(lambda x: F.interpolate(x, scale_factor=(1.7, 2.3), mode="bilinear")), (1, 3, 5, 6), "linear",
    ),
}  # fmt: skip

LEFT_ALONE = {
    "conv 2-D": (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (1, 4, 5, 6)),
    "conv 3-D": (nn.Conv3d(2, 3, 3), (1, 2, 5, 6, 7)),
    "transposed, no padding": (nn.ConvTranspose2d(3, 4, 2, 2), (1, 3, 5, 6)),
    "transposed, same padding": (nn.ConvTranspose2d(3, 4, 4, 2, 1), (1, 3, 5, 6)),
    "transposed, one axis same and one valid": (
        nn.ConvTranspose2d(3, 4, (3, 2), stride=(1, 2), padding=(1, 0)),
        (2, 3, 5, 6),
    ),
    "conv 1-D": (nn.Conv1d(3, 4, 3, padding=1), (1, 3, 9)),
    "power": (call(lambda x: x**2), (1, 3, 5, 6)),
    "repeat, three axes": (call(lambda x: x.repeat(1, 2, 3)), (2, 3, 4)),
    "split, two": (call(lambda x: x.split(2, 1)[1] * 2), (2, 3)),
    "expand, three axes": (call(lambda x: x.expand(2, 3, 4)), (2, 1, 4)),
    "repeat, once": (call(lambda x: x.repeat(1, 1, 1, 1)), (2, 3, 4, 5)),
    "max pool": (nn.MaxPool2d(3, 2, 1), (1, 3, 8, 10)),
    "avg pool": (nn.AvgPool2d(3, 2, 1), (1, 3, 8, 10)),
    "nearest by 2": (nn.Upsample(scale_factor=2), (1, 3, 5, 6)),
    "bilinear by 2": (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 5, 6)),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_values(name: str) -> None:
    module, shape, rule = REWRITTEN[name]
    assert set(check(module, *shape)) == {rule}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    module, shape = LEFT_ALONE[name]
    assert check(module, *shape) == []


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_transposed_convolution(data: st.DataObject) -> None:
    axes = data.draw(st.sampled_from([1, 2, 3]), "axes")

    def per_axis(low: int, high: int, name: str) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * axes), name)

    kernel, stride, dilation = per_axis(1, 3, "kernel"), per_axis(1, 3, "stride"), per_axis(1, 2, "dilation")
    padding, extra, size = per_axis(0, 2, "padding"), per_axis(0, 2, "extra"), per_axis(2, 4, "size")
    assume(all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)))
    lengths = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extra, strict=True)
    ]
    assume(min(lengths) > 0)
    groups = data.draw(st.sampled_from([1, 2]), "groups")
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1]
    check(kind(2, 4, kernel, stride, padding, extra, groups, True, dilation), 1, 2, *size)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_average_pooling(data: st.DataObject) -> None:
    axes = data.draw(st.sampled_from([1, 2, 3]), "axes")

    def per_axis(low: int, high: int, name: str) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * axes), name)

    kernel, stride, size = per_axis(1, 3, "kernel"), per_axis(1, 3, "stride"), per_axis(3, 6, "size")
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    ceil, counted = data.draw(st.booleans(), "ceil"), data.draw(st.booleans(), "counted")
    kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[axes - 1]
    check(kind(kernel, stride, padding, ceil, counted), 2, 2, *size)


def test_weights_are_computed_before_the_export() -> None:
    graph, _ = rewritten(set_weights(nn.ConvTranspose3d(2, 3, 3, 2)), draw(1, 2, 3, 4, 5))
    for node in graph.graph.nodes:
        if node.op == "call_function":
            assert any(source.op != "get_attr" for source in node.all_input_nodes), node.format_node()


def test_used_indices_are_refused_by_operator_and_line() -> None:
    class Indices(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return F.max_pool3d(x, 2, return_indices=True)

    with pytest.raises(ExportError) as refusal:
        rewritten(Indices(), draw(1, 2, 4, 4, 4))
    assert refusal.value.code == "BNF-E010"
    assert "max_pool3d_with_indices" in refusal.value.what
    assert f"test_rewrite.py:{Indices.forward.__code__.co_firstlineno + 1}" in refusal.value.where


def test_the_caller_s_graph_is_untouched() -> None:
    module, x = set_weights(nn.ConvTranspose2d(4, 4, 3, 2, 1, groups=2)), draw(1, 4, 5, 6)
    captured = capture(module, (x,))
    code, state = captured.body.code, {k: v.clone() for k, v in captured.body.state_dict().items()}
    copy = private_copy(captured.body, captured.inputs, captured.outputs, (x,))
    propagate(copy, (x,))
    assert rewrite.apply(copy, REWRITES, "TFLite") == ["transposed_conv"]
    assert captured.body.code == code
    assert list(captured.body.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in captured.body.state_dict().items())
