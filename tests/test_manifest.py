"""What an artifact says of itself: written, read back, checked entry by entry and against its model."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnfold import container, manifest
from bnfold.errors import ArtifactError, InternalError, PlatformError

from .test_container import ONNX, TFLITE

PAYLOADS: dict[str, bytes] = {"onnx": ONNX, "tflite": TFLITE}
FORMATS = pytest.mark.parametrize("target", ["onnx", "tflite"])


def example(target: str = "onnx") -> dict[str, Any]:
    how = {"layout": "NCHW", "color": "rgb", "resize": "crop", "scale": 1 / 255}
    image = {"name": "image", "tensor": "in0", "shape": [None, 3, 4, 5], "dtype": "float32"}
    array = manifest.pack_array("float32", (1,), b"\0\0\x80\x3f")
    return {
        "schema": 1, "bnfold": "0.1.0", "name": "größe", "target": target, "role": "clean",
        "precision": "fp32", "source": {"name": "a.pt", "sha256": "0" * 64, "format": "torch"},
        "libraries": {"torch": "2.13.0"},
        "inputs": [
            {**image, "normalisation": {**how, "mean": [0.5], "std": [1, 2, 3]}},
            {"name": "speed", "tensor": "in1", "shape": [1], "dtype": "float32", "normalisation": None},
        ],
        "outputs": [{"name": "y", "tensor": "out0", "shape": [1], "dtype": "float32"}],
        "labels": ["猫", "dog"], "parity": [],
        "batch_norms": [
            {"name": "bn1", "channels": 2, "status": "folded", "rules": [], "into": ["c"], "reason": None}
        ],
        "noise_floor": {"y": 1e-7}, "runs_on": [{"runtime": "onnxruntime", "version": "1", "basis": "ran"}],
        "golden": {
            "inputs": {"image": array, "speed": array},
            "outputs": {"y": {**array, "tolerance": 1e-6}},
        },
        "drift_reference": None, "later": {"kept": True},
    }  # fmt: skip


def sealed(target: str = "onnx") -> bytes:
    return manifest.embed(PAYLOADS[target], example(target))


def refusal(data: bytes) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        manifest.parse(data, where="the file")
    assert caught.value.where == "the file"
    return caught.value


def with_text(text: str, target: str = "onnx") -> bytes:
    """A file with this text in the manifest's place."""
    if target == "onnx":
        return container.join_onnx(ONNX, text)
    return container.join_tflite(TFLITE, {container.MEMBER: text})


@FORMATS
def test_there_and_back(target: str, tmp_path: Path) -> None:
    path = tmp_path / "größe.bin"
    path.write_bytes(sealed(target))
    read = manifest.read(path)
    integrity = read.pop("integrity")
    assert read == example(target)
    assert list(read) == list(example(target))
    assert integrity["model_bytes"] == len(PAYLOADS[target])
    assert manifest.strip(path.read_bytes()) == PAYLOADS[target]
    assert manifest.detect(path.read_bytes()) == target


@FORMATS
def test_embedding_again_replaces_and_the_same_gives_the_same_bytes(target: str) -> None:
    once = sealed(target)
    other = {**example(target), "name": "other", "labels": None}
    assert manifest.parse(manifest.embed(once, other))["name"] == "other"
    assert manifest.embed(manifest.embed(once, other), example(target)) == once == sealed(target)
    # a manifest that was read carries its old checksum, which does not count
    assert manifest.embed(PAYLOADS[target], manifest.parse(once)) == once


def test_labels_stand_in_the_archive_as_tflite_readers_expect() -> None:
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(sealed("tflite"))) as archive:
        assert archive.read("labels.txt").decode() == "猫\ndog\n"
    without = manifest.embed_tflite(TFLITE, {**example("tflite"), "labels": None})
    with zipfile.ZipFile(io.BytesIO(without)) as archive:
        assert archive.namelist() == ["bnfold.json"]


@FORMATS
def test_an_edit_after_sealing_is_noticed(target: str) -> None:
    text = container.split(sealed(target), "")[2]
    assert text is not None
    for before, after in (("dog", "dig"), ("1e-06", "1e-01"), ('"kept":true', '"kept":false')):
        assert before in text.decode()
        error = refusal(with_text(text.decode().replace(before, after), target))
        assert error.code == "BNF-M007"
        assert "checksum" in error.what
    assert manifest.parse(with_text(text.decode(), target))["name"] == "größe"


@FORMATS
def test_a_changed_weight_is_noticed(target: str) -> None:
    data = bytearray(sealed(target))
    data[len(PAYLOADS[target]) - 1] ^= 1  # in both formats the last byte is content, not structure
    assert refusal(bytes(data)).code == "BNF-M007"


@FORMATS
def test_no_manifest(target: str) -> None:
    error = refusal(PAYLOADS[target])
    assert error.code == "BNF-M004"
    assert "without a bnfold manifest" in error.what
    # half of a TFLite file looks like this; half of an ONNX file is damaged, BNF-M003
    assert ("if it was cut short" in error.fix) == (target == "tflite")


def test_a_newer_schema_says_who_wrote_it() -> None:
    error = refusal(with_text(json.dumps({"schema": 2, "bnfold": "3.4.5"})))
    assert error.code == "BNF-M005"
    assert "schema 2" in error.what
    assert "3.4.5" in error.fix


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '{"schema": NaN}', '{"schema": 1', "[" * 10**5, "\ufeff{}", '{"a": 1}{}'],
)
def test_not_json(text: str) -> None:
    assert refusal(with_text(text)).code == "BNF-M006"


def test_not_utf8() -> None:
    data = with_text('{"schema": "x"}').replace(b'"x"', b'"\xff"')
    assert refusal(data).code == "BNF-M006"


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


