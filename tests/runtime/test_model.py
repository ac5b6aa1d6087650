"""An opened artifact: what the device tests, with float inputs of fixed size, cannot show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import bnfold
from bnfold import manifest
from bnfold.errors import ArtifactError, BnfoldError, InputError, UsageError
from bnfold.runtime import Model, OutputCheck, golden

from .models import Tensors, artifact, document, onnx_bytes

DOUBLE = [helper.make_node("Add", ["_x", "_x"], ["_y"])]


def doubling(folder: Path, shape: list[int | None], dtype: str = "float32") -> Model:
    tensors = (dtype, shape)
    return bnfold.open(artifact(folder, DOUBLE, {"_x": tensors}, {"_y": tensors}))


def test_a_symbolic_batch_takes_any_number(tmp_path: Path) -> None:
    model = doubling(tmp_path, [None, 2])
    for count in (1, 3):
        rows = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
        assert model.predict(rows)["y"].tolist() == (rows * 2).tolist()
    assert model.predict([1.0, 2.0])["y"].tolist() == [[2, 4]]
    assert model.inputs[0].describe() == "x: float32 (batch, 2)"


@pytest.mark.parametrize("dtype", ["int64", "int32", "float64", "uint8", "int8"])
def test_inputs_of_other_dtypes(tmp_path: Path, dtype: str) -> None:
    if dtype in ("uint8", "int8"):  # onnxruntime has no addition of these
        nodes, factor = [helper.make_node("Identity", ["_x"], ["_y"])], 1
    else:
        nodes, factor = DOUBLE, 2
    tensors = {"_x": (dtype, [1, 3])}
    model = bnfold.open(artifact(tmp_path, nodes, tensors, {"_y": (dtype, [1, 3])}))
    given = np.array([[1, 2, 3]], dtype=dtype)
    (answer,) = model.predict(given).values()
    assert answer.dtype == dtype
    assert answer.tolist() == [[factor, 2 * factor, 3 * factor]]


def test_repr_and_attributes(tmp_path: Path) -> None:
    model = doubling(tmp_path, [1, 2])
    assert repr(model) == f"<bnfold Model 'small' on {model.runtime}>"
    assert model.runtime.startswith("onnxruntime ")
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["x", "y"]


def test_top_of_one_output_of_several(tmp_path: Path) -> None:
    nodes = [*DOUBLE, helper.make_node("Neg", ["_x"], ["_minus"])]
    tensors = ("float32", [1, 3])
    path = artifact(
        tmp_path, nodes, {"_x": tensors}, {"_y": tensors, "_minus": tensors}, labels=["a", "b", "c"]
    )
    model = bnfold.open(path)
    outputs = model.predict([1.0, 3.0, 2.0])
    assert [(s.label, s.score) for s in model.top(outputs, 2, output="y")] == [("b", 6), ("c", 4)]
    assert [(s.label, s.score) for s in model.top(outputs, 1, output="minus")] == [("a", -1)]
    assert model.top(outputs["minus"], 1) == model.top(outputs, 1, output="minus")
    for output, says in ((None, "the model has 2 outputs"), ("z", "no output 'z'")):
        with pytest.raises(UsageError, match=says) as caught:
            model.top(outputs, output=output)
        assert caught.value.code == "BNF-U062"
        assert caught.value.fix == "name one of y, minus"


def test_the_interpreter_stops(tmp_path: Path) -> None:
    """An index outside of the table: the frame's fault, and no crash."""
    nodes = [helper.make_node("Gather", ["table", "_x"], ["_y"])]
    table = {"table": np.array([10, 20, 30], dtype=np.float32)}
    path = artifact(tmp_path, nodes, {"_x": ("int64", [2])}, {"_y": ("float32", [2])}, weights=table)
    model = bnfold.open(path)
    assert model.predict_raw(np.array([2, 0]))["y"].tolist() == [30, 10]
    with pytest.raises(ArtifactError) as caught:
        model.predict_raw(np.array([0, 7]))
    assert caught.value.code == "BNF-M012"
    assert caught.value.where == "model 'small'"
    assert model.runtime in caught.value.what
    assert model.predict_raw(np.array([1, 1]))["y"].tolist() == [20, 20]


