"""The text of a conversion, from the document that JSON shows."""

from __future__ import annotations

import json
from typing import Any

from bnfold.errors import StatisticsError, UsageError
from bnfold.report import Style, dump, error_document
from bnfold.report.conversion import render_conversion

PLAIN = Style()


def document(**changes: Any) -> dict[str, Any]:
    folded = {
        "name": "stage.0.bn", "channels": 64, "status": "folded", "rules": ["conv-backward"],
        "into": ["stage.0.conv"], "reason": None, "max_rel_error": 1e-16,
    }  # fmt: skip
    kept = {**folded, "name": "stage.1.bn", "status": "kept", "rules": [], "into": [], "reason": "read twice"}
    row = {
        "candidate": "onnx", "runtime": "onnxruntime 1.32.0", "output": "output", "frames": 16,
        "frames_source": "random", "max_abs_error": 1.25e-7, "noise_floor": 2e-7, "tolerance": 1.6e-6,
        "passed": True,
    }  # fmt: skip
    artifact = {
        "target": "onnx", "role": "clean", "path": "out/a b.onnx", "sha256": "ab" * 32, "size_bytes": 92_140,
        "precision": "fp32",
    }  # fmt: skip
    return {
        "schema": 1, "passed": True, "batch_norms": [folded, kept], "parity": [row], "findings": [],
        "artifacts": [artifact], "accuracy": None, **changes,
    }  # fmt: skip


def test_what_became_of_each_batch_norm() -> None:
    text = render_conversion(document(), PLAIN)
    assert "2 BatchNorms: 1 folded, 1 kept" in text
    assert "stage.0.bn        64  folded  conv-backward  stage.0.conv" in text
    assert "stage.1.bn is kept: read twice" in text


def test_parity_against_the_floor_and_the_honest_line() -> None:
    text = render_conversion(document(), PLAIN)
    assert "Parity on 16 random inputs" in text
    assert "Unproven on real frames: give --samples." in text
    assert "1.2e-07" in text
    assert "2.0e-07" in text
    assert "1.6e-06" in text


def test_failure_shows_no_next_steps_and_says_so() -> None:
    row = {**document()["parity"][0], "passed": False, "max_abs_error": None}
    text = render_conversion(document(passed=False, parity=[row]), PLAIN)
    assert "FAILED" in text
    assert "not finite" in text
    assert "Next" not in text


def test_accuracy_before_and_after() -> None:
    before = {"candidate": "original", "runtime": "torch", "value": 0.991, "correct": 991, "changed": 0}
    after = {**before, "candidate": "onnx", "correct": 990, "changed": 3, "value": 0.99}
    accuracy = {"metric": "top-1", "output": "output", "frames": 1000, "before": before, "after": [after]}
    text = render_conversion(document(accuracy=accuracy), PLAIN)
    assert "top-1 of output on 1000 labelled frames" in text
    assert "991 of 1000" in text
    assert "990 of 1000        3" in text


def test_what_was_pruned_and_who_needs_the_rest() -> None:
    layers = [
        {"name": "stage.0.conv", "channels": 64, "removed": [1, 5], "left": [9], "reader": "stage.1.conv"},
        {"name": "stage.1.conv", "channels": 32, "removed": [0], "left": [], "reader": None},
    ]
    text = render_conversion(document(pruned={"layers": layers, "weight_bytes_saved": 4608}), PLAIN)
    assert "Pruned: 3 channels, 4.6 kB of weights" in text
    assert "stage.0.conv        64        2  1, read by stage.1.conv" in text
    assert "stage.1.conv        32        1  -" in text
    nothing = render_conversion(document(pruned={"layers": [], "weight_bytes_saved": 0}), PLAIN)
    assert "Pruned: nothing" in nothing
    assert "Pruned" not in render_conversion(document(pruned=None), PLAIN)


def test_commands_to_copy_are_quoted() -> None:
    assert "bnfold run 'out/a b.onnx' FRAME" in render_conversion(document(), PLAIN)


def test_everything_fits_80_columns_with_names_as_long_as_in_life() -> None:
    entry = document()["batch_norms"][1]
    name = "backbone.features.denseblock4.denselayer16.norm2"
    entries = [{**entry, "name": name, "into": [name + ".conv", name], "rules": ["conv-backward", "compose"]}]
    row = {**document()["parity"][0], "output": "head.boxes.deltas", "runtime": "tflite-runtime 2.14.0"}
    text = render_conversion(document(batch_norms=entries, parity=[row] * 2), PLAIN)
    assert max(map(len, text.splitlines())) <= 80


def test_json_has_no_nan() -> None:
    text = dump({"schema": 1, "a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (2, float("-inf"))}})
    assert json.loads(text) == {"schema": 1, "a": None, "b": [None, 1.5], "c": {"d": [2, None]}}


def test_an_error_keeps_the_keys_of_its_command() -> None:
    error = UsageError("BNF-U001", "no", fix="yes")
    assert error_document("convert", error) == {
        "schema": 1, "passed": False, "source": None, "batch_norms": [], "parity": [], "findings": [],
        "artifacts": [], "error": {"code": "BNF-U001", "what": "no", "where": "", "fix": "yes"},
    }  # fmt: skip
    finding = error_document("convert", StatisticsError("BNF-A001", "NaN", where="bn1"))["findings"][0]
    assert (finding["code"], finding["severity"], finding["where"]) == ("BNF-A001", "error", "bn1")
    # one error must not leave its findings in the next document
    assert error_document("convert", error)["findings"] == []