HOW = ("inputs", 0, "normalisation")
MALFORMED = [
    (put("schema", value=0), "schema is 0"),
    (put("schema", value=True), "schema is bool, not int"),
    (drop("schema"), "schema is missing"),
    (drop("name"), "name is missing"),
    (put("bnfold", value=1), "bnfold is int, not str"),
    (put("target", value="tflite"), "target is 'tflite', not onnx"),
    (put("role", value="spare"), "role is 'spare'"),
    (put("source", value=[]), "source is list, not dict"),
    (put("inputs", value=[]), "inputs is empty"),
    (put("outputs", value=[3]), "outputs[0] is int, not dict"),
    (put("labels", value=["a", 1]), "labels[1] is int, not str"),
    (put("runs_on", value=["x"]), "runs_on[0] is str, not dict"),
    (drop("golden"), "golden is missing"),
    (put("noise_floor", "y", value="small"), "noise_floor.y is 'small', not a number"),
    (put("noise_floor", "y", value=10**400), "noise_floor.y is too large"),
    (drop("inputs", 0, "tensor"), "inputs[0].tensor is missing"),
    (put("inputs", 0, "dtype", value="float33"), "inputs[0].dtype is 'float33'"),
    (put("inputs", 0, "dtype", value="int32"), "inputs[0].dtype is 'int32', not float16"),
    (put("inputs", 1, "name", value="image"), "inputs names a tensor twice: image, image"),
    (put("inputs", 1, "shape", value=[-1]), "inputs[1].shape[0] is -1"),
    (put("inputs", 1, "shape", value=[1, None]), "inputs[1].shape[1] is None"),
    (put("inputs", 1, "shape", value=[1.0]), "inputs[1].shape[0] is 1.0"),
    (put("inputs", 1, "shape", value=[2**21, 2**20]), "elements"),
    (drop("inputs", 0, "normalisation"), "inputs[0].normalisation is missing"),
    (put(*HOW, "layout", value="CHW"), "normalisation.layout is 'CHW'"),
    (put(*HOW, "color", value=["rgb"]), "normalisation.color is ['rgb']"),
    (put(*HOW, "color", value="gray"), "normalisation.std has 3 numbers for 1 channels"),
    (put(*HOW, "resize", value="fit"), "normalisation.resize is 'fit'"),
    (drop(*HOW, "scale"), "normalisation.scale is missing"),
    (put(*HOW, "baked", value=[1]), "normalisation.baked is"),
    (
        put(*HOW, "baked", value={"scale": 1, "mean": [0], "std": [0]}),
        "normalisation.baked.std has a zero",
    ),
    (put(*HOW, "scale", value=True), "normalisation.scale is True, not a number"),
    (put(*HOW, "mean", value=[]), "normalisation.mean has 0 numbers"),
    (put(*HOW, "mean", value=[0.5, 0.5]), "normalisation.mean has 2 numbers for 3 channels"),
    (put(*HOW, "std", value=[1, 0.0, 1]), "normalisation.std has a zero"),
    (put(*HOW, "layout", value="NHWC"), "takes no rgb image in NHWC"),
    (put("inputs", 0, "shape", value=[1, 3, 4]), "takes no rgb image"),
    (drop("golden", "inputs", "speed"), "golden.inputs has ['image'] and not ['image', 'speed']"),
    (drop("golden", "outputs", "y", "tolerance"), "golden.outputs.y.tolerance is missing"),
    (put("golden", "outputs", "y", "shape", value=[None]), "golden.outputs.y.shape[0] is None"),
    (put("golden", "inputs", "image", "data", value=3), "golden.inputs.image.data is int"),
    (drop("integrity", "checksum"), "integrity.checksum is missing"),
    (drop("integrity"), "integrity is missing"),
]


@pytest.mark.parametrize(("change", "says"), MALFORMED, ids=[says for _, says in MALFORMED])
def test_malformed(change: Callable[[dict[str, Any]], None], says: str) -> None:
    document = manifest.parse(sealed())
    change(document)
    error = refusal(with_text(json.dumps(document)))
    assert error.code == "BNF-M006"
    assert says in error.what
    if "integrity" in says:
        return
    with pytest.raises(InternalError) as caught:  # and it is not written either
        manifest.embed_onnx(ONNX, document)
    assert caught.value.code == "BNF-X090"


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1, 2}, b"x", object()],
    ids=["nan", "inf", "set", "bytes", "object"],
)
def test_what_json_has_no_word_for_is_not_written(value: object) -> None:
    with pytest.raises(InternalError) as caught:
        manifest.embed_onnx(ONNX, {**example(), "later": value})
    assert caught.value.code == "BNF-X090"


def test_the_callers_document_is_left_as_it_was() -> None:
    document = example()
    before = copy.deepcopy(document)
    manifest.embed_onnx(ONNX, document)
    assert document == before


def test_the_wrong_format() -> None:
    with pytest.raises(ArtifactError) as caught:
        manifest.embed_onnx(TFLITE, example())
    assert caught.value.code == "BNF-M002"
    assert caught.value.what == "not an ONNX file, but a TFLite file"
    with pytest.raises(ArtifactError) as caught:
        manifest.embed_tflite(b"text", example("tflite"))
    assert caught.value.code == "BNF-M002"


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "nothing.onnx", tmp_path, tmp_path / "file" / "a.onnx", "null\0byte"):
        with pytest.raises(ArtifactError) as caught:
            manifest.read(path)
        assert caught.value.code == "BNF-M001"

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PlatformError) as denied:
        manifest.read(tmp_path / "file")
    assert denied.value.code == "BNF-P015"
