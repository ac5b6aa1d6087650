"""verify and compare: torch against torch, torch against artifacts, artifacts against each other."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold import graph as g
from bnfold import manifest
from bnfold.errors import UsageError, VerifyError
from bnfold.fold import FoldResult, fold
from bnfold.numerics import float32_ulps
from bnfold.runtime import interpreters
from bnfold.verify import Comparison, compare, load_metric
from tests.verify.networks import CLASSES, SHAPE, Small, SubtractsBatchMean, answers, built, frames


def folded() -> FoldResult:
    return fold(built(Small), (torch.zeros(SHAPE),))


def codes(comparison: Comparison) -> list[str]:
    return [found.code for found in comparison.findings]


# --- the noise floor and the tolerance -------------------------------------------------------------------


def test_noise_floor_is_what_float32_costs_the_original() -> None:
    module, inputs = built(Small), frames()
    double = built(Small).double()
    with torch.no_grad():
        exact = [double(torch.tensor(one[None]).double()).numpy() for one in inputs]
        rounded = [module(torch.tensor(one[None])).numpy() for one in inputs]
    floor = max(float(np.abs(r.astype(np.float64) - e).max()) for r, e in zip(rounded, exact, strict=True))
    largest = max(float(np.abs(e).max()) for e in exact)

    [result] = bnfold.verify(module, folded(), inputs)

    assert floor > 0
    assert result.noise_floor == pytest.approx(floor, rel=1e-9)
    assert result.tolerance == pytest.approx(max(8 * floor, float32_ulps(largest, 4)), rel=1e-9)
    assert result.max_abs_error <= result.tolerance
    assert (result.candidate, result.output, result.frames, result.passed) == ("fold", "output", 20, True)


def test_few_frames_are_filled_up_to_sixteen_and_it_is_said() -> None:
    comparison = compare(built(Small), folded(), frames(3))
    assert [result.frames for result in comparison.parity] == [16]
    assert [(f.code, f.evidence) for f in comparison.findings] == [("BNF-V009", {"given": 3, "random": 13})]
    assert comparison.findings[0].message == "3 sample frames are few; 13 seeded random ones were added"
    one = compare(built(Small), folded(), frames(1)).findings[0]
    assert one.message == "1 sample frame is few; 15 seeded random ones were added"


def test_the_callers_module_keeps_its_mode_and_its_statistics() -> None:
    module = built(Small).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert all(result.passed for result in bnfold.verify(module, folded(), frames()))
    assert module.training
    assert module.bn1.training  # type: ignore[union-attr]
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


# --- what must be found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc"])
def test_a_wrong_weight_fails_and_its_layer_is_named(layer: str) -> None:
    result = folded()
    body = result.module.body
    [name] = [
        str(node.args[1].target)  # type: ignore[union-attr]
        for node in body.graph.nodes
        if node.op == "call_function"
        and g.layer_name(node) == layer
        and len(node.args) > 1
        and isinstance(node.args[1], torch.fx.Node)
        and node.args[1].op == "get_attr"
        and g.value(node.args[1]).ndim > 1
    ]
    g.fetch(body, name).mul_(1.01)
    comparison = compare(built(Small), result, frames())
    assert not comparison.passed
    first = comparison.findings[0]
    assert (first.code, first.severity) == ("BNF-V001", "error")
    assert first.where == layer
    assert first.evidence["max_abs_error"] > first.evidence["tolerance"]


def test_an_error_just_beyond_rounding_is_found() -> None:
    """A layer wrong by 1e-4: within the fixed tolerance of 1e-2 that is in use elsewhere."""
    result = folded()
    name = next(n for n, value in result.module.body.named_buffers() if value.ndim == 4)
    with torch.no_grad():
        g.fetch(result.module.body, name).mul_(1 + 1e-4)
    [parity] = bnfold.verify(built(Small), result, frames())
    assert not parity.passed
    assert parity.max_abs_error < 1e-2


def test_a_dependence_on_the_batch_is_an_error() -> None:
    module = built(SubtractsBatchMean)
    comparison = compare(module, fold(module, (torch.zeros(1, 4),)), frames(16, (1, 4)))
    assert all(result.passed for result in comparison.parity)
    assert not comparison.passed
    [found] = [found for found in comparison.findings if found.severity == "error"]
    assert (found.code, found.where) == ("BNF-A015", "output")
    assert found.evidence["distance"] > 0.1


def test_a_network_without_that_dependence_is_not_accused() -> None:
    assert codes(compare(built(Small), folded(), frames())) == []


def test_outputs_that_are_not_finite_are_never_equal() -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x.clamp(min=0))

    module = Logarithm()
    inputs = np.zeros((16, 4), np.float32)
    comparison = compare(module, fold(module, (torch.ones(1, 4),)), inputs)
    assert not comparison.passed
    assert codes(comparison) == ["BNF-V002"]
    [row] = comparison.to_json()["parity"]
    assert (row["passed"], row["tolerance"], row["max_abs_error"]) == (False, None, None)
    json.dumps(comparison.to_json(), allow_nan=False)


def test_a_captured_graph_that_is_not_the_module_is_found() -> None:
    class Hides(nn.Module):
        """Branches on values where the export does not look, and not on the example."""

        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_exporting() and bool(x.abs().max() > 1):
                return x * 2
            return x + 0

    module, inputs = Hides(), frames(16, (1, 4))
    inputs[0] = 1  # the example of the comparison, on which capture sees nothing wrong either
    comparison = compare(module, fold(module, (torch.ones(1, 4),)), inputs)
    assert "BNF-V004" in codes(comparison)
    assert not comparison.passed


def test_integer_outputs_must_be_equal() -> None:
    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Small()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).argmax(1)

    module = built(Answer)
    result = fold(module, (torch.zeros(SHAPE),))
    [parity] = bnfold.verify(module, result, frames())
    assert (parity.max_abs_error, parity.tolerance, parity.passed) == (0.0, 0.0, True)
    with torch.no_grad():
        changed = module(torch.tensor(frames())) != built(Answer, seed=5)(torch.tensor(frames()))
    comparison = compare(module, fold(built(Answer, seed=5), (torch.zeros(SHAPE),)), frames())
    [parity] = comparison.parity
    assert changed.any()
    assert parity.max_abs_error == 1.0  # one element per frame: some frame has it wrong
    assert not parity.passed
    [found] = [one for one in comparison.findings if one.code == "BNF-V001"]
    assert "in up to 100.00% of the elements of output 'output'" in found.message
    assert "rounding explains 0.00%" in found.message


# --- accuracy --------------------------------------------------------------------------------------------


def test_top_1_before_and_after() -> None:
    module = built(Small)
    inputs = frames(20)
    labels = answers(module, inputs)
    labels[:3] = (labels[:3] + 1) % CLASSES
    comparison = compare(module, folded(), {"x": inputs, "labels": labels})
    assert comparison.accuracy is not None
    document = comparison.accuracy.to_json()
    assert (document["metric"], document["output"], document["frames"]) == ("top-1", "output", 20)
    assert (document["before"]["correct"], document["before"]["value"]) == (17, 17 / 20)
    [after] = document["after"]
    assert (after["candidate"], after["correct"], after["changed"]) == ("fold", 17, 0)


def test_answers_that_change_are_counted() -> None:
    module, other = built(Small), fold(built(Small, seed=5), (torch.zeros(SHAPE),))
    inputs = frames(20)
    before, after = answers(module, inputs), answers(built(Small, seed=5), inputs)
    assert (before != after).any()
    comparison = compare(module, other, {"x": inputs, "labels": before})
    assert comparison.accuracy is not None
    [score] = comparison.accuracy.after
    assert score.changed == int((before != after).sum())
    assert score.correct == int((before == after).sum())


METRIC = """
import numpy as np

