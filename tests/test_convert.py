"""convert: what is written, what it says, and what is not written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold import atomic, manifest
from bnfold.conversion import ConversionResult
from bnfold.errors import BnfoldError, ExportError, PlatformError, UsageError
from bnfold.export import onnx as onnx_export
from bnfold.runtime import interpreters
from bnfold.verify.proof import Proof
from tests.verify.networks import CLASSES, SHAPE, Small, SubtractsBatchMean, answers, built, frames

EXAMPLE = (torch.zeros(SHAPE),)
RGB = {
    "layout": "NCHW",
    "color": "rgb",
    "resize": "stretch",
    "scale": 1 / 255,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}


def convert(module: nn.Module, output: Path, /, **options: Any) -> ConversionResult:
    defaults = {"output": output, "samples": frames(), "name": "net", "normalisation": RGB}
    return bnfold.convert(module, EXAMPLE, **{**defaults, **options})


def tree(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()} if folder.exists() else {}


def error_codes(result: ConversionResult) -> list[str]:
    return [found.code for found in result.findings if found.severity == "error"]


# --- what is written -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[ConversionResult, Path]:
    """Both formats, with everything that can be said of the input and the source."""
    folder = tmp_path_factory.mktemp("both") / "made" / "here"
    inputs = frames()
    labels = answers(built(Small), inputs)
    labels[0] = (labels[0] + 1) % CLASSES
    result = convert(
        built(Small),
        folder,
        to=("onnx", "tflite"),
        samples={"x": inputs, "labels": labels},
        labels=["a", "b", "c", "d", "e"],
        normalisation=RGB,
        source={"path": "/some/where/best.pt", "sha256": "ab" * 32, "format": "torch"},
    )
    return result, folder


def test_the_files_compute_what_the_network_computes(both: tuple[ConversionResult, Path]) -> None:
    result, folder = both
    assert result.passed
    assert result.exit_status == 0
    assert sorted(tree(folder)) == ["net.onnx", "net.tflite"]
    one = frames(1, seed=11)[0]
    with torch.no_grad():
        expected = built(Small)(torch.tensor(one[None])).numpy()
    for artifact in result.artifacts:
        model = bnfold.open(artifact.path)
        assert np.abs(model.predict(one)["output"] - expected).max() < 1e-5
        assert [check.passed for check in model.self_test()] == [True]


def test_images_are_prepared_as_in_training(both: tuple[ConversionResult, Path]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    prepared = ((image.astype(np.float64) / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.no_grad():
        expected = built(Small)(torch.tensor(prepared)).numpy()
    for artifact in both[0].artifacts:
        assert np.abs(bnfold.open(artifact.path).predict(image)["output"] - expected).max() < 1e-4


def test_the_document_is_the_one_of_the_design(both: tuple[ConversionResult, Path]) -> None:
    result, folder = both
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (document["schema"], document["passed"]) == (1, True)
    assert document["source"] == {"path": "/some/where/best.pt", "sha256": "ab" * 32, "format": "torch"}
    assert [entry["name"] for entry in document["batch_norms"]] == ["bn1", "bn2"]
    for entry in document["batch_norms"]:
        assert set(entry) == {
            "name", "channels", "status", "rules", "into", "copies", "reason", "gain", "max_rel_error",
        }  # fmt: skip
        assert entry["status"] == "folded"
        assert entry["max_rel_error"] <= 1e-12
    assert [row["candidate"] for row in document["parity"]] == ["fold", "onnx", "tflite"]
    for row in document["parity"]:
        assert set(row) == {
            *("candidate", "runtime", "output", "frames", "frames_source"),
            *("max_abs_error", "noise_floor", "tolerance", "passed", "role"),
        }
        assert (row["output"], row["frames"], row["frames_source"]) == ("output", 20, "samples")
        assert row["max_abs_error"] <= row["tolerance"] < 1e-4
    assert document["findings"] == []
    for artifact in document["artifacts"]:
        data = (folder / f"net.{artifact['target']}").read_bytes()
        assert artifact == {
            "target": artifact["target"],
            "role": "clean",
            "path": str(folder / f"net.{artifact['target']}"),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "precision": "fp32",
        }


def test_accuracy_is_reported_before_and_after(both: tuple[ConversionResult, Path]) -> None:
    accuracy = both[0].to_json()["accuracy"]
    assert accuracy["before"]["correct"] == 19
    assert [(s["candidate"], s["correct"], s["changed"]) for s in accuracy["after"]] == [
        ("fold", 19, 0),
        ("onnx", 19, 0),
        ("tflite", 19, 0),
    ]


def test_the_manifest_says_it_all_and_nothing_of_this_machine(both: tuple[ConversionResult, Path]) -> None:
    result, folder = both
    for artifact in result.artifacts:
        document = manifest.read(artifact.path)
        assert (document["name"], document["target"], document["role"]) == ("net", artifact.target, "clean")
        assert document["source"] == {"name": "best.pt", "sha256": "ab" * 32, "format": "torch"}
        assert document["labels"] == ["a", "b", "c", "d", "e"]
        [entry] = document["inputs"]
        assert (entry["name"], entry["shape"], entry["normalisation"]) == ("x", [1, 3, 8, 8], RGB)
        assert [row["candidate"] for row in document["parity"]] == ["fold", artifact.target]
        assert document["noise_floor"] == {"output": result.parity[0].noise_floor}
        assert document["golden"]["outputs"]["output"]["tolerance"] == result.parity[0].tolerance
        ran = [f"{e['runtime']} {e['version']}" for e in document["runs_on"] if e["basis"] == "ran"]
        assert ran == [row.runtime for row in result.parity if row.candidate == artifact.target]
        for secret in (str(folder).encode(), b"/some/where", str(Path.cwd()).encode()):
            assert secret not in artifact.path.read_bytes()


SCRIPT = """
import sys, torch
import bnfold
from tests.verify.networks import SHAPE, Small, built, frames
bnfold.convert(built(Small), (torch.zeros(SHAPE),), to=("onnx", "tflite"), output=sys.argv[1],
               name="net", samples=frames())
