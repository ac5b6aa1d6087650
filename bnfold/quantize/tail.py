"""The last layer of an output whose range nothing tells, and what leads to it: left in floating point.

Population statistics say how far values go that a BatchNorm has seen. What comes after the last
BatchNorm, they do not tell: how far the mean over a map differs from frame to frame, and where a
regression's answers end. 8 bits cut such values off; in floating point they cost a few multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.finding import Finding
from bnfold.quantize.floating import NAMES
from bnfold.quantize.inside import Step

_LINEAR = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul",
    "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL",
})  # fmt: skip
_LEADING = frozenset({
    "ReduceMean", "AveragePool", "GlobalAveragePool", "ReduceSum", "Mul", "Div", "Flatten", "Reshape",
    "Squeeze", "Unsqueeze", "Transpose",
    "MEAN", "AVERAGE_POOL_2D", "SUM", "MUL", "DIV", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE",
})  # fmt: skip
"""Averages over a map, however an exporter writes them, and what only orders values."""


def floating(steps: Sequence[Step], output: str) -> list[str]:
    """The tensors made by the last linear operator before an output, what follows it, and what leads to it.

    Args:
        steps: the operators of a file.
        output: the file's name of an output whose range nothing tells.

    Returns:
        The names of the tensors that stay in floating point, in the order of the file.
    """
    made_by = {name: step for step in steps for name in step.outputs}
    found: set[str] = set()

    def back(name: str, linear: bool) -> None:
        """``linear``: whether the last linear operator is behind us."""
        step = made_by.get(name)
        if step is None or (linear and step.operator not in _LEADING):
            return
        found.update(step.outputs)
        for given in step.inputs:
            back(given, linear or step.operator in _LINEAR)

    back(output, False)
    return [name for step in steps for name in step.outputs if name in found]


def findings(target: str, outputs: Sequence[str]) -> list[Finding]:
    """``outputs``: by bnfold's names."""
    return [
        Finding(
            "BNF-E060",
            "info",
            name,
            f"the last layer before it stays float32 in the int8 {NAMES[target]} file: without frames "
            "nothing tells how far this output goes",
            {"output": name, "target": target},
            "nothing to do; with frames (--samples) it becomes int8, too",
        )
        for name in outputs
    ]
