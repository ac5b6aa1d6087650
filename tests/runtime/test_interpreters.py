"""Which interpreter is taken, and what is said where none is there or one is broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from onnx import helper

import bnfold
from bnfold.errors import PlatformError
from bnfold.runtime import interpreters

from .models import artifact

Found = dict[str, str | Exception]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Found], None]:
    """``installed({"onnxruntime": "1.2", ...})``: module -> version, or what its import raises."""

    def pretend(found: Found) -> None:
        def import_module(name: str) -> ModuleType:
            package = name.partition(".")[0]
            if name not in found:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            content = found[name]
            if isinstance(content, Exception):
                raise content
            module = ModuleType(package)
            module.__version__ = content  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, package, module)
            return module

        monkeypatch.setattr(interpreters, "import_module", import_module)

    return pretend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors: Any = ("float32", [1, 2])
    return artifact(tmp_path, [helper.make_node("Neg", ["_x"], ["_y"])], {"_x": tensors}, {"_y": tensors})


ONNX, LITERT, TFLITE = (interpreter.module for interpreter in interpreters.ALL)


def test_all_that_load_the_preferred_one_first(installed: Callable[[Found], None]) -> None:
    installed({ONNX: "1.0", TFLITE: "2.14.0", LITERT: "2.3.0"})
    assert interpreters.at_hand() == ["onnxruntime", "ai-edge-litert", "tflite-runtime"]
    assert interpreters.at_hand("onnx") == ["onnxruntime"]
    assert interpreters.at_hand("tflite") == ["ai-edge-litert", "tflite-runtime"]
    installed({TFLITE: "2.14.0"})
    assert interpreters.at_hand() == ["tflite-runtime"]
    installed({})
    assert interpreters.at_hand() == []


def test_probe_tells_absent_from_broken(installed: Callable[[Found], None]) -> None:
    installed(
        {
            LITERT: ImportError("libLiteRt.so: cannot open shared object file\nand more"),
            TFLITE: ModuleNotFoundError("No module named 'numpy'", name="numpy"),
        }
    )
    assert [(found.version, found.problem) for found in interpreters.probe()] == [
        (None, None),
        (None, "libLiteRt.so: cannot open shared object file"),
        (None, "it lacks the package numpy"),
    ]
    installed({ONNX: "1.5", TFLITE: RuntimeError()})
    assert [(found.version, found.problem) for found in interpreters.probe()] == [
        ("1.5", None),
        (None, None),
        (None, "RuntimeError"),
    ]


def test_here_as_pip_says() -> None:
    from importlib import metadata

    found = {probe.interpreter.name: probe.version for probe in interpreters.probe()}
    for name in interpreters.at_hand():
        assert found[name] == metadata.version(name)
    assert set(interpreters.at_hand()) >= {"onnxruntime", "ai-edge-litert"}  # both are in [dev]


def test_none_installed(installed: Callable[[Found], None], path: Path) -> None:
    installed({LITERT: "2.3.0"})
    with pytest.raises(PlatformError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-P020"
    assert caught.value.what == "no interpreter for onnx artifacts is installed (onnxruntime)"
    assert caught.value.fix == "pip install 'bnfold[edge-onnx]'"
    assert caught.value.where == str(path)


def test_installed_and_broken(installed: Callable[[Found], None], path: Path) -> None:
    installed({ONNX: ImportError("GLIBCXX_3.4.99 not found")})
    with pytest.raises(PlatformError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-P021"
    assert "onnxruntime: GLIBCXX_3.4.99 not found" in caught.value.what


def test_the_one_asked_for_is_not_replaced_by_another(installed: Callable[[Found], None]) -> None:
    installed({LITERT: "2.3.0"})
    with pytest.raises(PlatformError) as caught:
        interpreters.choose("tflite", "tflite-runtime")
    assert caught.value.code == "BNF-P020"
    assert "(tflite-runtime)" in caught.value.what
    chosen, _ = interpreters.choose("tflite", "ai_edge_litert")  # as it is imported, too
    assert chosen.name == "ai-edge-litert"


def test_a_broken_one_gives_way_to_the_next(installed: Callable[[Found], None]) -> None:
    installed({LITERT: ImportError("too new"), TFLITE: "2.14.0"})
    chosen, module = interpreters.choose("tflite", None)
    assert chosen.name == "tflite-runtime"
    assert module.__version__ == "2.14.0"


def test_a_package_without_a_version_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    assert interpreters.version(interpreters.ALL[0]) == metadata.version("onnxruntime")
