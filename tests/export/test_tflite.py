"""TFLite files: values in ai-edge-litert, names, and refusals."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnfold.errors import ExportError, InternalError
from bnfold.export import Exported, source
from bnfold.export import tflite as target
from bnfold.export.tflite_inspect import Description, Operator, describe, unknown_operators
from bnfold.fold import fold
from bnfold.numerics import max_rel_error
from tests.export.bodies import Body, Net, Net2, body_of, draw, feeds, run_tflite, set_weights

FLOAT32 = 2e-6


def check(body: Body) -> Exported:
    exported = target.export(*body.arguments)
    actual = run_tflite(exported, feeds(body))
    for name, expected in body.expected.items():
        assert actual[name].dtype == expected.dtype
        assert max_rel_error(actual[name], expected) <= FLOAT32, name
    assert unknown_operators(describe(exported.data).operators) == []
    return exported


def test_transposed_convolutions() -> None:
    def run(net: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        return {
            "padded": net.padded(x), "grouped": net.grouped(x), "dilated": net.dilated(x),
            "native": net.native(x), "line": net.line(x.flatten(2)), "cube": net.cube(y),
        }  # fmt: skip

    check(
        body_of(
            Net2(
                run,
                padded=nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1),
                grouped=nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2),
                dilated=nn.ConvTranspose2d(4, 2, 2, 2, dilation=2),
                native=nn.ConvTranspose2d(4, 3, (3, 2), (1, 2), (1, 0)),
                line=nn.ConvTranspose1d(4, 4, 3, 2, 1, output_padding=1, groups=4),
                cube=nn.ConvTranspose3d(2, 4, 3, 2, 1, output_padding=1, groups=2),
            ),
            draw(1, 4, 5, 6),
            draw(1, 2, 3, 4, 5),
        )
    )


def test_repetitions_between_layers() -> None:
    """The converter orders a convolution's axes anew, and would repeat others than were meant."""

    def run(net: Any, x: torch.Tensor) -> Any:
        y = net.first(x)
        mean = y.mean((2, 3), keepdim=True)
        return {
            "wider": net.second(y.repeat(1, 1, 2, 3)), "tiled": net.second(torch.tile(y, (2, 1))),
            "spread": net.second(mean.repeat(1, 1, 4, 5)), "deeper": net.deeper(y.repeat(1, 2, 1, 1)),
        }  # fmt: skip

    first, second, deeper = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 3, 1)
    check(body_of(Net(run, first=first, second=second, deeper=deeper), draw(1, 4, 4, 4)))


def test_expansions_between_layers() -> None:
    """As squeeze-and-excitation writes them; equal sizes, where an axis in the wrong place goes unnoticed."""

    def run(net: Any, x: torch.Tensor) -> Any:
        y = net.first(x)
        mean, rows = y.mean((2, 3), keepdim=True), y.mean(3, keepdim=True)
        return {
            "gate": net.second(y * mean.sigmoid().expand_as(y)), "sum": net.second(y + rows.expand_as(y)),
            "less": net.second(rows.expand_as(y) - y), "over": net.second(y / (2 + rows.abs().expand_as(y))),
            "joined": net.deeper(torch.cat([y, mean.expand_as(y)], 1)),
            "rows": net.deeper(torch.cat([rows.expand_as(y), y.mean(2, keepdim=True).expand_as(y)], 1)),
            "channels": net.second(y.mean(1, keepdim=True).expand_as(y)),
            "outer": net.second(rows.expand_as(y) * y.mean(2, keepdim=True).expand_as(y)),
            "places": net.deeper(torch.cat([y, net.places.expand_as(y)], 1)), "last": mean.expand_as(y),
        }  # fmt: skip

    first, second, deeper = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 3, 1)
    net = Net(run, first=first, second=second, deeper=deeper)
    net.places = nn.Parameter(draw(1, 4, 1, 4, seed=8))
    exported = check(body_of(net, draw(1, 4, 4, 4)))
    assert "BROADCAST_TO" not in {operator.name for operator in describe(exported.data).operators}