"""


def test_the_same_bytes_from_another_process_and_folder(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    made = []
    for place in ("one", "other/deeper"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{SCRIPT}", "out"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
        made.append(tree(folder / "out"))
    assert sorted(made[0]) == ["net.onnx", "net.tflite"]
    assert made[0] == made[1]


def test_a_symbolic_batch_is_proven_with_several_frames(tmp_path: Path) -> None:
    result = convert(built(Small), tmp_path, dynamic_batch=True)
    assert result.passed
    model = bnfold.open(result.artifacts[0].path)
    assert model.inputs[0].shape == (None, 3, 8, 8)
    inputs = frames(7)
    with torch.no_grad():
        expected = built(Small)(torch.tensor(inputs)).numpy()
    assert np.abs(model.predict_raw(inputs)["output"] - expected).max() < 1e-5


def test_pruned_files_are_smaller_and_compute_the_same(tmp_path: Path) -> None:
    module = built(Small)
    with torch.no_grad():
        module.bn1.weight[[0, 2, 5]] = 0.0
        module.bn1.bias[[0, 2, 5]] = torch.tensor([-1.0, 2.0, 3.0])
        module.bn2.weight[1], module.bn2.bias[1] = 0.0, 0.5
    whole = convert(module, tmp_path / "whole", to=("onnx", "tflite"))
    result = convert(module, tmp_path / "pruned", to=("onnx", "tflite"), prune=True)
    assert whole.passed
    assert result.passed
    assert whole.pruned is None
    assert result.to_json()["pruned"]["layers"] == [
        {"name": "conv1", "channels": 6, "removed": [0, 2, 5], "left": [], "reader": None},
        {"name": "conv2", "channels": 4, "removed": [1], "left": [], "reader": None},
    ]
    inputs = frames(5)
    with torch.no_grad():
        expected = module(torch.tensor(inputs)).numpy()
    for big, small in zip(whole.artifacts, result.artifacts, strict=True):
        assert small.size_bytes < big.size_bytes
        model = bnfold.open(small.path)
        found = np.concatenate([model.predict_raw(one[None])["output"] for one in inputs])
        assert np.abs(found - expected).max() < 1e-5


def test_without_samples_it_is_called_unproven(tmp_path: Path) -> None:
    result = convert(built(Small), tmp_path, samples=None)
    assert result.passed
    assert {(row.frames, row.frames_source) for row in result.parity} == {(16, "random")}
    [found] = result.findings
    assert (found.code, found.severity) == ("BNF-V008", "warning")
    assert "unproven" in found.message


def test_the_default_name_is_the_sources_or_the_class(tmp_path: Path) -> None:
    assert convert(built(Small), tmp_path, name=None).artifacts[0].path == tmp_path / "Small.onnx"
    named = convert(built(Small), tmp_path, name=None, source={"path": "runs/best.pt"})
    assert named.artifacts[0].path == tmp_path / "best.onnx"


@pytest.mark.parametrize(
    ("name", "file"), [("net.onnx", "net.onnx"), ("net.tflite", "net.onnx"), ("v1.2", "v1.2.onnx")]
)
def test_a_name_with_a_suffix_does_not_get_it_twice(name: str, file: str, tmp_path: Path) -> None:
    assert convert(built(Small), tmp_path, name=name).artifacts[0].path == tmp_path / file


def test_a_kept_batch_norm_passes_with_a_warning(tmp_path: Path) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.norm(torch.tanh(x)))

    result = convert(built(Alone), tmp_path)
    assert result.passed
    [entry] = result.batch_norms
    assert entry.status == "kept"
    warnings = [(found.code, found.where) for found in result.findings if found.severity == "warning"]
    assert warnings == [("BNF-A024", "norm")]


# --- rejected --------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that writes weights that are off by one in a thousand."""
    export = onnx_export.export

    def wrong(body: torch.fx.GraphModule, *rest: Any, **options: Any) -> Any:
        import copy

        body = copy.deepcopy(body)
        with torch.no_grad():
            for value in body.buffers():
                if value.ndim == 4:
                    value.mul_(1.001)
        return export(body, *rest, **options)

    monkeypatch.setattr(onnx_export, "export", wrong)


