"""Renaming on hand-made graphs: no two tensors end up with one name, and values stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bnfold.export.onnx_names import distinct_names, rename_tensors


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y"], ["x", "y"]),
        (["x", "y", "x"], ["x", "y", "x.1"]),
        (["x", "x.1", "x", "x"], ["x", "x.1", "x.2", "x.3"]),
    ],
)
def test_distinct_names(names: list[str], expected: list[str]) -> None:
    assert distinct_names(names) == expected


def graph() -> onnx.GraphProto:
    """c = (if a[0] > 0: a + b else a - b); outputs: c, a, c."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(operator, ["a", "b"], [f"{name}_result"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_result", TensorProto.FLOAT, [1])],
        )
        for name, operator in (("then", "Add"), ("else", "Sub"))
    }
    nodes = [
        helper.make_node("Greater", ["a", "zero"], ["x"]),  # named like the input to be
        helper.make_node("If", ["x"], ["c"], **branches),
    ]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "abc"}
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    return helper.make_graph(
        nodes, "g", [values["a"], values["b"]], [values["c"], values["a"], values["c"]], [zero]
    )


def test_rename_reaches_into_subgraphs_and_gives_equal_outputs_their_own_names() -> None:
    renamed = graph()
    rename_tensors(renamed, ["x", "zero"], ["c", "then_result", "aux.0"])
    model = helper.make_model(renamed, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for a in (2.0, -2.0):
        feed = {"x": np.array([a], np.float32), "zero": np.array([5.0], np.float32)}
        c, same, again = session.run(["c", "then_result", "aux.0"], feed)
        assert (c[0], same[0], again[0]) == ((7.0, 2.0, 7.0) if a > 0 else (-7.0, -2.0, -7.0))
