"""An artifact needs no bnfold: the interpreters' own interfaces and the manifest are enough, as in C."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from .conftest import INSTALLED, Array, Case

pytestmark = pytest.mark.device

Run = Callable[[dict[str, Array]], dict[str, Array]]


def with_onnxruntime(path: Path) -> tuple[dict[str, Any], Run]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    manifest = json.loads(session.get_modelmeta().custom_metadata_map["bnfold.manifest"])
    names = [entry["tensor"] for entry in manifest["outputs"]]
    return manifest, lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def with_tflite(module: str, path: Path) -> tuple[dict[str, Any], Run]:
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("bnfold.json"))
    run = import_module(module).Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
    return manifest, lambda arrays: run(**arrays)


def interpreters(path: Path) -> list[tuple[dict[str, Any], Run]]:
    """The artifact in every interpreter that is here."""
    if path.suffix == ".onnx":
        return [with_onnxruntime(path)]
    modules = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
    return [with_tflite(module, path) for name, module in modules.items() if name in INSTALLED]


def test_the_answers_are_bnfold_s(case: Case) -> None:
    there = interpreters(case.path)
    assert there
    for manifest, run in there:
        for index in (0, 5, 11):
            frame = case.frames[index]
            arrays = {}
            for entry in manifest["inputs"]:
                value = frame[entry["name"]] if isinstance(frame, dict) else frame
                how = entry["normalisation"]
                if how is not None:
                    value = (value * how["scale"] - how["mean"][0]) / how["std"][0]
                arrays[entry["tensor"]] = value.astype(entry["dtype"]).reshape(entry["shape"])
            found = run(arrays)
            answers = {entry["name"]: found[entry["tensor"]] for entry in manifest["outputs"]}
            case.check(answers, index)
