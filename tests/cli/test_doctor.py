"""``bnfold doctor``: the truth about this environment, and about one where things are missing."""

from __future__ import annotations

from importlib import metadata

import pytest

from .conftest import Cli


def without(*packages: str) -> str:
    return f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(packages)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Without())
"""


def test_here(cli: Cli) -> None:
    result = cli("doctor", "--format", "json")
    assert result.status == 0
    versions = {package["name"]: package["version"] for package in result.document["packages"]}
    assert versions["torch"] == metadata.version("torch")
    assert versions["litert-torch"] == metadata.version("litert-torch")
    works = {purpose["purpose"]: purpose["works"] for purpose in result.document["purposes"]}
    assert works["convert to ONNX"]
    assert works["convert to TFLite"]
    found = {entry["name"]: entry["version"] for entry in result.document["interpreters"]}
    assert found["onnxruntime"] == metadata.version("onnxruntime")


def test_text_fits_80_columns(cli: Cli) -> None:
    result = cli("doctor")
    assert max(map(len, result.out.splitlines())) <= 80
    assert metadata.version("onnxruntime") in result.out


def test_on_a_device_with_onnxruntime_only(shell: Cli) -> None:
    code = without("torch", "onnx", "onnxscript", "rich", "PIL", "ai_edge_litert", "tflite_runtime")
    result = shell("doctor", "--format", "json", code=code)
    assert result.status == 0, result.err
    purposes = {purpose["purpose"]: purpose for purpose in result.document["purposes"]}
    assert purposes["run ONNX artifacts"]["works"]
    assert not purposes["run TFLite artifacts"]["works"]
    assert purposes["run TFLite artifacts"]["install"] == "pip install 'bnfold[edge-tflite]'"
    assert not purposes["convert to ONNX"]["works"]
    assert purposes["convert to ONNX"]["missing"] == ["torch", "onnx", "onnxscript", "rich"]
    assert purposes["convert to ONNX"]["install"] == "pip install 'bnfold[convert]'"
    assert purposes["read PNG and JPEG frames"]["install"] == "pip install 'bnfold[images]'"


def test_an_interpreter_that_does_not_load_is_a_fault_of_the_environment(shell: Cli) -> None:
    code = """
import sys, types
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ImportError("libstdc++.so.6: version GLIBCXX_3.4.99 not found")
sys.meta_path.insert(0, Broken())
"""
    result = shell("doctor", code=code)
    assert result.status == 2
    assert "onnxruntime is installed and does not load" in result.out
    assert "GLIBCXX_3.4.99" in result.out


def test_another_version_than_the_tested_one_is_told(shell: Cli) -> None:
    code = """
from importlib import metadata
version = metadata.version
metadata.version = lambda name: "2.9.1" if name == "torch" else version(name)
"""
    result = shell("doctor", "--format", "json", code=code)
    assert result.status == 0, result.err
    purposes = {purpose["purpose"]: purpose for purpose in result.document["purposes"]}
    assert purposes["convert to ONNX"]["untested"] == ["torch 2.9.1"]
    assert purposes["convert to ONNX"]["install"] == "pip install 'bnfold[convert]'"
    assert purposes["read PNG and JPEG frames"]["untested"] == []
    assert "not tested with torch 2.9.1" in " ".join(shell("doctor", code=code).out.split())


@pytest.mark.parametrize(
    ("version", "wanted", "inside"),
    [
        ("2.13.0+cpu", "<2.14,>=2.13", True),
        ("2.13", ">=2.13.0", True),
        ("2.14.0", "<2.14,>=2.13", False),
        ("2.9.1", ">=2.13", False),
        ("0.10.0", "==0.10.0", True),
        ("0.10.1", "==0.10.0", False),
        ("15.0.0rc1", ">=15", True),
        ("3.1", "!=3.1", False),
        ("7", "", True),
        ("unknown", ">=1", True),
    ],
)
def test_ranges_of_versions(version: str, wanted: str, inside: bool) -> None:
    from bnfold_cli.doctor import within

    assert within(version, wanted) is inside


def test_a_folder_that_was_never_installed(shell: Cli) -> None:
    code = """
from importlib import metadata
def requires(name):
    raise metadata.PackageNotFoundError(name)
metadata.requires = requires
"""
    result = shell("doctor", "--format", "json", code=code)
    assert (result.status, result.document["error"]["code"]) == (2, "BNF-P030")


def test_doctor_imports_no_torch(shell: Cli) -> None:
    code = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
"""
    assert shell("doctor", code=code).err.strip() == "False"
