"""The manifest's place in the file: the model's bytes stay as they are, and nothing read is trusted."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from bnfold import container
from bnfold.errors import ArtifactError, ExportError


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field, for numbers below 16 and contents below 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def entry(key: bytes, value: bytes) -> bytes:
    return field(14, field(1, key) + field(2, value))


IR_VERSION, GRAPH = b"\x08\x09", field(7, b"\x0a\x04node")
ONNX = IR_VERSION + field(2, b"pytorch") + GRAPH
# the place of the root table, the identifier, then weights, among them the mark that ends a ZIP archive
TFLITE = b"\x10\x00\x00\x00TFL3" + bytes(range(64)) + b"PK\x05\x06" + bytes(80)
TEXT = '{"labels":["größe","日本"]}'


def refusal(data: bytes) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        container.split(data, "the file")
    assert caught.value.where == "the file"
    return caught.value


def outcome(data: bytes) -> str | tuple[str, bytes, bytes | None]:
    """What split gives, or its code."""
    try:
        return container.split(data, "")
    except ArtifactError as error:
        return error.code


def test_detect() -> None:
    assert container.detect(ONNX) == "onnx"
    assert container.detect(TFLITE) == "tflite"
    for other in (b"", b"\x08", b"\x08\x00\x01", b"\x08\x80\x01", b"PK\x03\x04TFL", b"TFL3", b"\x80\x02}q"):
        assert container.detect(other) is None


@pytest.mark.parametrize("payload", [ONNX, TFLITE], ids=["onnx", "tflite"])
def test_without_a_manifest_all_bytes_are_the_models(payload: bytes) -> None:
    assert container.split(payload, "") == (container.detect(payload), payload, None)


def test_onnx_there_and_back() -> None:
    joined = container.join_onnx(ONNX, TEXT)
    assert joined.startswith(ONNX)
    assert container.split(joined, "") == ("onnx", ONNX, TEXT.encode())
    # it is what any protobuf reader sees as a further entry of metadata_props
    assert joined[len(ONNX) :] == entry(b"bnfold.manifest", TEXT.encode())


def test_onnx_reads_as_a_model_with_that_metadata() -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"author": "someone"})
    data = model.SerializeToString()
    long = TEXT * 2000  # a length of several bytes
    joined = container.join_onnx(data, long)
    read = onnx.load_model_from_string(joined)
    assert {item.key: item.value for item in read.metadata_props} == {
        "author": "someone",
        "bnfold.manifest": long,
    }
    assert container.split(joined, "") == ("onnx", data, long.encode())


def test_onnx_with_the_manifest_in_the_middle_and_other_metadata() -> None:
    """Another tool may write the fields in another order; the last entry of ours counts, as protobuf says."""
    other = entry(b"author", b"someone")
    ours = [entry(b"bnfold.manifest", text) for text in (b"old", b"new")]
    data = IR_VERSION + ours[0] + other + GRAPH + ours[1] + field(2, b"tail")
    assert container.split(data, "") == ("onnx", IR_VERSION + other + GRAPH + field(2, b"tail"), b"new")


def test_onnx_skips_every_kind_of_field() -> None:
    kinds = b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4)
    data = IR_VERSION + kinds + GRAPH
    assert container.split(data, "") == ("onnx", data, None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (IR_VERSION + field(2, b"pytorch"), "it holds no ONNX graph"),
        (ONNX[:-1], "ends at byte"),
        (ONNX + b"\x72\x80", "the file ends inside a number"),
        (ONNX + b"\x72\xff\xff\xff\xff\x7f", "ends at byte"),
        (ONNX + b"\x72" + b"\xff" * 11, "a number of more than 10 bytes"),
        (ONNX + b"\x73\x00", "wire type 3"),
        (ONNX + b"\x02\x00", "field number 0"),
        (ONNX + b"\x31\x00", "ends at byte"),
        (ONNX + field(14, b"\x0a\x7fbnfold.manifest"), "ends at byte"),
    ],
)
def test_onnx_damaged(data: bytes, says: str) -> None:
    error = refusal(data)
    assert error.code == "BNF-M003"
    assert says in error.what


def test_onnx_cut_off_anywhere_is_never_read_as_whole() -> None:
    joined = container.join_onnx(ONNX, TEXT)
    for length in range(len(joined)):
        found = outcome(joined[:length])
        if length == len(ONNX):  # between two fields
            assert found == ("onnx", ONNX, None)
        else:
            assert found in ("BNF-M002", "BNF-M003")


def test_tflite_there_and_back() -> None:
    joined = container.join_tflite(TFLITE, {"bnfold.json": TEXT, "labels.txt": "größe\n日本\n"})
    assert joined.startswith(TFLITE)
    assert container.split(joined, "") == ("tflite", TFLITE, TEXT.encode())
    with zipfile.ZipFile(io.BytesIO(joined)) as archive:  # as any unzip reads it
        assert archive.namelist() == ["bnfold.json", "labels.txt"]
        assert archive.read("labels.txt").decode() == "größe\n日本\n"
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
    assert joined == container.join_tflite(TFLITE, {"bnfold.json": TEXT, "labels.txt": "größe\n日本\n"})


def test_tflite_with_an_archive_of_others() -> None:
    """TFLite's own metadata: it is no manifest, and it is not part of the model's bytes either."""
    joined = container.join_tflite(TFLITE, {"labels.txt": "a\n"})
    assert container.split(joined, "") == ("tflite", TFLITE, None)


def test_tflite_cut_off_anywhere_after_the_model_is_damaged() -> None:
    joined = container.join_tflite(TFLITE, {"bnfold.json": TEXT})
    for length in range(len(TFLITE) + 50, len(joined)):  # from where the member's name is whole
        assert refusal(joined[:length]).code == "BNF-M003"


def test_tflite_flipped_bits() -> None:
    joined = container.join_tflite(TFLITE, {"bnfold.json": TEXT})
    for place in range(len(TFLITE), len(joined)):
        for bit in range(8):
            flipped = bytearray(joined)
            flipped[place] ^= 1 << bit
            # in the member's name, or in a field that decides nothing: never another text or another model
            fine = [("tflite", TFLITE, text) for text in (None, TEXT.encode())]
            assert outcome(bytes(flipped)) in ["BNF-M003", *fine]


@pytest.mark.parametrize(
    "data",
    [
        b"\x04\x00\x00\x00TFL3" + bytes(20),
        b"\xff\x00\x00\x00TFL3" + bytes(20),
        b"\x1c\x00\x00\x00TFL3",
    ],
)
def test_tflite_without_room_for_its_root_table(data: bytes) -> None:
    error = refusal(data)
    assert error.code == "BNF-M003"
    assert "root table" in error.what


def test_tflite_with_an_archive_that_claims_too_much() -> None:
    file = io.BytesIO(TFLITE)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bnfold.json", bytes(2**28 + 1))  # 260 kB in the file
    error = refusal(file.getvalue())
    assert error.code == "BNF-M003"
    assert "larger than any manifest" in error.what


def test_tflite_whose_archive_starts_inside_the_model() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("bnfold.json", TEXT)
    # its offsets count from its own start, so that zipfile takes everything before it for a prefix
    joined = b"\x40\x00\x00\x00TFL3" + archive.getvalue()
    assert refusal(joined).code == "BNF-M003"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\n <!DOCTYPE html>", "an HTML page"),
        (b"<HTML>", "an HTML page"),
        (b"PK\x03\x04rest", "a ZIP archive, as torch.save writes it"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "a safetensors file"),
        (b"\x89PNG\r\n\x1a\nIHDR", "12 bytes that begin with 89 50 4e 47"),
    ],
)
def test_what_it_is_instead(data: bytes, says: str) -> None:
    error = refusal(data)
    assert error.code == "BNF-M002"
    assert says in error.what


def test_random_bytes_end_in_a_code() -> None:
    generator = np.random.default_rng(5)
    for head in (b"\x08\x09", ONNX, b"\x10\x00\x00\x00TFL3", TFLITE + b"PK\x03\x04"):
        for _ in range(300):
            data = head + generator.bytes(int(generator.integers(0, 120)))
            found = outcome(data)
            assert found in ("BNF-M002", "BNF-M003") or found[1:] == (data, None)


def test_larger_than_both_formats_can_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_MAX_BYTES", len(ONNX) + 40)
    for join in (
        lambda: container.join_onnx(ONNX, TEXT),
        lambda: container.join_tflite(TFLITE, {"bnfold.json": TEXT}),
    ):
        with pytest.raises(ExportError) as caught:
            join()
        assert caught.value.code == "BNF-E090"


def test_the_parts_are_views_of_the_file() -> None:
    for joined, own in (
        (container.join_onnx(ONNX, TEXT), ONNX),
        (container.join_tflite(TFLITE, {container.MEMBER: TEXT}), TFLITE),
    ):
        _, payload, text = container.parts(joined, "")
        assert text == TEXT.encode()
        assert payload == own
        assert isinstance(payload, memoryview)
        assert payload.obj is joined
