"""What is left over, in each target's form: the values stay, and it happens where it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnfold.export import forms
from bnfold.export import onnx as onnx_target
from bnfold.export.source import private_copy, propagate
from bnfold.fold import fold
from bnfold.numerics import max_rel_error
from tests.export.bodies import Net, body_of, draw

FLOAT32 = 2e-6
INF = float("inf")


def per_channel(channels: int, seed: int = 9) -> torch.Tensor:
    return draw(1, channels, 1, 1, seed=seed)


def chosen(
    module: nn.Module, *shape: int, target: forms.Target = forms.ONNX, dynamic: bool = False
) -> list[str]:
    """What :func:`forms.choose` writes; the values must stay."""
    body = body_of(module, draw(*shape), dynamic_batch=dynamic)
    code = body.body.code
    copy = private_copy(*body.arguments)
    if not dynamic:
        propagate(copy, body.example)
    used = forms.choose(copy, target)
    with torch.no_grad():
        results = copy(*body.example)
    for actual, expected in zip(results, body.expected.values(), strict=True):
        assert abs(expected).max() > 0.01
        assert max_rel_error(actual.numpy(), expected) <= FLOAT32
    assert body.body.code == code
    again = private_copy(copy, body.inputs, body.outputs, body.example)
    if not dynamic:
        propagate(again, body.example)
    assert forms.choose(again, target) == []
    return used


def between(
    step: Callable[[torch.Tensor], torch.Tensor], channels: int = 6, last: nn.Module | None = None
) -> Net:
    """conv, gelu, the step, and another convolution, unpadded."""
    first, last = nn.Conv2d(3, channels, 3), last or nn.Conv2d(channels, 4, 1)
    return Net(lambda net, x: net.last(step(F.gelu(net.first(x)))), first=first, last=last)


S, T, H = per_channel(6), per_channel(6, 11), per_channel(6, 12).abs() + 0.3
PADDED = nn.Conv2d(6, 4, 3, padding=1)
MIXED = torch.tensor([-INF, 0.3, -0.2, -INF, 0.1, -0.4]).reshape(1, 6, 1, 1)
FIXED = torch.tensor([1.0, 0, 1, 1, 0, 1]).reshape(1, 6, 1, 1)

WRITTEN = {
    "pair": (lambda x: x * S + T, PADDED, ["pair"]),
    "pair, the other way round": (lambda x: (T - x) * S, PADDED, ["pair"]),
    "addition": (lambda x: x + T, PADDED, ["single"]),
    "multiplication": (lambda x: S * x, PADDED, ["single"]),
    "multiplication before a sum": (lambda x: x * S + x.sigmoid(), PADDED, ["single"]),
    "one after another": (lambda x: (x + T).relu() * S, PADDED, ["single", "single"]),
    "maximum": (lambda x: torch.maximum(x, T), None, ["bound"]),
    "minimum": (lambda x: torch.minimum(T, x), None, None),
    "minimum, constant second": (lambda x: torch.minimum(x, T), None, ["bound"]),
    "lower or upper": (
        lambda x: x.clamp(MIXED, torch.where(MIXED.isinf(), T, INF)), None, ["bounds"],
    ),
    "lower and upper": (lambda x: x.clamp(T, T + H), None, ["bounds"]),
    "some channels held": (lambda x: x.clamp(T, T + H * FIXED), None, ["bounds"]),
    "lower, and some held": (lambda x: x.clamp(T, torch.where(FIXED > 0, INF, T)), None, ["bounds"]),
    "an addition, then bounds": (
        lambda x: (x + T).clamp(MIXED, torch.where(MIXED.isinf(), S, INF)), None, ["single", "bounds"],
    ),
    "through a pooling": (
        lambda x: F.avg_pool2d(F.max_pool2d(torch.maximum(x, T), 2), 2),
        nn.Conv2d(6, 4, 1, bias=False),
        ["bound"],
    ),
    "grouped": (lambda x: torch.minimum(x, T), nn.Conv2d(6, 4, 2, groups=2), ["bound"]),
    "kernel without padding": (lambda x: x.clamp(T, T + H), nn.Conv2d(6, 6, 3, 2, groups=6), ["bounds"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_written(name: str) -> None:
    step, last, expected = WRITTEN[name]
    found = chosen(between(step, last=last), 2, 3, 12, 12)
    assert found == ([] if expected is None else expected)


LEFT = {
    "bound before zero padding": (lambda x: torch.maximum(x, T), PADDED),
    "negative side before a max pooling": (lambda x: F.max_pool2d(torch.minimum(x, T), 2), None),
    "lower, upper and both": (
        lambda x: x.clamp(T, torch.where(MIXED.isinf(), T + H, INF)), None,
    ),
    "a channel without bounds": (lambda x: torch.maximum(x, MIXED), None),
    "bounds almost at one point": (lambda x: x.clamp(T, T + H * (FIXED + 1e-7)), None),
    "one number for all channels": (lambda x: x * 0.5 + 2.0, PADDED),
    "a number for every position": (lambda x: x + T * torch.arange(10.0), PADDED),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    step, last = LEFT[name]
    assert chosen(between(step, last=last), 2, 3, 12, 12) == []


def test_a_bound_with_several_readers_goes_into_all_or_none() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        y = torch.maximum(net.first(x).relu(), T)
        return net.one(y) + net.other(y), net.head(y.mean((2, 3)))

    def layers(other: nn.Module) -> dict[str, nn.Module]:
        first, head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        return {"first": first, "one": nn.Conv2d(6, 4, 1), "other": other, "head": head}

    def returned(net: Any, x: torch.Tensor) -> Any:
        y = torch.maximum(net.first(x).relu(), T)
        return net.one(y), y

    assert chosen(Net(run, **layers(nn.Conv2d(6, 4, 1, bias=False))), 2, 3, 6, 7) == ["bound"]
    assert chosen(Net(run, **layers(nn.Conv2d(6, 4, 3, padding=1))), 2, 3, 6, 7) == []
    assert chosen(Net(returned, **layers(nn.Identity())), 2, 3, 6, 7) == []


def test_two_calls_that_share_a_weight() -> None:
    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = net.first(x).relu()
        result: torch.Tensor = net.last(torch.maximum(y, T)) - net.last(y)
        return result

    assert chosen(Net(run, first=nn.Conv2d(3, 6, 1), last=nn.Conv2d(6, 4, 1)), 2, 3, 6, 7) == ["bound"]


def test_only_in_the_layout_of_convolutions() -> None:
    last = nn.Conv2d(3, 4, 1)
    assert chosen(Net(lambda net, x: net.last(x * S[:, :3] + T[:, :3]), last=last), 2, 3, 6, 7) == []
    assert chosen(between(lambda x: x.abs() * S + T), 2, 3, 12, 12) == []
    assert chosen(nn.Sequential(nn.Linear(7, 6)), 2, 3, 6, 7) == []

    def cat(channels: int) -> nn.Module:
        constant = per_channel(2 * channels)

        def run(net: Any, x: torch.Tensor) -> torch.Tensor:
            y = net.first(x)
            result: torch.Tensor = net.last(torch.cat([y.relu(), y.tanh()], 1) + constant)
            return result

        return Net(run, first=nn.Conv2d(3, channels, 1), last=nn.Conv2d(2 * channels, 2, 1))

    assert chosen(cat(16), 2, 3, 6, 7) == ["single"]
    assert chosen(cat(8), 2, 3, 6, 7) == []  # not whole blocks


@pytest.mark.parametrize(("inputs", "expected"), [(8, ["single"]), (16, ["single"]), (12, [])])
def test_a_convolution_that_fits_no_block_stays_outside(inputs: int, expected: list[str]) -> None:
    module = Net(lambda net, x: net.last(net.first(x).relu() + T), first=nn.Conv2d(inputs, 6, 1), last=PADDED)
    assert chosen(module, 1, inputs, 6, 7) == expected


def test_tflite_s_table() -> None:
    def of(step: Any, channels: int) -> list[str]:
        return chosen(between(step, channels), 1, 3, 5, 5, target=forms.TFLITE)

    few, many = per_channel(127), per_channel(128)
    assert of(lambda x: x * few + few, 127) == ["pair"]
    assert of(lambda x: x * many + many, 128) == []
    assert of(lambda x: x.clamp(few, few + 1), 127) == ["bounds"]
    for single in (lambda x: x + few, lambda x: x * few, lambda x: torch.maximum(x, few)):
        assert of(single, 127) == []
    assert chosen(between(lambda x: (x.abs() + T).mul(S)), 2, 3, 12, 12, target=forms.TFLITE) == []


def test_with_a_symbolic_batch() -> None:
    assert chosen(between(lambda x: torch.maximum(x, T)), 2, 3, 12, 12, dynamic=True) == ["bound"]


def test_volumes() -> None:
    layers = {"first": nn.Conv3d(3, 6, 1), "last": nn.Conv3d(6, 2, 1)}
    volume = Net(lambda net, x: net.last(net.first(x).relu() * S[..., None]), **layers)
    assert chosen(volume, 1, 3, 4, 5, 6) == []


def test_a_pre_activation_network_has_no_elementwise_constant_left_in_onnx() -> None:
    def block(padding: int) -> list[nn.Module]:
        conv = nn.Conv2d(16, 16, 2 * padding + 1, padding=padding)
        return [nn.Hardswish(), nn.BatchNorm2d(16), nn.ReLU(), conv]

    net = nn.Sequential(nn.Conv2d(3, 16, 3), *block(1), *block(0)).eval()
    generator = torch.Generator().manual_seed(1)
    for child in net.modules():
        if isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None
            child.running_mean.normal_(generator=generator)
            child.weight.data.normal_(generator=generator)  # both signs
            child.bias.data.normal_(generator=generator)
    x = draw(1, 3, 9, 9)
    result = fold(net, (x,))
    assert [entry.status for entry in result.report.batch_norms] == ["reduced", "folded"]
    made = result.module
    graph = onnx.load_from_string(onnx_target.export(made.body, made.inputs, made.outputs, (x,)).data).graph
    operators = [node.op_type for node in graph.node]
    assert not {"Add", "Mul", "Max", "Min", "BatchNormalization"} & set(operators)
    assert operators.count("Conv") == 5