def test_a_model_that_the_interpreter_does_not_take(tmp_path: Path) -> None:
    nodes = [helper.make_node("Nonesuch", ["_x"], ["_y"])]
    tensors = ("float32", [1, 2])
    ran = [{"runtime": "onnxruntime", "version": "9.9", "basis": "ran"}]
    path = artifact(tmp_path, nodes, {"_x": tensors}, {"_y": tensors}, runs_on=ran)
    with pytest.raises(ArtifactError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-M010"
    assert "Nonesuch" in caught.value.what
    assert len(caught.value.what.splitlines()) == 1
    assert caught.value.where == str(path)
    assert caught.value.fix == "known to run in onnxruntime 9.9: install that version"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"_x": ("float32", [1, 3])}, "x: float32 (1, 3) in the manifest, float32 [1, 2] for _x"),
        ({"_x": ("float64", [1, 2])}, "x: float64 (1, 2) in the manifest"),
        ({"_x": ("float32", [2])}, "x: float32 (2) in the manifest"),
        ({"_z": ("float32", [1, 2])}, "_z in the manifest, _x in the model"),
        ({"_x": ("float32", [1, 2]), "_z": ("float32", [1])}, "_x, _z in the manifest, _x in the model"),
    ],
)
def test_a_manifest_about_another_model(tmp_path: Path, said: Tensors, says: str) -> None:
    tensors = {"_y": ("float32", [1, 2])}
    data = onnx_bytes(DOUBLE, {"_x": ("float32", [1, 2])}, tensors)
    path = tmp_path / "small.onnx"
    path.write_bytes(manifest.embed_onnx(data, document(said, tensors)))
    with pytest.raises(ArtifactError) as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-M011"
    assert says in caught.value.what
    assert "the inputs" in caught.value.what


def test_an_output_may_be_left_out_of_the_manifest_but_not_invented(tmp_path: Path) -> None:
    tensors = ("float32", [1, 2])
    nodes = [*DOUBLE, helper.make_node("Neg", ["_x"], ["_n"])]
    data = onnx_bytes(nodes, {"_x": tensors}, {"_y": tensors, "_n": tensors})
    path = tmp_path / "small.onnx"
    path.write_bytes(manifest.embed_onnx(data, document({"_x": tensors}, {"_n": tensors})))
    assert {k: v.tolist() for k, v in bnfold.open(path).predict([1.0, 2.0]).items()} == {"n": [[-1, -2]]}
    path.write_bytes(manifest.embed_onnx(data, document({"_x": tensors}, {"_z": tensors})))
    with pytest.raises(ArtifactError, match="the outputs") as caught:
        bnfold.open(path)
    assert caught.value.code == "BNF-M011"


def test_self_test_of_an_exact_answer_and_of_one_a_hair_beyond(tmp_path: Path) -> None:
    tensors = ("float32", [1, 2])
    frame = np.array([[1, 2]], dtype=np.float32)
    for answer, passed in (([[2.0, 4.5]], True), ([[2.0, 4.5 + 2**-20]], False), ([[2.0]], False)):
        record = golden.record({"x": frame}, {"y": np.array(answer, np.float32)}, {"y": 0.5})
        model = bnfold.open(artifact(tmp_path, DOUBLE, {"_x": tensors}, {"_y": tensors}, golden=record))
        (check,) = model.self_test()
        assert check.passed is passed
        assert check.tolerance == 0.5
    assert json.loads(json.dumps(check.to_json()))["max_abs_error"] is None
    assert OutputCheck("y", 0.25, 0.5, True).to_json() == {
        "output": "y", "max_abs_error": 0.25, "tolerance": 0.5, "passed": True,
    }  # fmt: skip


def test_self_test_of_integers_counts_those_that_differ(tmp_path: Path) -> None:
    tensors = ("int32", [1, 4])
    frame = np.array([[1, 2, 3, 4]], np.int32)
    answer = np.array([[2, 4, 6, 800]], np.int32)  # the last is another one, no matter by how much
    for tolerance, passed in ((0.25, True), (0.2, False), (0.0, False)):
        record = golden.record({"x": frame}, {"y": answer}, {"y": tolerance})
        model = bnfold.open(artifact(tmp_path, DOUBLE, {"_x": tensors}, {"_y": tensors}, golden=record))
        assert model.self_test() == [OutputCheck("y", 0.25, tolerance, passed)]


def test_a_golden_frame_of_another_shape_than_the_input(tmp_path: Path) -> None:
    tensors = ("float32", [1, 2])
    frame = np.zeros((1, 3), dtype=np.float32)
    record = golden.record({"x": frame}, {"y": frame}, {"y": 0.5})
    model = bnfold.open(artifact(tmp_path, DOUBLE, {"_x": tensors}, {"_y": tensors}, golden=record))
    with pytest.raises(InputError) as caught:
        model.self_test()
    assert caught.value.code == "BNF-R010"


def test_no_such_file_and_no_such_runtime(tmp_path: Path) -> None:
    doubling(tmp_path, [1, 2])
    for arguments, code in (
        ({"artifact": tmp_path / "none.onnx"}, "M001"),
        ({"artifact": tmp_path / "small.onnx", "runtime": "tflite-runtime"}, "U060"),
        ({"artifact": tmp_path / "small.onnx", "threads": -1}, "U061"),
    ):
        with pytest.raises(BnfoldError) as caught:
            bnfold.open(**arguments)
        assert caught.value.code == f"BNF-{code}"
