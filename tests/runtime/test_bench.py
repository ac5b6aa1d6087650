from __future__ import annotations

import pytest

from bnfold.runtime.bench import Side, _slow_kernels
from bnfold.runtime.coldstart import ColdStart


@pytest.mark.parametrize(
    ("runtime", "precision", "processor", "told"),
    [
        ("tflite-runtime 2.14.0", "int8", "x86_64", True),
        ("tflite-runtime 2.14.0", "int8", "aarch64", False),
        ("tflite-runtime 2.14.0", "fp16", "x86_64", False),
        ("ai-edge-litert 2.3.0", "int8", "x86_64", False),
        ("onnxruntime 1.32.0", "int8", "x86_64", False),
    ],
)
def test_int8_without_kernels_is_told(runtime: str, precision: str, processor: str, told: bool) -> None:
    side = Side("digits.tflite", runtime, precision, ColdStart(1.0, 1.0, 1.0, 1), {})
    found = _slow_kernels(side, processor)
    assert [(one.code, one.severity, one.where) for one in found] == (
        [("BNF-P043", "warning", "digits.tflite")] if told else []
    )
