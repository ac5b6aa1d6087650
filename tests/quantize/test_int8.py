"""int8: the arithmetic is 8-bit, the borders are float32, ranges come from the frames, both formats alike."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnfold.errors import ExportError
from bnfold.export import Exported
from bnfold.export import onnx as onnx_target
from bnfold.export import tflite as tflite_target
from bnfold.quantize import Lowered, int8_onnx, int8_tflite, ranges, tflite_file
from tests.export.bodies import Body, body_of, draw, run_onnx, run_tflite


class Padded(nn.Module):
    """Convolution, padded max pooling (its padding is -infinity), a residual sum, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.first(x))  # no relu: the largest value of a window may be negative
        x = x + torch.relu(self.second(x))
        return self.head(x.mean((2, 3)))


class Volume(nn.Module):
    """A 3-D convolution, for which TFLite has no integer form, before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3, 4)))


LAYERS = {
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), 0, (1, 3, 8, 8)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), 0, (1, 6, 8, 8)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, 2), 1, (1, 4, 5, 6)),
    "linear": (nn.Linear(7, 5), 0, (1, 7)),
}


def frames(shape: tuple[int, ...], count: int = 24) -> list[np.ndarray]:
    return [draw(*shape, seed=seed).numpy() for seed in range(count)]


def is_weight(low: Lowered, tensor: Any) -> bool:
    constant = tflite_file.is_constant(tflite_file.read(low.data), tensor)
    return constant and len(tflite_file.shape(tensor)) > 1


def lowered(target: str, body: Body) -> tuple[Exported, Lowered]:
    exporter = onnx_target if target == "onnx" else tflite_target
    exported = exporter.export(*body.arguments)
    (name,) = exported.inputs.values()
    calls = [{name: frame} for frame in frames(body.inputs[0].shape)]  # type: ignore[arg-type]
    limits = ranges.of_frames(target, exported.data, calls)
    lower = int8_onnx.lower if target == "onnx" else int8_tflite.lower
    return exported, lower(exported.data, limits)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-6, 1e-3])
@pytest.mark.parametrize("kind", LAYERS)
def test_channels_that_answer_a_constant_keep_it(kind: str, size: float, target: str) -> None:
    """As behind a gamma of nearly 0: in steps of input and weight, the constant takes more than 32 bits."""
    layer, axis, shape = LAYERS[kind]

    def change(module: nn.Module) -> None:
        weight = module.weight.data.transpose(0, axis)  # a view, the channels first
        weight[1:3] *= size
        module.bias.data[1:3] = torch.tensor([0.5, -0.4])

    exported, low = lowered(target, body_of(copy.deepcopy(layer), draw(*shape), change=change))
    run = run_onnx if target == "onnx" else run_tflite
    x = {next(iter(exported.inputs)): draw(*shape, seed=3).numpy()}
    exact, answer = (run(one, x)["output"][0] for one in (exported, replace(exported, data=low.data)))
    assert np.ptp(exact[1:3].reshape(2, -1), axis=1).max() < 0.01  # they are constants
    error = np.abs(answer - exact).max() / np.ptp(exact)
    assert error < 0.03


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def made(request: pytest.FixtureRequest) -> tuple[str, Body, Exported, Lowered]:
    body = body_of(Padded(), draw(1, 3, 12, 12))
    return request.param, body, *lowered(request.param, body)


def test_the_answers_are_those_of_float32_to_a_few_steps(made: tuple[str, Body, Exported, Lowered]) -> None:
    target, _, exported, low = made
    run = run_onnx if target == "onnx" else run_tflite
    pairs = [
        (run(exported, {"x": frame})["output"], run(replace(exported, data=low.data), {"x": frame})["output"])
        for frame in frames((1, 3, 12, 12))
    ]
    exact, answers = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert answers.dtype == np.float32
    error = np.abs(answers - exact).max() / np.ptp(exact)
    assert 1e-4 < error < 0.04  # eight bits cost something, and not much


def test_weights_and_activations_are_integers_in_the_file(made: tuple[str, Body, Exported, Lowered]) -> None:
    target, _, _, low = made
    if target == "onnx":
        graph = onnx.load_from_string(low.data).graph
        stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        assert not any(value.dtype == np.float32 and value.ndim > 1 for value in stored.values())
        weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim > 1]
        assert len(weights) == 3
        assert max(np.abs(weight.astype(int)).max() for weight in weights) == 64  # 7 bits: see the module
        assert Counter(node.op_type for node in graph.node)["QuantizeLinear"] >= 5
    else:
        graph = tflite_file.read(low.data).subgraphs[0]
        kinds = Counter(int(tensor.type) for tensor in graph.tensors)
        assert kinds[0] == 2  # FLOAT32: the input and the output
        assert kinds[9] >= 8  # INT8
        assert kinds[2] >= 3  # INT32: the biases
        weights = [tensor for tensor in graph.tensors if int(tensor.type) == 9 and is_weight(low, tensor)]
        scales = sorted(len(tensor.quantization.scale) for tensor in weights)
        assert scales == [5, 8, 8]  # one per channel


def test_a_range_is_the_frames_own_and_no_infinity(made: tuple[str, Body, Exported, Lowered]) -> None:
    target, _, exported, _ = made
    (name,) = exported.inputs.values()
    calls = [{name: frame} for frame in frames((1, 3, 12, 12))]
    limits = ranges.of_frames(target, exported.data, calls)
    assert all(np.isfinite(limit).all() for limit in limits.values())
    given = np.concatenate(frames((1, 3, 12, 12)))
    assert (float(given.min()), float(given.max())) in limits.values()


def test_the_same_ranges_give_the_same_bytes(made: tuple[str, Body, Exported, Lowered]) -> None:
    target, body, _, low = made
    assert lowered(target, body)[1].data == low.data


def test_what_has_no_integer_form_stays_floating_and_is_named() -> None:
    body = body_of(Volume(), draw(1, 1, 6, 8, 8))
    exported, low = lowered("tflite", body)
    (found,) = low.findings
    assert (found.code, found.severity, found.evidence["operators"]) == ("BNF-E054", "info", ["CONV_3D"])
    frame = frames((1, 1, 6, 8, 8))[3]
    exact = run_tflite(exported, {"x": frame})["output"]
    answer = run_tflite(replace(exported, data=low.data), {"x": frame})["output"]
    assert np.abs(answer - exact).max() < 0.05 * np.abs(exact).max()
    kinds = [int(tensor.type) for tensor in tflite_file.read(low.data).subgraphs[0].tensors]
    assert 1 in kinds  # FLOAT16: the weights of the 3-D convolution


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_a_network_without_integer_kernels_is_refused(target: str) -> None:
    class Waves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x)

    with pytest.raises(ExportError) as caught:
        lowered(target, body_of(Waves(), draw(1, 6)))
    assert caught.value.code == "BNF-E053"
