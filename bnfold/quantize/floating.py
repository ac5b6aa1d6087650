"""What is said of operators that stay float32 in an int8 file."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.finding import Finding

NAMES = {"onnx": "ONNX", "tflite": "TFLite"}


def findings(target: str, operators: Sequence[str]) -> list[Finding]:
    """``operators``: the type of each operator with floating weights of its own."""
    if not operators:
        return []
    names = sorted(set(operators))
    return [
        Finding(
            "BNF-E054",
            "info",
            ", ".join(names),
            f"{len(operators)} operators with weights stay float32 in the int8 {NAMES[target]} file: the "
            f"quantizer has no integer form of {', '.join(names)}",
            {"operators": names, "count": len(operators)},
            "nothing to do; their weights are float16",
        )
    ]