def mean_of_scores(outputs, labels):
    assert outputs["output"].shape == (20, 5)
    return float(outputs["output"].mean() + labels.sum())

def breaks(outputs, labels):
    raise RuntimeError("no such thing")
"""


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(METRIC)
    metric = load_metric(f"{tmp_path / 'metric.py'}:mean_of_scores")
    module, inputs = built(Small), frames(20)
    labels = np.arange(20) % CLASSES
    comparison = compare(module, folded(), {"x": inputs, "labels": labels}, metric=metric)
    assert comparison.accuracy is not None
    with torch.no_grad():
        expected = float(module(torch.tensor(inputs)).mean()) + int(labels.sum())
    assert comparison.accuracy.metric == "mean_of_scores"
    assert comparison.accuracy.before.value == pytest.approx(expected, rel=1e-5)
    assert comparison.accuracy.after[0].value == pytest.approx(expected, rel=1e-5)


def test_a_metric_that_fails_is_a_coded_error(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(METRIC)
    metric = load_metric(f"{tmp_path / 'metric.py'}:breaks")
    with pytest.raises(VerifyError, match="no such thing") as caught:
        compare(built(Small), folded(), {"x": frames(20), "labels": np.zeros(20, np.int64)}, metric=metric)
    assert caught.value.code == "BNF-V027"


@pytest.mark.parametrize("target", ["metric.py", "nowhere.py:f", "metric.py:absent", "metric.py:9"])
def test_a_metric_that_is_not_there(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metric.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_metric(target)
    assert caught.value.code == "BNF-U110"


# --- artifacts -------------------------------------------------------------------------------------------


def test_checkpoint_against_artifact(onnx_path: Path, tflite_path: Path) -> None:
    for path, runtime in ((onnx_path, "onnxruntime"), (tflite_path, "ai-edge-litert")):
        [result] = bnfold.verify(built(Small), path, frames())
        assert result.runtime.startswith(f"{runtime} ")
        assert 0 < result.noise_floor < 1e-5
        assert result.passed
        [other] = bnfold.verify(built(Small, seed=7), path, frames())
        assert other.max_abs_error > 1e-2
        assert not other.passed


def test_the_layer_is_named_inside_an_artifact_too(onnx_path: Path, tflite_path: Path) -> None:
    module = built(Small)
    with torch.no_grad():
        module.conv2.weight.mul_(1.01)  # type: ignore[union-attr,operator]
    for path in (onnx_path, tflite_path):
        comparison = compare(module, path, frames())
        assert not comparison.passed
        assert comparison.findings[0].where == "conv2"


def test_artifact_against_artifact_uses_the_recorded_floor(onnx_path: Path, tflite_path: Path) -> None:
    floor = manifest.read(onnx_path)["noise_floor"]["output"]
    assert floor > 0
    [result] = bnfold.verify(onnx_path, tflite_path, frames())
    assert result.noise_floor == floor
    assert result.tolerance >= 8 * floor
    assert (result.candidate, result.passed) == ("tflite", True)


def test_two_artifacts_of_different_networks_differ(onnx_path: Path, tmp_path: Path) -> None:
    other = bnfold.convert(
        built(Small, seed=7), (torch.zeros(SHAPE),), output=tmp_path, name="other", samples=frames()
    )
    [result] = bnfold.verify(onnx_path, other.artifacts[0].path, frames())
    assert not result.passed
    assert result.max_abs_error > 1e-2


def test_a_copy_under_another_name_is_the_same_artifact(onnx_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.bin"
    shutil.copy(onnx_path, copy)
    [result] = bnfold.verify(onnx_path, copy, frames())
    assert result.max_abs_error == 0.0


def test_every_interpreter_at_hand_is_checked(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = interpreters.Interpreter("onnxruntime-again", "onnx", "onnxruntime", "edge-onnx")
    monkeypatch.setattr(interpreters, "ALL", (*interpreters.ALL, again))
    results = bnfold.verify(built(Small), onnx_path, frames())
    assert [result.runtime.split()[0] for result in results] == ["onnxruntime", "onnxruntime-again"]
    assert all(result.passed for result in results)


def test_a_lying_interpreter_fails_though_another_is_right(
    onnx_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = interpreters.Interpreter("onnxruntime-again", "onnx", "onnxruntime", "edge-onnx")
    monkeypatch.setattr(interpreters, "ALL", (*interpreters.ALL, again))
    start = interpreters.start

    def lying(*args: object, **kwargs: object) -> object:
        interpreter, session = start(*args, **kwargs)  # type: ignore[arg-type]
        if interpreter.name == "onnxruntime-again":
            run = session.run
            session.run = lambda arrays: {name: array * 1.001 for name, array in run(arrays).items()}  # type: ignore[method-assign]
        return interpreter, session

    monkeypatch.setattr(interpreters, "start", lying)
    comparison = compare(built(Small), onnx_path, frames())
    assert [result.passed for result in comparison.parity] == [True, False]
    assert not comparison.passed


# --- what cannot be compared -----------------------------------------------------------------------------


def test_what_is_no_side_of_a_comparison() -> None:
    with pytest.raises(VerifyError) as caught:
        bnfold.verify(built(Small), 3, frames())
    assert caught.value.code == "BNF-V031"


def test_networks_with_other_inputs(onnx_path: Path) -> None:
    module = built(SubtractsBatchMean)

    class Other(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return y

    with pytest.raises(VerifyError) as caught:
        bnfold.verify(fold(Other(), (torch.zeros(1, 4),)), fold(module, (torch.zeros(1, 4),)), frames())
    assert caught.value.code == "BNF-V034"


def test_an_output_of_another_shape_is_said_so() -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    comparison = compare(built(Small), fold(Wide(), (torch.zeros(SHAPE),)), frames())
    assert comparison.parity[0].max_abs_error == math.inf
    assert "its shape is (1, 3); the reference's is (1, 5)" in comparison.findings[0].message


@pytest.mark.parametrize(
    ("stored", "own"), [("float16", "float32"), ("float64", "float32"), ("float32", "float16")]
)
def test_floats_are_guessed_in_the_precision_of_the_network(stored: str, own: str) -> None:
    from bnfold.verify.guess import guess

    module = torch.nn.Linear(3, 2).to(getattr(torch, own))
    (spec,) = guess(module, np.zeros((4, 3), dtype=stored)).inputs
    assert (spec.shape, spec.dtype) == ((1, 3), own)
