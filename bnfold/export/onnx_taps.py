"""The means of a monitored ONNX file as GlobalAveragePool.

The exporter writes a mean over height and width as ReduceMean. onnxruntime keeps convolutions in a memory
layout of its own (blocks of channels), in which it can pool and cannot reduce: every ReduceMean would have
its input laid out anew first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def pool_globally(model: onnx.ModelProto, taps: int) -> None:
    """Write the means that only the last ``taps`` outputs need as GlobalAveragePool, in place."""
    from onnx import helper, numpy_helper

    graph = model.graph
    answers = _needed(graph, [value.name for value in list(graph.output)[: len(graph.output) - taps]])
    constants = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or node.output[0] in answers or len(node.input) != 2:
            continue
        axes = constants.get(node.input[1])
        keeps = all(helper.get_attribute_value(a) == 1 for a in node.attribute if a.name == "keepdims")
        if axes is None or not keeps or _axes(numpy_helper.to_array(axes)) != [2, 3]:
            continue
        node.op_type = "GlobalAveragePool"
        del node.input[1:]
        del node.attribute[:]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for item in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(item)


def _needed(graph: onnx.GraphProto, outputs: list[str]) -> set[str]:
    """Names of all values that these outputs are made of."""
    makers = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += makers[name].input if name in makers else []
    return needed


def _axes(values: np.ndarray) -> list[int]:
    """Of a 4-D tensor, counted from the front."""
    return sorted(int(axis) % 4 for axis in np.atleast_1d(values))
