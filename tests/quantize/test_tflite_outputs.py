"""int8 TFLite: an output that the network goes on from is the float output still."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnfold.errors import ExportError
from bnfold.export import Exported
from bnfold.export import tflite as tflite_target
from bnfold.quantize import int8_tflite, ranges, tail, tflite_file, tflite_outputs
from bnfold.quantize.inside import steps
from tests.export.bodies import Net, body_of, draw, run_tflite

FRAMES = [draw(1, 3, 8, 8, seed=seed).numpy() for seed in range(24)]


def features(m: Any, x: Tensor) -> Tensor:
    return torch.relu(m.second(torch.relu(m.first(x))))


def best(m: Any, x: Tensor) -> dict[str, Tensor]:
    y = m.pixel(features(m, x))
    return {"y": y, "more": y.argmax(3)}


def mask(m: Any, x: Tensor) -> dict[str, Tensor]:
    y = torch.sigmoid(m.pixel(features(m, x)))
    return {"y": y, "more": y > 0.5}


def inner(m: Any, x: Tensor) -> dict[str, Tensor]:
    y = features(m, x)
    return {"more": m.head(y.mean((2, 3))), "y": y}


def twice(m: Any, x: Tensor) -> dict[str, Tensor]:
    y = m.head(features(m, x).mean((2, 3)))
    return {"y": y, "more": torch.relu(y), "again": y * 1.0}


def moved(m: Any, x: Tensor) -> dict[str, Tensor]:
    y = m.pixel(features(m, x))
    return {"y": y, "more": y.flatten(1), "again": torch.max_pool2d(y, 2), "part": y[:, 1:3]}


@functools.cache
def quantised(forward: Any, *, floating: bool) -> tuple[Exported, Exported]:
    """The file in float32 and in int8; ``floating``: y and what leads to it stay in floating point."""
    net = Net(
        forward, first=nn.Conv2d(3, 6, 3), second=nn.Conv2d(6, 6, 3), pixel=nn.Conv2d(6, 4, 1),
        head=nn.Linear(6, 5),
    )  # fmt: skip
    exported = tflite_target.export(*body_of(net, draw(1, 3, 8, 8)).arguments)
    limits = ranges.of_frames("tflite", exported.data, [{exported.inputs["x"]: frame} for frame in FRAMES])
    tensor = tflite_target.describe(exported.data).outputs[exported.outputs["y"]]
    left = tail.floating(steps("tflite", exported.data), tensor) if floating else []
    return exported, replace(exported, data=int8_tflite.lower(exported.data, limits, floating=left).data)


def over_frames(exported: Exported) -> dict[str, np.ndarray]:
    calls = [run_tflite(exported, {"x": frame}) for frame in FRAMES]
    return {name: np.concatenate([call[name] for call in calls]) for name in exported.outputs}


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("forward", [best, mask, inner, twice, moved])
def test_an_output_that_is_read_inside(forward: Any, floating: bool) -> None:
    exact, answers = (over_frames(one) for one in quantised(forward, floating=floating))
    assert {name: value.dtype for name, value in answers.items()} == {
        name: value.dtype for name, value in exact.items()
    }
    for name, value in answers.items():
        if value.dtype == np.float32:
            error = np.abs(value - exact[name]).max() / np.ptp(exact[name])
            assert error < 0.04, (name, error)
            assert np.ptp(value) > 0
    assert np.abs(answers["y"] - exact["y"]).max() > 0  # it is int8 that was looked at
    # what is made of an output in the file is made of what the file gives out
    if forward is best:
        np.testing.assert_array_equal(answers["more"], answers["y"].argmax(3))
        assert len(np.unique(answers["more"])) > 1
    if forward is moved and not floating:  # else y has not been through eight bits
        np.testing.assert_array_equal(answers["more"], answers["y"].reshape(len(FRAMES), -1))
        np.testing.assert_array_equal(answers["part"], answers["y"][:, 1:3])
        pooled = torch.max_pool2d(torch.from_numpy(answers["y"]), 2).numpy()
        np.testing.assert_array_equal(answers["again"], pooled)
    if forward is mask:
        np.testing.assert_array_equal(answers["more"], answers["y"] > 0.5)
        assert 0 < answers["more"].mean() < 1


def test_the_graph_and_the_signature_name_the_same_floating_tensors() -> None:
    for floating in (False, True):
        graph = tflite_file.read(quantised(inner, floating=floating)[1].data)
        (signature,) = graph.signatureDefs
        listed = [int(index) for index in graph.subgraphs[0].outputs]
        assert sorted(listed) == sorted(int(entry.tensorIndex) for entry in signature.outputs)
        assert {int(graph.subgraphs[0].tensors[index].type) for index in listed} == {0}  # FLOAT32


def test_an_output_that_is_gone_is_refused_by_name() -> None:
    exported, low = quantised(best, floating=False)
    model, before = tflite_file.read(low.data), tflite_file.read(exported.data)
    names = tflite_file.operator_names(model)
    graph = model.subgraphs[0]
    graph.operators = [one for one in graph.operators if names[one.opcodeIndex] != "DEQUANTIZE"]
    with pytest.raises(ExportError, match="nothing in the file that is the output serving") as caught:
        tflite_outputs.restore(model, before)
    assert caught.value.code == "BNF-E052"
    assert "--to onnx" in str(caught.value.fix)
