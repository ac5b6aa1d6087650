"""Where these tests run: an interpreter is there, and torch has no part in any of it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import FORMATS, INSTALLED, ON_DEVICE, Case

pytestmark = pytest.mark.device

HEAVY = ("torch", "onnx", "onnxscript", "litert_torch", "safetensors", "scipy", "pandas", "matplotlib")


def test_an_interpreter_is_installed() -> None:
    """Without one, every test of an artifact would be skipped, and nothing would be red."""
    assert INSTALLED
    assert FORMATS


def test_a_device_has_no_torch_and_bnfold_from_its_wheel() -> None:
    if not ON_DEVICE:
        pytest.skip("not on a device")
    import bnfold_cli

    import bnfold

    assert [name for name in HEAVY if find_spec(name) is not None] == []
    for module in (bnfold, bnfold_cli):
        assert Path(str(module.__file__)).is_relative_to(sys.prefix)


PROGRAM = """
import json, sys
import numpy as np
import bnfold
from bnfold_cli.main import main

artifact, frames = sys.argv[1:]
assert main(["run", artifact, frames, "--top", "1"]) == 0
assert main(["run", artifact, "--self-test", "--format", "json"]) == 0
assert main(["inspect", artifact]) == 0
assert all(check.passed for check in bnfold.open(artifact).self_test())
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def test_answering_imports_no_torch_even_where_it_is_installed(case: Case, folder: Path) -> None:
    frames = "digits.npz" if case.best else "sensor_frames.npz"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case.path, folder / frames],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "bnfold" in modules
    assert "numpy" in modules
    assert [name for name in HEAVY if name in modules] == []
    others = {"onnx": {"ai_edge_litert", "tflite_runtime"}, "tflite": {"onnxruntime"}}
    assert not others[case.path.suffix[1:]] & set(modules)
