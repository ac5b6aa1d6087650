"""A file that is not what bnfold wrote is never answered from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bnfold
from bnfold import container, manifest
from bnfold.errors import ArtifactError

from .conftest import Case, Cli

pytestmark = pytest.mark.device


def refusal(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        bnfold.open(path)
    return caught.value


def code_of(data: bytes) -> str | None:
    try:
        manifest.parse(data)
    except ArtifactError as error:
        return error.code
    return None


def test_cut_off_anywhere(sensor: Case) -> None:
    data = sensor.path.read_bytes()
    assert code_of(data) is None
    codes = {code_of(data[:length]) for length in range(len(data))}
    # damaged, or (where the cut is right before the manifest) without one, or too short to be anything
    assert codes <= {"BNF-M002", "BNF-M003", "BNF-M004"}
    assert "BNF-M003" in codes


def test_one_flipped_bit_anywhere(sensor: Case) -> None:
    """Either it is noticed, or model and manifest say what they said: 1E-06 for 1e-06, an archive's date."""
    data = sensor.path.read_bytes()
    good = manifest.parse(data), manifest.strip(data)
    unnoticed = 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        if code_of(bytes(flipped)) is None:
            unnoticed += 1
            assert (manifest.parse(bytes(flipped)), manifest.strip(bytes(flipped))) == good
    assert unnoticed < len(data) / 100


@pytest.mark.parametrize("region", ["weights", "manifest"])
def test_a_flipped_byte_in_the_file(case: Case, region: str, tmp_path: Path) -> None:
    """In the weights no interpreter would notice, and another answer would come out."""
    data = bytearray(case.path.read_bytes())
    model = len(manifest.strip(bytes(data)))
    data[model // 2 if region == "weights" else data.index(b'"batch_norms"', model) + 3] ^= 0x10
    path = tmp_path / case.path.name
    path.write_bytes(data)
    error = refusal(path)
    assert error.code in {"weights": ("BNF-M007",), "manifest": ("BNF-M003", "BNF-M006", "BNF-M007")}[region]
    assert error.where == str(path)


def test_a_model_under_the_manifest_of_another(
    digits: Case, case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    other = case_of(digits.name.replace("mobilenet", "mlp"))
    payload = manifest.strip(other.path.read_bytes())
    text = container.split(digits.path.read_bytes(), "digits")[2]
    assert text is not None
    path = tmp_path / digits.path.name
    if path.suffix == ".onnx":
        path.write_bytes(container.join_onnx(payload, text.decode()))
    else:
        path.write_bytes(container.join_tflite(payload, {container.MEMBER: text.decode()}))
    assert refusal(path).code == "BNF-M007"


@pytest.mark.parametrize(
    ("kind", "said", "found"), [("inputs", [1, 3, 33], [1, 3, 32]), ("outputs", [1, 5], [1, 4])]
)
def test_a_manifest_of_other_tensors(
    sensor: Case, tmp_path: Path, kind: str, said: list[int], found: list[int]
) -> None:
    """A checksum that is right does not help where the manifest is wrong."""
    document = manifest.read(sensor.path)
    document[kind][0]["shape"] = said
    document["golden"] = None
    path = tmp_path / sensor.path.name
    path.write_bytes(manifest.embed(manifest.strip(sensor.path.read_bytes()), document))
    error = refusal(path)
    assert error.code == "BNF-M011"
    assert f"on the {kind}: " in error.what
    assert f"{tuple(said)} in the manifest" in error.what
    assert f"{found}" in error.what


def newer(path: Path) -> bytes:
    """As a later bnfold might write it, with entries that this one does not know."""
    payload = manifest.strip(path.read_bytes())
    text = json.dumps({"schema": 2, "bnfold": "9.1.0", "tensors": []})
    if path.suffix == ".onnx":
        return container.join_onnx(payload, text)
    return container.join_tflite(payload, {container.MEMBER: text})


@pytest.mark.parametrize("command", ["open", "run", "inspect"])
@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("newer", "M005", "schema 2"),
        ("no manifest", "M004", "without a bnfold manifest"),
        ("text", "M002", "neither an ONNX nor a TFLite file"),
        ("page", "M002", "an HTML page"),
        ("pointer", "M002", "a Git LFS pointer"),
        ("empty", "M002", "an empty file"),
        ("cut off", "M003", "damaged"),
        ("folder", "M001", "no artifact here"),
        ("nothing", "M001", "no artifact here"),
    ],
)
def test_not_an_artifact(
    digits: Case, cli: Cli, tmp_path: Path, kind: str, code: str, says: str, command: str
) -> None:
    path = tmp_path / digits.path.name
    data = digits.path.read_bytes()
    contents = {
        "newer": newer(digits.path), "no manifest": manifest.strip(data), "text": b"not a model at all",
        "page": b"<!DOCTYPE html><html></html>", "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "empty": b"", "cut off": data[:-100],
    }  # fmt: skip
    if kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.write_bytes(contents[kind])
    if command == "open":
        error = refusal(path)
        assert error.code == f"BNF-{code}"
        assert says in error.what
        assert error.where == str(path)
        return
    result = cli(command, path, *(["--self-test"] if command == "run" else []), "--format", "json")
    assert result.status == 2
    assert result.document["error"]["code"] == f"BNF-{code}"
    assert result.err.startswith(f"error[BNF-{code}]: ")
    assert says in result.document["error"]["what"]
    assert "Traceback" not in result.err
