"""The torch-free line: what a device imports stays small, each time in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "scipy", "pandas", "matplotlib")
INTERPRETERS = ("onnxruntime", "ai_edge_litert", "tflite_runtime")
TOOLS = ("onnxscript", "litert_torch", "safetensors", "rich", "PIL", "jinja2", "hypothesis")

TORCH_FREE = (
    "bnfold",
    "bnfold.affine",
    "bnfold.atomic",
    "bnfold.container",
    "bnfold.errors",
    "bnfold.finding",
    "bnfold.manifest",
    "bnfold.manifest_schema",
    "bnfold.numerics",
    "bnfold.report",
    "bnfold.report.answers",
    "bnfold.report.audit",
    "bnfold.report.benchmark",
    "bnfold.report.conversion",
    "bnfold.report.diagnosis",
    "bnfold.report.html",
    "bnfold.report.html.audit",
    "bnfold.report.html.channels",
    "bnfold.report.html.diagnosis",
    "bnfold.report.html.drift",
    "bnfold.report.html.frames",
    "bnfold.report.html.histograms",
    "bnfold.report.html.maps",
    "bnfold.report.html.page",
    "bnfold.report.html.plots",
    "bnfold.report.html.timeline",
    "bnfold.report.inspection",
    "bnfold.report.junit",
    "bnfold.report.machine",
    "bnfold.report.recalibration",
    "bnfold.runtime",
    "bnfold.runtime.bench",
    "bnfold.runtime.coldstart",
    "bnfold.runtime.feeds",
    "bnfold.runtime.frames",
    "bnfold.runtime.golden",
    "bnfold.runtime.images",
    "bnfold.runtime.interpreters",
    "bnfold.runtime.latency",
    "bnfold.runtime.model",
    "bnfold.runtime.preprocess",
    "bnfold.runtime.scores",
    "bnfold.signature",
    "bnfold.wording",
    "bnfold.drift",
    "bnfold.drift.stream",
    "bnfold.report.drift",
    "bnfold.report.fleet",
    "bnfold.report.monitoring",
    "bnfold.runtime.incoming",
    "bnfold_cli",
    "bnfold_cli.audit",
    "bnfold_cli.bench",
    "bnfold_cli.convert",
    "bnfold_cli.diagnose",
    "bnfold_cli.doctor",
    "bnfold_cli.drift",
    "bnfold_cli.inspect",
    "bnfold_cli.main",
    "bnfold_cli.monitor",
    "bnfold_cli.recalibrate",
    "bnfold_cli.rules",
    "bnfold_cli.run",
    "bnfold_cli.verify",
)

PROGRAM = """
import json, sys
at = sys.argv.pop(1)
try:
    exec(at)
finally:
    packages = sorted({name.partition(".")[0] for name in sys.modules})
    print("\\n" + json.dumps(packages))
"""


def imported(code: str, *arguments: object) -> set[str]:
    """The top-level packages in ``sys.modules`` after ``code``, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, code, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*arguments: object) -> set[str]:
    """The same after a command has ended well."""
    return imported("from bnfold_cli.main import main; assert main(sys.argv[1:]) == 0", *arguments)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_a_torch_free_module_imports_nothing_heavy(module: str) -> None:
    found = imported(f"import {module}")
    assert module.partition(".")[0] in found
    assert not found & {*HEAVY, *INTERPRETERS, *TOOLS}


@pytest.mark.parametrize("module", ["bnfold", "bnfold.errors", "bnfold.manifest", "bnfold.container"])
def test_the_manifest_needs_the_standard_library_alone(module: str) -> None:
    assert "numpy" not in imported(f"import {module}")


def test_the_check_sees_an_import() -> None:
    """Otherwise a program that reports nothing would pass."""
    assert imported("import bnfold, onnx") >= {"bnfold", "onnx", "numpy"}


def test_the_public_names_that_need_no_torch() -> None:
    found = imported("import bnfold; bnfold.open, bnfold.BnfoldError, bnfold.Finding, dir(bnfold)")
    assert "numpy" in found
    assert not found & {*HEAVY, *INTERPRETERS}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("run", "inspect", "audit", "doctor", "convert", "recalibrate")),
        *([name, "--help"] for name in ("drift", "monitor")),
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not command(*arguments) & {*HEAVY, *INTERPRETERS, "numpy"}


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x -> 2 x, in ONNX."""
    from tests.runtime import models

    tensors: Any = ("float32", [1, 2])
    node = helper.make_node("Add", ["_x", "_x"], ["_y"])
    return models.artifact(tmp_path_factory.mktemp("double"), [node], {"_x": tensors}, {"_y": tensors})


def test_inspect_reads_an_artifact_without_an_interpreter(artifact: Path) -> None:
    for form in ("text", "json"):
        found = command("inspect", artifact, "--format", form)
        assert "bnfold" in found
        assert not found & {*HEAVY, *INTERPRETERS, "numpy"}


def test_run_imports_the_one_interpreter_that_it_needs(artifact: Path, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.ones((1, 2), dtype=np.float32))
    found = command("run", artifact, tmp_path / "x.npy")
    assert "onnxruntime" in found
    assert not found & {*HEAVY, *INTERPRETERS[1:], *TOOLS}


def test_doctor_looks_for_torch_without_importing_it() -> None:
    found = command("doctor")
    assert "onnxruntime" in found  # loaded, because one that is there may still not work
    assert not found & set(HEAVY)