def test_volumes_and_poolings() -> None:
    def run(net: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        return {
            "grouped": net.grouped(x), "max": F.max_pool3d(x, 3, 2, 1), "mean": F.avg_pool3d(x, 2, 2, 1),
            "adaptive": F.adaptive_max_pool2d(y, (3, 4)), "dilated": F.max_pool2d(y, 2, 1, dilation=2),
            "uncounted": F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
            "nearest": F.interpolate(y, size=(9, 10)),
        }  # fmt: skip

    net = Net2(run, grouped=nn.Conv3d(4, 6, 3, padding=1, groups=2))
    check(body_of(net, draw(1, 4, 5, 6, 7), draw(1, 3, 7, 9)))


def test_equal_shapes_are_told_apart_by_name() -> None:
    def run(_: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
        late = x - 2 * y
        return {"b": late * y, "a": [y, late], "x": x / 3}

    exported = check(body_of(Net2(run), draw(1, 4), draw(1, 4, seed=6)))
    assert set(exported.inputs) == {"x", "y"}
    assert set(exported.outputs) == {"b", "a.0", "a.1", "x"}
    description = describe(exported.data)
    assert set(exported.inputs.values()) == set(description.inputs)
    assert set(exported.outputs.values()) == set(description.outputs)


def test_swapped_outputs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = target._names

    def swapped(*arguments: Any) -> tuple[dict[str, str], dict[str, str]]:
        inputs, outputs = right(*arguments)
        return inputs, dict(zip(outputs, reversed(outputs.values()), strict=True))

    monkeypatch.setattr(target, "_names", swapped)
    with pytest.raises(ExportError, match="BNF-E008"):
        target.export(*body_of(Net(lambda _, x: (x + 1, x * 2)), draw(1, 4)).arguments)


def test_64_bit_tensors_keep_their_type() -> None:
    def run(net: Any, x: torch.Tensor) -> Any:
        scores = net.table(x).sum(1)
        return {"scores": scores, "best": scores.argmax(1)}

    exported = check(body_of(Net(run, table=nn.Embedding(11, 5)), torch.tensor([[3, 1, 7]])))
    assert run_tflite(exported, {"x": torch.tensor([[3, 1, 7]]).numpy()})["best"].dtype == "int64"


def test_the_body_is_untouched_and_a_deep_copy_gives_the_same_file() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 3, 2, 1))
    module = fold(set_weights(net), (draw(1, 3, 5, 6),)).module
    code, state = module.body.code, copy.deepcopy(module.body.state_dict())
    exported = target.export(module.body, module.inputs, module.outputs, (draw(1, 3, 5, 6),))
    assert module.body.code == code
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.body.state_dict().items())
    again = target.export(copy.deepcopy(module.body), module.inputs, module.outputs, (draw(1, 3, 5, 6),))
    assert again.data == exported.data
    for trace in (b".py", b"site-packages", b"/home", b"/tmp", b"/root"):
        assert trace not in exported.data


def test_generators_of_random_numbers_are_left_alone() -> None:
    body = body_of(nn.Linear(3, 4), draw(1, 3))
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    target.export(*body.arguments)
    assert torch.equal(torch.rand(3), expected)


def test_runs_on() -> None:
    runs_on = check(body_of(nn.Linear(3, 4), draw(1, 3))).runs_on
    assert [(entry["runtime"], entry["basis"]) for entry in runs_on] == [
        ("ai-edge-litert", "ran"),
        ("tflite-runtime", "operator table"),
    ]
    assert runs_on[1]["version"] == "2.14.0"


def test_a_symbolic_batch_is_refused() -> None:
    body = body_of(nn.Linear(3, 4), draw(1, 3))
    symbolic = (body.inputs[0]._replace(shape=(None, 3)),)
    with pytest.raises(ExportError, match=r"BNF-E003.*input: float32 \(batch, 3\)"):
        target.export(body.body, symbolic, body.outputs, body.example)


def test_more_than_2_gb_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(nn.Linear(3, 4), draw(1, 3))
    monkeypatch.setattr(source, "SIZE_LIMIT", 63)
    monkeypatch.setattr(target, "private_copy", None)
    with pytest.raises(ExportError, match=r"BNF-E002.*64 bytes"):
        target.export(*body.arguments)


def test_a_batch_norm_in_the_graph_is_an_internal_error() -> None:
    body = body_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), draw(1, 3, 5, 6))
    with pytest.raises(InternalError, match="BNF-X042"):
        target.export(*body.arguments)


def test_an_operator_that_tflite_runtime_lacks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def newer(data: bytes) -> Description:
        return replace(describe(data), operators=(Operator(9, "FULLY_CONNECTED", 14),))

    monkeypatch.setattr(target, "describe", newer)
    with pytest.raises(ExportError, match=r"BNF-E013.*tflite-runtime 2\.14\.0 lacks FULLY_CONNECTED v14"):
        target.export(*body_of(nn.Linear(3, 4), draw(1, 3)).arguments)