@pytest.mark.usefixtures("wrong_onnx")
def test_a_file_that_fails_its_parity_is_rejected(tmp_path: Path) -> None:
    result = convert(built(Small), tmp_path)
    assert (result.passed, result.exit_status) == (False, 1)
    assert sorted(tree(tmp_path)) == ["net.onnx.rejected"]
    [artifact] = result.artifacts
    assert artifact.path == tmp_path / "net.onnx.rejected"
    assert hashlib.sha256(artifact.path.read_bytes()).hexdigest() == artifact.sha256
    assert [(row.candidate, row.passed) for row in result.parity] == [("fold", True), ("onnx", False)]
    assert error_codes(result) == ["BNF-V001"]
    assert result.findings[0].where == "conv1"
    assert [row["passed"] for row in manifest.read(artifact.path)["parity"]] == [True, False]


@pytest.mark.usefixtures("wrong_onnx")
def test_the_other_target_is_delivered(tmp_path: Path) -> None:
    result = convert(built(Small), tmp_path, to=("onnx", "tflite"))
    assert not result.passed
    assert sorted(tree(tmp_path)) == ["net.onnx.rejected", "net.tflite"]


@pytest.mark.usefixtures("wrong_onnx")
def test_an_older_good_file_stays_and_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"of last week")
    result = convert(built(Small), tmp_path)
    assert (tmp_path / "net.onnx").read_bytes() == b"of last week"
    assert [(f.code, f.where) for f in result.findings] == [("BNF-V001", "conv1"), ("BNF-V014", "net.onnx")]


def test_a_good_file_replaces_the_rejected_one(tmp_path: Path) -> None:
    (tmp_path / "net.onnx.rejected").write_bytes(b"of last week")
    (tmp_path / "net.tflite.rejected").write_bytes(b"not asked for now")
    assert convert(built(Small), tmp_path).passed
    assert sorted(tree(tmp_path)) == ["net.onnx", "net.tflite.rejected"]


def test_an_interpreter_that_answers_otherwise_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = interpreters.Interpreter("onnxruntime-again", "onnx", "onnxruntime", "edge-onnx")
    monkeypatch.setattr(interpreters, "ALL", (*interpreters.ALL, again))
    start = interpreters.start

    def lying(*args: Any, **kwargs: Any) -> Any:
        interpreter, session = start(*args, **kwargs)
        if interpreter.name == "onnxruntime-again":
            run = session.run
            session.run = lambda arrays: {name: a + np.float32(0.01) for name, a in run(arrays).items()}  # type: ignore[method-assign]
        return interpreter, session

    monkeypatch.setattr(interpreters, "start", lying)
    result = convert(built(Small), tmp_path)
    assert sorted(tree(tmp_path)) == ["net.onnx.rejected"]
    assert [(row.runtime.split()[0], row.passed) for row in result.parity[1:]] == [
        ("onnxruntime", True),
        ("onnxruntime-again", False),
    ]


