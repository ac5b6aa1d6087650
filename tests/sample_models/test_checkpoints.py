"""The committed checkpoints: what their READMEs claim of them, and every BatchNorm folded."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

import bnfold
from bnfold.capture import capture
from bnfold.fold import FoldResult, fold
from tests.sample_models.material import ROOT, Digits

# Right answers on the 1,000 frames, and BatchNorms. The closest call among the frames has a margin of 5e-4
# between the two best logits, a hundred times float32's error, so the counts hold on every machine.
MODELS = {
    "plain": ("mnist_mlp", 913, 0),
    "after": ("mnist_mlp", 967, 3),
    "before": ("mnist_mlp", 963, 3),
    "mobilenet": ("mnist_mobilenet", 994, 19),
}
EXAMPLE = (torch.zeros(1, 1, 28, 28),)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def checkpoint(name: str) -> Path:
    return ROOT / MODELS[name][0] / f"{name}.safetensors"


def load(name: str) -> nn.Module:
    return bnfold.load(checkpoint(name), f"{ROOT / MODELS[name][0] / 'model.py'}:{name}")


@pytest.fixture(scope="module", params=list(MODELS))
def sample(request: pytest.FixtureRequest) -> tuple[str, nn.Module, FoldResult]:
    """A sample model as loaded, and folded."""
    torch.set_num_threads(1)
    module = load(request.param)
    return request.param, module, fold(module, EXAMPLE)


def answers(module: nn.Module, digits: Digits) -> list[int]:
    """Top-1 of each frame, one frame at a time as on a device."""
    pixels = torch.from_numpy(digits[0][:, None].astype(np.float32) / 255)
    with torch.no_grad():
        return [int(module(frame).argmax()) for frame in pixels.split(1)]


def operators(body: nn.Module) -> Counter[str]:
    """How often each operator is called."""
    assert isinstance(body, fx.GraphModule)
    return Counter(str(node.target) for node in body.graph.nodes if node.op == "call_function")


def test_the_answers_are_right_and_the_same_after_folding(
    sample: tuple[str, nn.Module, FoldResult], digits: Digits
) -> None:
    name, module, result = sample
    before = answers(module, digits)
    assert int((np.array(before) == digits[1]).sum()) == MODELS[name][1]
    assert answers(result.module, digits) == before


def test_every_batch_norm_is_folded(sample: tuple[str, nn.Module, FoldResult]) -> None:
    name, module, result = sample
    expected = [path for path, part in module.named_modules() if isinstance(part, NORMS)]
    assert len(expected) == MODELS[name][2]
    assert [(entry.name, entry.status, entry.reason) for entry in result.report.batch_norms] == [
        (path, "folded", None) for path in expected
    ]
    assert result.report.findings == []


def test_the_graph_is_that_of_the_network_without_batch_norms(
    sample: tuple[str, nn.Module, FoldResult],
) -> None:
    """Counted against a network whose BatchNorms were taken out by hand, not by the engine."""
    name, _, result = sample
    bare = load(name)
    for path, part in list(bare.named_modules()):
        if isinstance(part, NORMS):
            bare.set_submodule(path, nn.Identity())
    assert not [operator for operator in operators(result.module.body) if "batch_norm" in operator]
    assert operators(result.module.body) == operators(capture(bare, EXAMPLE).body)


def test_the_certificates_hold(sample: tuple[str, nn.Module, FoldResult]) -> None:
    report = sample[2].report
    for entry in report.batch_norms:
        assert entry.max_rel_error is not None
        assert entry.max_rel_error <= 1e-12
    assert report.max_rel_error is not None
    assert report.max_rel_error <= 1e-10


def test_after_the_sigmoid_the_next_layer_takes_it() -> None:
    """A sigmoid lets no scale through: forward is the only way, into the classifier too."""
    entries = fold(load("after"), EXAMPLE).report.batch_norms
    assert [(entry.name, entry.rules, entry.into) for entry in entries] == [
        ("hidden.3", ["linear-forward"], ["hidden.4"]),
        ("hidden.6", ["linear-forward"], ["hidden.7"]),
        ("hidden.9", ["linear-forward"], ["classifier"]),
    ]


@pytest.mark.parametrize("name", list(MODELS))
def test_the_readme_tells_the_measured_results(name: str) -> None:
    """Its table: | `name` | ... | right of 10,000 | right of 1,000 |."""
    readme = (ROOT / MODELS[name][0] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
    cells = re.findall(r"[\d,]+(?= \|)", row)[-2:]
    of_ten_thousand, of_thousand = (int(cell.replace(",", "")) for cell in cells)
    assert of_thousand == MODELS[name][1]
    curves = ROOT / MODELS[name][0] / "curves.json"
    if curves.exists():
        step, share = json.loads(curves.read_text(encoding="utf-8"))[name][-1]
        assert (step, share) == (50_000, of_ten_thousand / 10_000)
    else:
        assert of_ten_thousand >= 9_900


def test_the_mobilenet_is_small() -> None:
    assert checkpoint("mobilenet").stat().st_size < 1_000_000
