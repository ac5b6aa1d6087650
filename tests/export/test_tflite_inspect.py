"""Reading .tflite files, and the table of tflite-runtime's operators against the interpreters at hand."""

from __future__ import annotations

from typing import Any

import pytest

from bnfold.export.tflite_inspect import Operator, describe, operator_table, probe, unknown_operators

OPERATORS: dict[int, dict[str, Any]] = operator_table()["operators"]


def accepts(interpreter: Any, code: int, version: int) -> bool:
    try:
        interpreter(model_content=probe(code, version))
    except ValueError as refusal:
        if "Didn't find op for builtin opcode" in str(refusal) or "out of range" in str(refusal):
            return False
        raise
    return True


def test_the_table_s_shape() -> None:
    assert (operator_table()["runtime"], operator_table()["version"]) == ("tflite-runtime", "2.14.0")
    assert OPERATORS[3] == {"name": "CONV_2D", "versions": [1, 7]}
    for entry in OPERATORS.values():
        first, last = entry["versions"]
        assert 1 <= first <= last


@pytest.mark.device
def test_tflite_runtime_knows_exactly_the_table() -> None:
    runtime = pytest.importorskip("tflite_runtime.interpreter", reason="tflite-runtime is not installed")
    for code in range(max(OPERATORS) + 30):
        first, last = OPERATORS.get(code, {"versions": (1, 0)})["versions"]
        if code == 32:  # CUSTOM has no version of its own, and needs a name
            continue
        for version in (first - 1, first, last, last + 1):
            known = first <= version <= last
            assert version < 1 or accepts(runtime.Interpreter, code, version) == known, (code, version)


def test_the_successor_knows_all_of_it() -> None:
    from ai_edge_litert.interpreter import Interpreter

    refused = [
        (entry["name"], version)
        for code, entry in OPERATORS.items()
        for version in entry["versions"]
        if not accepts(Interpreter, code, version)
    ]
    assert refused == []


@pytest.mark.parametrize(("code", "version"), [(0, 1), (3, 7), (126, 2), (127, 1), (161, 30)])
def test_a_probe_is_a_file_with_that_operator(code: int, version: int) -> None:
    description = describe(probe(code, version))
    assert [(o.code, o.version) for o in description.operators] == [(code, version)]
    assert description.tensors == ("x",)
    assert description.signature == ""


def test_the_names_are_those_of_the_schema() -> None:
    for code, entry in OPERATORS.items():
        (operator,) = describe(probe(code, 1)).operators
        assert operator.name == entry["name"]


def test_unknown_operators() -> None:
    known, newer, custom = Operator(3, "CONV_2D", 7), Operator(3, "CONV_2D", 8), Operator(32, "Mine", 1)
    stablehlo = Operator(199, "STABLEHLO_SORT", 1)
    assert unknown_operators((known,)) == []
    assert unknown_operators((known, newer, custom, stablehlo)) == [newer, custom, stablehlo]
    assert str(newer) == "CONV_2D v8"


def test_what_is_no_tflite_file() -> None:
    with pytest.raises(ValueError, match="TFL3"):
        describe(b"\x10\0\0\0ONNX" + b"\0" * 64)