# --- nothing is written ----------------------------------------------------------------------------------


def broken(change: Callable[[Small], object]) -> nn.Module:
    module = built(Small)
    with torch.no_grad():
        change(module)  # type: ignore[arg-type]
    return module


@pytest.mark.parametrize(
    ("module", "code", "where"),
    [
        (broken(lambda m: m.bn2.running_mean[1:2].fill_(torch.nan)), "BNF-A001", "bn2.running_mean[1]"),
        (broken(lambda m: m.bn2.running_var[2:3].fill_(torch.nan)), "BNF-A003", "bn2.running_var[2]"),
        (broken(lambda m: m.bn2.running_var[2:3].fill_(torch.inf)), "BNF-A001", "bn2.running_var[2]"),
        (broken(lambda m: m.bn1.running_var[0:1].fill_(-1)), "BNF-A007", "bn1.running_var[0]"),
        (broken(lambda m: m.bn1.weight[3:4].fill_(torch.nan)), "BNF-A021", "bn1.weight[3]"),
        (broken(lambda m: m.conv2.weight[0].fill_(torch.nan)), "BNF-A021", "conv2.weight"),
        (broken(lambda m: m.fc.bias[0:1].fill_(-torch.inf)), "BNF-A021", "fc.bias"),
        (
            broken(lambda m: setattr(m, "bn1", nn.BatchNorm2d(6, track_running_stats=False))),
            "BNF-A015",
            "bn1",
        ),
    ],
)
def test_unusable_values_stop_the_conversion(
    module: nn.Module, code: str, where: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    result = convert(module, folder)
    assert (result.passed, result.exit_status) == (False, 1)
    assert [(f.code, f.where) for f in result.findings] == [(code, where)]
    assert len(result.batch_norms) == 2
    assert result.artifacts == []
    assert not folder.exists()
    json.dumps(result.to_json(), allow_nan=False)


def test_what_was_there_is_pointed_out_when_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"of last week")
    result = convert(broken(lambda m: m.bn1.running_var.fill_(torch.nan)), tmp_path)
    assert [found.code for found in result.findings] == ["BNF-A003", "BNF-V014"]
    assert tree(tmp_path) == {"net.onnx": b"of last week"}


def test_a_dependence_on_the_batch_stops_the_conversion(tmp_path: Path) -> None:
    result = bnfold.convert(
        built(SubtractsBatchMean), (torch.zeros(1, 4),), output=tmp_path, samples=frames(16, (1, 4))
    )
    assert error_codes(result) == ["BNF-A015"]
    assert (result.exit_status, tree(tmp_path)) == (1, {})


def test_a_network_that_is_not_finite_stops_the_conversion(tmp_path: Path) -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x.clamp(min=0))

    result = bnfold.convert(Logarithm(), (torch.ones(1, 4),), output=tmp_path, samples=frames(16, (1, 4)))
    assert error_codes(result) == ["BNF-V002"]
    assert tree(tmp_path) == {}


