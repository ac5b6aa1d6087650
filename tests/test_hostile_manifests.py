"""Manifests with a checksum that is right and content that is not: refused before anything believes them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from bnfold import container, manifest
from bnfold.checksum import checksum
from bnfold.errors import ArtifactError

ONNX = b"\x08\x08" + b"\x3a\x02\x0a\x00"  # ir_version 8, an empty graph
TFLITE = b"\x08\0\0\0TFL3" + bytes(24)
Document = dict[str, Any]

NORM = {"name": "bn", "channels": 2, "status": "folded", "rules": ["r"], "into": ["c"], "reason": None}
ROW = {
    "candidate": "onnx", "runtime": "onnxruntime 1", "output": "y", "frames": 16, "frames_source": "random",
    "max_abs_error": 0.0, "noise_floor": None, "tolerance": 1e-6, "passed": True,
}  # fmt: skip
ARRAY = {"dtype": "float32", "shape": [1, 2], "data": ""}


def document(target: str = "onnx") -> Document:
    return {
        "schema": 1, "bnfold": "0", "name": "n", "target": target, "role": "clean", "precision": "fp32",
        "source": None, "libraries": {}, "labels": None, "batch_norms": [deepcopy(NORM)],
        "parity": [dict(ROW)], "noise_floor": {},
        "runs_on": [{"runtime": "onnxruntime", "version": "1", "basis": "ran"}],
        "inputs": [
            {"name": "x", "tensor": "x", "shape": [None, 2], "dtype": "float32", "normalisation": None}
        ],
        "outputs": [{"name": "y", "tensor": "y", "shape": [1, 2], "dtype": "float32"}],
        "golden": {"inputs": {"x": dict(ARRAY)}, "outputs": {"y": {**ARRAY, "tolerance": 0.0}}},
        "drift_reference": None,
    }  # fmt: skip


def sealed(content: Document) -> bytes:
    """With the checksum that belongs to it, whatever it says."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    integrity = {"model_bytes": len(ONNX), "checksum": f"{checksum(ONNX, text.encode()):08x}"}
    return container.join_onnx(ONNX, json.dumps({**content, "integrity": integrity}, separators=(",", ":")))


def test_the_document_itself_is_one() -> None:
    assert manifest.parse(sealed(document()))["name"] == "n"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


CHANGES: dict[str, Callable[[Document], object]] = {
    "parity[0].runtime is missing": lambda d: d["parity"][0].pop("runtime"),
    "parity[0].frames_source is list": lambda d: d["parity"][0].update(frames_source=[]),
    "parity[0].passed is int": lambda d: d["parity"][0].update(passed=1),
    "parity[0].tolerance is 'x'": lambda d: d["parity"][0].update(tolerance="x"),
    "batch_norms[0].channels is missing": lambda d: d["batch_norms"][0].pop("channels"),
    "batch_norms[0].status is list": lambda d: d["batch_norms"][0].update(status=["folded"]),
    "batch_norms[0].rules[1] is int": lambda d: d["batch_norms"][0]["rules"].append(3),
    "batch_norms[0].into is str": lambda d: d["batch_norms"][0].update(into="c"),
    "batch_norms[0].copies[0] is str": lambda d: d["batch_norms"][0].update(copies=["c"]),
    "batch_norms[0].copies[0].weight is missing": lambda d: d["batch_norms"][0].update(copies=[{"bytes": 1}]),
    "copies[0].bytes is float": lambda d: d["batch_norms"][0].update(copies=[{"weight": "c", "bytes": 1.5}]),
    "copies is too large": lambda d: d["batch_norms"][0].update(
        copies=[{"weight": "c", "bytes": 10**400}]
    ),
    "runs_on[0].version is missing": lambda d: d["runs_on"][0].pop("version"),
    "golden.inputs.x.shape is [999999, 2]": lambda d: d["golden"]["inputs"]["x"].update(shape=[999999, 2]),
    "golden.outputs.y.shape is [1048577]": lambda d: d["golden"]["outputs"]["y"].update(shape=[2**20 + 1]),
    "more than 32 lists": lambda d: d.update(more=nested(40)),
    "1,048,60": lambda d: d.update(more=[[]] * 2**20),
}


@pytest.mark.parametrize("told", CHANGES)
def test_entries_that_are_not_what_they_should_be(told: str) -> None:
    content = document()
    CHANGES[told](content)
    with pytest.raises(ArtifactError) as caught:
        manifest.parse(sealed(content))
    assert caught.value.code == "BNF-M006"
    assert told in caught.value.what


@pytest.mark.parametrize("value", ["1e999", "-1" + "0" * 400 + ".0", r'"\ud800"', "NaN"])
def test_a_text_that_was_sealed_as_it_stands(value: str) -> None:
    """JSON for Python, with a checksum that is right, and nothing that bnfold could have written."""
    text = json.dumps(document(), ensure_ascii=False, separators=(",", ":"))[:-1] + f',"more":{value}'
    found = f"{checksum(ONNX, text.encode(), b'}'):08x}"
    integrity = json.dumps({"model_bytes": len(ONNX), "checksum": found}, separators=(",", ":"))
    with pytest.raises(ArtifactError) as caught:
        manifest.parse(container.join_onnx(ONNX, f'{text},"integrity":{integrity}}}'))
    assert caught.value.code == "BNF-M006"


def test_a_manifest_of_hundreds_of_megabytes() -> None:
    with pytest.raises(ArtifactError, match="its manifest has") as caught:
        manifest.parse(container.join_onnx(ONNX, " " * (2**26 + 1)))
    assert caught.value.code == "BNF-M003"


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("damaged", [False, True])
def test_an_archive_compressed_as_no_bnfold_does(method: int, damaged: bool) -> None:
    file = io.BytesIO(TFLITE)
    with zipfile.ZipFile(file, "a", method) as archive:
        archive.writestr(container.MEMBER, json.dumps(document("tflite")))
    data = bytearray(file.getvalue())
    data[len(TFLITE) + 80] ^= 0xFF if damaged else 0
    with pytest.raises(ArtifactError) as caught:
        manifest.parse(bytes(data))
    assert caught.value.code == "BNF-M003"
