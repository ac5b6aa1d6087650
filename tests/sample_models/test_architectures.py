"""What becomes of every BatchNorm of the architectures, with drawn statistics and with trained ones.

The tables are exact: a BatchNorm that folds less far than here is a regression, and one that folds further is
a line to be changed.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

import bnfold
from bnfold import modelspec
from bnfold.capture import capture
from bnfold.export import onnx as export_onnx
from bnfold.export import tflite as export_tflite
from bnfold.fold import FoldResult, fold
from bnfold.fold.site import BATCH_NORMS
from bnfold.numerics import float32_ulps, max_abs, max_abs_error
from tests.fold.networks import check_fold, draw_statistics, run_time_operators
from tests.sample_models.material import ROOT, Digits, run

FOLDER = ROOT / "architectures"
README = FOLDER / "README.md"
Factory = Callable[[], nn.Module]
ARCHITECTURES = cast(
    dict[str, tuple[Factory, tuple[int, ...]]], modelspec.resolve(f"{FOLDER / 'models.py'}:ARCHITECTURES")
)
NORMS = nn.modules.batchnorm._BatchNorm

# Folded, reduced and kept, with gammas of both signs, a zero in every BatchNorm and a variance near 0.
DEAD = {
    "vgg": (6, 0, 0),
    "inception_bn": (20, 0, 0),
    "resnet": (13, 0, 0),
    "preactivation_resnet": (6, 5, 0),
    "densenet": (21, 0, 0),
    "mobilenet_v2": (16, 0, 0),
    "efficientnet": (16, 0, 0),
    "repvgg": (12, 0, 0),
    "mobileone": (27, 0, 0),
    "convmixer": (1, 6, 0),
    "levit": (12, 0, 0),
    "unet": (12, 0, 0),
    "detector": (23, 0, 0),
    "crnn": (3, 0, 0),
    "resnet3d": (8, 0, 0),
    "sigmoid_inception": (20, 0, 0),
    "sigmoid_inception_after": (8, 12, 0),
}
# Without the zeros, where that makes a difference.
ALIVE = {
    "preactivation_resnet": (7, 4, 0),
}
# Trained: the same, and right answers of the 1,000 frames. The closest call among the frames has a margin of
# 6e-3 between the two best logits, a thousand times float32's error, so the counts hold on every machine.
TRAINED: dict[str, tuple[tuple[int, int, int], int]] = {
    "vgg": ((6, 0, 0), 991),
    "inception_bn": ((20, 0, 0), 983),
    "resnet": ((13, 0, 0), 988),
    "preactivation_resnet": ((8, 3, 0), 989),
    "densenet": ((21, 0, 0), 988),
    "mobilenet_v2": ((16, 0, 0), 980),
    "efficientnet": ((16, 0, 0), 986),
    "repvgg": ((12, 0, 0), 970),
}


def drawn(name: str, draw: str) -> nn.Module:
    """The architecture with statistics of every kind; ``dead`` puts a zero among the gammas of each."""
    torch.manual_seed(0)
    module = draw_statistics(ARCHITECTURES[name][0](), seed=3)
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, NORMS):
                assert child.running_mean is not None
                assert child.running_var is not None
                child.running_mean[2] *= 0.01
                child.running_var[2] = 1e-12
                if draw == "dead":
                    child.weight[1] = 0
    return module


def trained(name: str) -> nn.Module:
    return bnfold.load(FOLDER / f"{name}.safetensors", f"{FOLDER / 'models.py'}:{name}")


def example(name: str) -> torch.Tensor:
    return torch.randn(ARCHITECTURES[name][1], generator=torch.Generator().manual_seed(1))


@cache
def folded(name: str, draw: str) -> tuple[nn.Module, FoldResult]:
    """An architecture and its fold; ``draw`` is ``alive``, ``dead`` or ``trained``."""
    torch.set_num_threads(1)
    module = trained(name) if draw == "trained" else drawn(name, draw)
    return module, fold(module, (example(name),))


CASES = [
    *((name, "dead") for name in DEAD),
    *((name, "alive") for name in ALIVE),
    *((name, "trained") for name in TRAINED),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> tuple[str, str, nn.Module, FoldResult]:
    name, draw = request.param
    return name, draw, *folded(name, draw)


Case = tuple[str, str, nn.Module, FoldResult]


def test_the_tables_are_complete() -> None:
    assert list(DEAD) == list(ARCHITECTURES)
    assert sorted(TRAINED) == sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_every_batch_norm_is_accounted_for(case: Case) -> None:
    name, draw, module, result = case
    entries = result.report.batch_norms
    paths = [path for path, part in module.named_modules() if isinstance(part, NORMS)]
    assert sorted(entry.name for entry in entries) == sorted(paths)
    count = Counter(entry.status for entry in entries)
    expected = {"alive": ALIVE, "dead": DEAD, "trained": {n: row[0] for n, row in TRAINED.items()}}[draw]
    assert (count["folded"], count["reduced"], count["kept"], count["refused"]) == (*expected[name], 0)
    assert not [node for node in body(result).graph.nodes if node.target in BATCH_NORMS]


def test_the_certificates_and_the_operators_behind_the_statuses(case: Case) -> None:
    """Once more counted against the network whose BatchNorms were taken out by hand, not by the engine."""
    name, _, module, result = case
    check_fold(module, result, (example(name),))
    bare = copy.deepcopy(module)
    for path, part in list(bare.named_modules()):
        if isinstance(part, NORMS):
            bare.set_submodule(path, nn.Identity())
    left = sum({"reduced": 1, "kept": 2}.get(entry.status, 0) for entry in result.report.batch_norms)
    without = run_time_operators(fold(bare, (example(name),), skip=_all_rules()), folded=False)
    assert run_time_operators(result, folded=True) <= without + left


def test_float32_outputs_are_those_of_the_network(case: Case) -> None:
    """Against float64, within 8 times what float32 costs the network itself, or 4 ulp."""
    name, _, module, result = case
    shape = ARCHITECTURES[name][1]
    generator = torch.Generator().manual_seed(7)
    frames = [torch.rand(shape, generator=generator) for _ in range(16)]
    reference = copy.deepcopy(module).double()
    floor = error = largest = np.zeros(0)
    with torch.no_grad():
        for frame in frames:
            exact = tensors(reference(frame.double()))
            outputs = [tensors(net(frame)) for net in (module, result.module)]
            mine, ours = (np.array([_error(a, e) for a, e in zip(o, exact, strict=True)]) for o in outputs)
            if not len(floor):
                floor = error = largest = np.zeros(len(exact))
            floor, error = np.maximum(floor, mine), np.maximum(error, ours)
            largest = np.maximum(largest, [max_abs(e.numpy()) for e in exact])
    allowed = np.maximum(8 * floor, [float32_ulps(value, 4) for value in largest])
    assert (error <= allowed).all(), (error / allowed).max()


def tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return max_abs_error(actual.numpy(), expected.numpy())


def body(result: FoldResult) -> fx.GraphModule:
    assert isinstance(result.module.body, fx.GraphModule)
    return result.module.body


def _all_rules() -> tuple[str, ...]:
    from bnfold.fold.rules import all_rules

    return tuple(rule.name for rule in all_rules())


@pytest.mark.parametrize("name", list(TRAINED))
def test_a_checkpoint_is_small_and_answers_as_before(name: str, digits: Digits) -> None:
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 1_000_000
    module, result = folded(name, "trained")
    pixels = torch.from_numpy(digits[0][:, None].astype(np.float32) / 255)
    with torch.no_grad():
        before = module(pixels).argmax(1).numpy()
        after = np.array([int(result.module(frame).argmax()) for frame in pixels.split(1)])
    assert int((before == digits[1]).sum()) == TRAINED[name][1]
    assert np.array_equal(before, after)


def test_the_readme_tells_what_is_measured() -> None:
    """Its tables: BatchNorms, folded, reduced, kept, statistics; bytes, parameters, right answers."""
    lines = README.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    by_width = {width: {row[0].strip("`"): row[1:] for row in rows if len(row) == width} for width in (7, 5)}
    assert list(by_width[7]) == list(ARCHITECTURES)
    for name, (total, *counts, statistics, _) in by_width[7].items():
        expected = TRAINED[name][0] if name in TRAINED else ALIVE.get(name, DEAD[name])
        assert tuple(map(int, counts)) == expected
        assert int(total) == sum(expected)
        assert statistics == ("trained" if name in TRAINED else "drawn")
    assert list(by_width[5]) == list(TRAINED)
    for name, cells in by_width[5].items():
        size, parameters, of_ten_thousand, of_thousand = (int(cell.replace(",", "")) for cell in cells)
        assert size == (FOLDER / f"{name}.safetensors").stat().st_size
        assert parameters == sum(p.numel() for p in ARCHITECTURES[name][0]().parameters())
        assert of_thousand == TRAINED[name][1]
        assert abs(of_ten_thousand / 10_000 - of_thousand / 1_000) < 0.02


def test_training_repeats_itself_and_says_what_it_measured(idx_folder: Path, tmp_path: Path) -> None:
    said, made = [], []
    for folder in (tmp_path / "one", tmp_path / "two"):
        options = ("--data", idx_folder, "--output", folder, "--only", "mobilenet_v2", "--subset", 300)
        done = run("architectures/train.py", *options)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in folder.iterdir()] == ["mobilenet_v2.safetensors"]
        said.append(done.stdout)
        made.append((folder / "mobilenet_v2.safetensors").read_bytes())
    assert made[0] == made[1]
    assert said[0] == said[1]
    module = bnfold.load(tmp_path / "one" / "mobilenet_v2.safetensors", ARCHITECTURES["mobilenet_v2"][0])
    assert {int(m.num_batches_tracked) for m in module.modules() if isinstance(m, NORMS)} == {3}  # type: ignore[arg-type]
    assert re.fullmatch(r"mobilenet_v2: [\d.]+% of 300 test images\n", said[0])


# --- converted -------------------------------------------------------------------------------------------


def without_norms(module: nn.Module) -> nn.Module:
    """A copy without BatchNorm, in which every layer has a bias: what a fold may come to at best."""
    bare = copy.deepcopy(module)
    for path, part in list(bare.named_modules()):
        if isinstance(part, NORMS):
            bare.set_submodule(path, nn.Identity())
        elif isinstance(part, nn.Linear) and part.bias is None:
            part.bias = nn.Parameter(torch.ones(part.out_features))
        elif isinstance(part, nn.modules.conv._ConvNd) and part.bias is None:
            part.bias = nn.Parameter(torch.ones(part.out_channels))
    return bare


def onnx_operators(data: bytes) -> Counter[str]:
    import onnx

    return Counter(node.op_type.upper() for node in onnx.load_from_string(data).graph.node)


def tflite_operators(data: bytes) -> Counter[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.Model.GetRootAs(data, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    kinds = [names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return Counter(
        kinds[graph.Operators(i).OpcodeIndex()] for graph in graphs for i in range(graph.OperatorsLength())
    )


ARITHMETIC = ("ADD", "SUB", "MUL", "DIV")
COUNTERS = {"onnx": onnx_operators, "tflite": tflite_operators}
GRAY = {"layout": "NCHW", "color": "gray", "resize": "stretch", "scale": 1 / 255, "mean": [0.0], "std": [1.0]}


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case[1] != "alive"], ids="-".join)
def test_both_files_compute_the_same_and_have_no_batch_norm(case: tuple[str, str], tmp_path: Path) -> None:
    """In every interpreter at hand; a BatchNorm that hides in a file shows by its arithmetic."""
    name, draw = case
    module, result = folded(name, draw)
    arguments: dict[str, Any] = {"to": ("onnx", "tflite"), "name": name}
    real: dict[str, Any] = {"samples": ROOT / "frames_1000.npz", "normalisation": GRAY}
    real["labels"] = [str(digit) for digit in range(10)]
    done = bnfold.convert(
        module, (example(name),), output=tmp_path, **arguments, **(real if draw == "trained" else {})
    )
    assert done.passed, [finding for finding in done.findings if finding.severity == "error"]
    assert {row.candidate for row in done.parity} == {"fold", "onnx", "tflite"}
    assert all(row.passed for row in done.parity)
    if draw == "trained":
        assert done.accuracy is not None
        assert done.accuracy.before.correct == TRAINED[name][1]
        assert [score.changed for score in done.accuracy.after] == [0, 0, 0]
    bare = capture(without_norms(module), (example(name),))
    spec = (bare.body, bare.inputs, bare.outputs, bare.example)
    best = {"onnx": export_onnx.export(*spec).data, "tflite": export_tflite.export(*spec).data}
    left = sum({"reduced": 1, "kept": 2}.get(entry.status, 0) for entry in result.report.batch_norms)
    for artifact in done.artifacts:
        count = COUNTERS[artifact.target]
        has, least = count(artifact.path.read_bytes()), count(best[artifact.target])
        assert not [operator for operator in has if "NORMALIZATION" in operator and operator not in least]
        assert sum(has[kind] for kind in ARITHMETIC) <= sum(least[kind] for kind in ARITHMETIC) + left