def test_one_target_that_cannot_be_written_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnfold.export import tflite

    def fails(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tflite, "export", fails)
    with pytest.raises(KeyboardInterrupt):
        convert(built(Small), tmp_path / "out", to=("onnx", "tflite"))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    (tmp_path / "net.onnx").write_bytes(b"of last week")
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 1000:
            return write(descriptor, bytes(data[:1000]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limited(path: Any, data: bytes) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            original(path, data)

    original = atomic.write
    monkeypatch.setattr(atomic, "write", limited)
    with pytest.raises(PlatformError) as caught:
        convert(built(Small), tmp_path)
    assert caught.value.code == "BNF-P010"
    assert tree(tmp_path) == {"net.onnx": b"of last week"}


# --- refused before the long work ------------------------------------------------------------------------


class Returns(nn.Module):
    """A BatchNorm, and whatever ``result`` makes of its value and the module."""

    def __init__(self, result: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.result = result

    def forward(self, x: Tensor) -> Any:
        return self.result(self.norm(x), self)


@pytest.mark.parametrize(
    ("result", "code", "named"),
    [
        (lambda y, m: (y, None), "BNF-E006", ["'1' is None"]),
        (lambda y, m: {"y": y, "aux": [y, None, 3.5]}, "BNF-E006", ["'aux.1' is None", "'aux.2' is 3.5"]),
        (lambda y, m: {"y": y, "n": y.shape[2], "s": "hi"}, "BNF-E006", ["'n' is 8", "'s' is 'hi'"]),
        (lambda y, m: (y, True, m.norm.weight), "BNF-E006", ["'1' is True", "'2' is a constant tensor"]),
        (lambda y, m: None, "BNF-E006", ["'output' is None"]),
        (lambda y, m: {}, "BNF-E006", ["no tensor at all"]),
        (lambda y, m: (y, torch.arange(3), m.norm.bias), "BNF-E007", ["'1', '2'"]),
    ],
    ids=["None", "nested", "size", "both", "only None", "nothing", "constants"],
)
def test_outputs_that_a_file_cannot_hold_are_all_named(
    result: Callable[[Tensor, Any], Any], code: str, named: list[str], tmp_path: Path
) -> None:
    stages: list[str] = []
    with pytest.raises(ExportError) as caught:
        convert(Returns(result), tmp_path / "out", progress=stages.append)
    assert caught.value.code == code
    assert caught.value.exit_status == 2
    assert [text for text in named if text not in caught.value.what] == []
    assert stages == ["folding"]
    assert not (tmp_path / "out").exists()


def test_example_inputs_that_require_gradients_are_taken_without_a_warning(tmp_path: Path) -> None:
    example = (torch.zeros(SHAPE).requires_grad_(),)
    assert bnfold.convert(built(Small), example, output=tmp_path, samples=frames()).passed
    assert example[0].requires_grad


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"precision": "fp8"}, "BNF-U071"),
        ({"precision": "int8", "monitor": True}, "BNF-U150"),
        ({"precision": "int8", "min_agreement": 99}, "BNF-U151"),
        ({"min_agreement": 0.9}, "BNF-U151"),
        ({"to": ("onnx", "coreml")}, "BNF-U070"),
        ({"to": ()}, "BNF-U070"),
        ({"to": ("tflite",), "dynamic_batch": True}, "BNF-U072"),
        ({"to": ("tflite",), "opset": 18}, "BNF-U072"),
        ({"samples": "nowhere.npz"}, "BNF-U015"),
        ({"output": ""}, "BNF-U181"),
        ({"name": "a/b"}, "BNF-U016"),
        ({"name": ".."}, "BNF-U016"),
        ({"name": ""}, "BNF-U016"),
        ({"name": ".onnx"}, "BNF-U016"),
        ({"name": "a\nb"}, "BNF-U016"),
        ({"labels": ["a", "", "c", "d", "e"]}, "BNF-U073"),
        ({"labels": []}, "BNF-U073"),
        ({"labels": "abcde"}, "BNF-U073"),
        ({"labels": ["a", "b", "c"]}, "BNF-U074"),
        ({"normalisation": {"layout": "NHWC"}}, "BNF-U012"),
        ({"normalisation": {**RGB, "color": "gray"}}, "BNF-U012"),
        ({"normalisation": {**RGB, "std": [0.0]}}, "BNF-U012"),
        ({"normalisation": {**RGB, "mean": [0.5, 0.5]}}, "BNF-U012"),
        ({"normalisation": {"y": RGB}}, "BNF-U012"),
        ({"skip": ("no-such-rule",)}, "BNF-U025"),
        ({"metric": "nowhere.py:f"}, "BNF-U110"),
    ],
)
def test_refusals(options: dict[str, Any], code: str, tmp_path: Path) -> None:
    stages: list[str] = []
    with pytest.raises(UsageError) as caught:
        convert(built(Small), tmp_path / "out", progress=stages.append, **options)
    assert caught.value.code == code
    assert stages in ([], ["folding"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_folder_that_is_a_file(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PlatformError) as caught:
        convert(built(Small), tmp_path / place)
    assert caught.value.code == "BNF-P013"


def test_without_an_interpreter_nothing_could_be_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreters, "ALL", interpreters.ALL[1:])
    with pytest.raises(BnfoldError) as caught:
        convert(built(Small), tmp_path)
    assert caught.value.code == "BNF-P020"


@pytest.mark.parametrize("given", [{"x": RGB}, {"mean": 0.5, "std": 0.25}])
def test_a_single_target_as_text_and_two_ways_to_give_a_normalisation(
    given: dict[str, Any], tmp_path: Path
) -> None:
    result = convert(built(Small), tmp_path, to="onnx", normalisation=given)
    assert manifest.read(result.artifacts[0].path)["inputs"][0]["normalisation"] == RGB
    assert result.findings == []


def test_without_a_normalisation_the_defaults_are_taken_and_told(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    result = convert(built(Small), tmp_path, normalisation=None, samples=images)
    assert result.passed
    [told] = result.findings
    assert (told.code, told.severity, told.where) == ("BNF-V015", "info", "x")
    how = manifest.read(result.artifacts[0].path)["inputs"][0]["normalisation"]
    assert how == {**RGB, "mean": [0.0] * 3, "std": [1.0] * 3} == told.evidence["normalisation"]


def test_a_fold_that_rounds_too_much_is_made_again_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-activation folds by a threshold; where its parity fails, the conversion goes without."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)).eval()
    module[0].running_mean.fill_(0.3)
    module[0].weight.data[0] = -1.0
    right, proofs = Proof.measure, []

    def measure(self: Proof, candidate: Any) -> bool:
        proofs.append(self)
        passed = right(self, candidate)
        if self is not proofs[0]:
            return passed
        self.parity[-1] = dataclasses.replace(self.parity[-1], passed=False)
        return False

    monkeypatch.setattr(Proof, "measure", measure)
    result = bnfold.convert(module, (torch.zeros(1, 3, 4, 5),), output=tmp_path, name="net")
    assert result.passed
    assert [artifact.path.name for artifact in result.artifacts] == ["net.onnx"]
    assert [(entry.status, entry.rules) for entry in result.batch_norms] == [("kept", [])]
    (told,) = [found for found in result.findings if found.code == "BNF-V017"]
    assert told.evidence == {"rules": ["threshold-forward"]}
    monkeypatch.undo()
    leanest = bnfold.convert(module, (torch.zeros(1, 3, 4, 5),), output=tmp_path, name="net")
    assert [entry.rules for entry in leanest.batch_norms] == [["threshold-forward", "conv-forward"]]


# --- the last resort -------------------------------------------------------------------------------------


def test_batch_statistics_by_frame_answer_where_the_population_is_nan(tmp_path: Path) -> None:
    module = built(Small)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            assert child.running_mean is not None
            child.running_mean.fill_(torch.nan)
    assert not convert(module, tmp_path / "a").passed
    result = convert(module, tmp_path / "b", batch_statistics="frame")
    assert result.passed
    assert {entry.status for entry in result.batch_norms} == {"kept"}
    assert [found.code for found in result.findings if found.severity == "warning"][:1] == ["BNF-A036"]
    said = manifest.read(tmp_path / "b" / "net.onnx")["batch_norms"]
    assert all("each frame by its own statistics" in entry["reason"] for entry in said)
    one = frames(1, seed=11)[0]
    one = one if one.ndim == 4 else one[None]
    answer = bnfold.open(tmp_path / "b" / "net.onnx").predict_raw(one)["output"]
    module.train()
    with torch.no_grad():
        np.testing.assert_allclose(answer, module(torch.from_numpy(one)).numpy(), atol=1e-4)


def test_other_batch_statistics_are_not_offered(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert(built(Small), tmp_path, batch_statistics="batch")
    assert caught.value.code == "BNF-U074"


# --- what the file answers -------------------------------------------------------------------------------


def test_an_output_without_axes_is_an_array_in_every_interpreter(tmp_path: Path) -> None:
    class Entropy(Small):
        def forward(self, x: Tensor) -> Any:
            scores = super().forward(x)
            return {"scores": scores, "entropy": -(scores.softmax(1) * scores.log_softmax(1)).sum()}

    module = built(Entropy)
    result = convert(module, tmp_path, to=("onnx", "tflite"))
    x = frames(1)
    with torch.no_grad():
        expected = float(module(torch.from_numpy(x))["entropy"])
    for artifact in result.artifacts:
        got = bnfold.open(artifact.path).predict_raw(x)["entropy"]
        assert isinstance(got, np.ndarray)
        assert got.shape == ()
        assert float(got) == pytest.approx(expected, rel=1e-5)
