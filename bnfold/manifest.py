"""What an artifact says of itself: one JSON document inside the model file. Standard library only.

ONNX: an entry ``bnfold.manifest`` of ``metadata_props``. Appending a serialized field to a serialized
protobuf message is a legal merge, so embedding needs no onnx package: the model's own bytes stay as they are.
TFLite: a ZIP archive appended to the file (the convention of TFLite model metadata) with the members
``bnfold.json`` and, where there are labels, ``labels.txt``. Interpreters ignore both.

``integrity`` is added on embedding: the size of the model's own bytes, and a checksum of them and the rest of
the document (:mod:`bnfold.checksum`). :func:`read` checks it, so that a flipped bit in a weight, or an edit
after the parity check, is an error and not another answer.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bnfold import manifest_schema
from bnfold.checksum import checksum
from bnfold.container import MEMBER, NAMES, Data, Target, detect, join_onnx, join_tflite, parts, split
from bnfold.errors import ArtifactError, InternalError
from bnfold.files import reading, refuse_special

if TYPE_CHECKING:
    from bnfold.finding import Finding  # findings are the exception, and dataclasses take a while to import

__all__ = [
    "SCHEMA", "Manifest", "Target", "detect", "embed", "embed_onnx", "embed_tflite", "examine", "pack_array",
    "parse", "read", "read_bytes", "refusal", "strip", "unpack_array",
]  # fmt: skip

Manifest: TypeAlias = dict[str, Any]

SCHEMA = manifest_schema.SCHEMA
LABELS_MEMBER = "labels.txt"
_MOST_CONTAINERS = 2**20


# --- files -----------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of the artifact at ``path``, checked against the file's bytes and its schema.

    Raises:
        ArtifactError: BNF-M001 no such file; and as :func:`parse`.
        PlatformError: BNF-P015 the file cannot be read.
    """
    return parse(read_bytes(path), where=str(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of the artifact at ``path``.

    Raises:
        ArtifactError: BNF-M001 no such file, or a folder.
        PlatformError: BNF-P015 the operating system refuses to read it; BNF-P016 a pipe or a device.
    """
    refuse_special(path)
    with reading(path):
        return Path(path).read_bytes()


# --- bytes -----------------------------------------------------------------------------------------------


def parse(data: Data, *, where: str = "artifact") -> Manifest:
    """The manifest inside the bytes of an artifact.

    Raises:
        ArtifactError: BNF-M002 neither ONNX nor TFLite; BNF-M003 damaged; BNF-M004 no manifest; BNF-M005
            written by a newer bnfold; BNF-M006 the manifest is not what schema 1 says; BNF-M007 the file was
            changed after bnfold wrote it.
    """
    manifest, changed = examine(data, where=where)
    for finding in changed:
        raise refusal(finding)
    return manifest


def refusal(changed: Finding) -> ArtifactError:
    """The error for a file that :func:`examine` found changed."""
    return ArtifactError(changed.code, changed.message, where=changed.where, fix=changed.remedy)


def examine(data: Data, *, where: str = "artifact") -> tuple[Manifest, list[Finding]]:
    """Like :func:`parse`, for a check that measures what a changed file computes: BNF-M007 is a finding.

    Raises:
        ArtifactError: BNF-M002 to BNF-M006 as :func:`parse`.
    """
    target, payload, text = parts(data, where)
    if text is None:
        # a TFLite file that was cut short looks the same: the manifest is its end, and no length is written
        cut = "copy it again if it was cut short, or " if target == "tflite" else ""
        raise ArtifactError(
            "BNF-M004",
            f"{NAMES[target]} file without a bnfold manifest: its inputs and their preparation are unknown",
            where=where,
            fix=f"{cut}convert the checkpoint with bnfold convert",
        )
    manifest = _document(text, where)
    manifest_schema.check(manifest, target, where)
    return manifest, _changes(manifest, text, payload, where)


def strip(data: bytes) -> bytes:
    """The model's own bytes, as they were before the manifest was embedded.

    Raises:
        ArtifactError: BNF-M002, BNF-M003 as for :func:`parse`.
    """
    return split(data, "artifact")[1]


def embed(data: bytes, manifest: Mapping[str, Any]) -> bytes:
    """The model file with the manifest inside, in the format that ``manifest["target"]`` names."""
    return embed_onnx(data, manifest) if manifest.get("target") == "onnx" else embed_tflite(data, manifest)


def embed_onnx(data: bytes, manifest: Mapping[str, Any]) -> bytes:
    """The serialized ``onnx.ModelProto`` with the manifest among its ``metadata_props``.

    A manifest that is there already is replaced. The same arguments give the same bytes.

    Raises:
        ArtifactError: BNF-M002 ``data`` is not ONNX; BNF-M003 it is damaged.
        ExportError: BNF-E090 the file would exceed 2 GB.
        InternalError: BNF-X090 the manifest does not follow its own schema.
    """
    payload = _payload(data, "onnx")
    text = _seal(manifest, "onnx", payload)
    return join_onnx(payload, text)


def embed_tflite(data: bytes, manifest: Mapping[str, Any]) -> bytes:
    """The TFLite flatbuffer with a ZIP archive appended that holds the manifest and the labels.

    An archive that is there already is replaced. The same arguments give the same bytes: members are stored
    uncompressed (as readers of TFLite metadata expect) and dated 1980-01-01.

    Raises:
        As :func:`embed_onnx`.
    """
    payload = _payload(data, "tflite")
    members = {MEMBER: _seal(manifest, "tflite", payload)}
    if manifest["labels"]:
        members[LABELS_MEMBER] = "".join(f"{label}\n" for label in manifest["labels"])
    return join_tflite(payload, members)


# --- arrays in JSON --------------------------------------------------------------------------------------


def pack_array(dtype: str, shape: tuple[int, ...], raw: bytes) -> dict[str, Any]:
    """An array as JSON: ``raw`` holds the elements in C order, little-endian."""
    import base64

    data = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
    return {"dtype": dtype, "shape": list(shape), "data": data}


def unpack_array(document: Mapping[str, Any], *, where: str) -> tuple[str, tuple[int, ...], bytes]:
    """dtype, shape and raw bytes of an array that :func:`pack_array` packed.

    Raises:
        ArtifactError: BNF-M008 the array is damaged: not base64, not zlib, or of another size.
    """
    import base64
    import binascii

    dtype, shape = str(document["dtype"]), tuple(document["shape"])
    size = manifest_schema.ITEM_SIZE[dtype]
    for axis in shape:
        size *= axis
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(document["data"], validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError, OverflowError) as error:
        raise ArtifactError("BNF-M008", f"a recorded array is damaged: {error}", where=where) from error
    if len(raw) != size or not unpacker.eof:
        raise ArtifactError(
            "BNF-M008",
            f"a recorded array is damaged: {len(raw)} bytes for {dtype} {list(shape)}, which takes {size}",
            where=where,
        )
    return dtype, shape, raw


# --- the document ----------------------------------------------------------------------------------------


def _seal(manifest: Mapping[str, Any], target: Target, payload: bytes) -> str:
    """The document as text, with its integrity record as the last entry."""
    document = {key: value for key, value in manifest.items() if key != "integrity"}
    try:
        text = _dumps(document)
        document["integrity"] = _integrity(payload, text.encode())
        sealed = _dumps(document)
        manifest_schema.check(json.loads(sealed), target, "manifest")
    except (ValueError, TypeError, ArtifactError) as error:
        what = error.what if isinstance(error, ArtifactError) else str(error)
        raise InternalError("BNF-X090", f"the manifest to be written is not well-formed: {what}") from error
    return sealed


def _dumps(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _integrity(payload: bytes | memoryview, *text: bytes | memoryview) -> dict[str, Any]:
    return {"model_bytes": len(payload), "checksum": f"{checksum(payload, *text):08x}"}


def _before_integrity(text: bytes, recorded: Mapping[str, Any]) -> tuple[memoryview, bytes] | None:
    """What was sealed, as it stands in the file; None where the text is not as :func:`_seal` writes it.

    Then it need not be written anew: at the start of a device that takes as long as reading it. Escaped
    characters may be halves of a pair, which no UTF-8 has.
    """
    if b"\\" in text:
        return None
    end = f',"integrity":{_dumps(recorded)}}}'.encode()
    return (memoryview(text)[: -len(end)], b"}") if text.endswith(end) else None


def _changes(manifest: Manifest, text: bytes, payload: bytes | memoryview, where: str) -> list[Finding]:
    """An error where model and manifest are not those that were sealed together."""
    recorded = manifest["integrity"]
    if (sealed := _before_integrity(text, recorded)) is not None and _integrity(payload, *sealed) == recorded:
        return []
    rest = {key: value for key, value in manifest.items() if key != "integrity"}
    try:
        found = _integrity(payload, _dumps(rest).encode())
    except (ValueError, RecursionError) as error:  # a lone surrogate: JSON, but none of ours
        raise ArtifactError(
            "BNF-M006", f"the manifest is malformed: {error}", where=where, fix="convert again"
        ) from error
    if found == recorded:
        return []
    from bnfold.finding import Finding

    return [
        Finding(
            "BNF-M007",
            "error",
            where,
            "the file is not what bnfold wrote: model and manifest have checksum "
            f"{found['checksum']} over {found['model_bytes']} model bytes; "
            f"recorded are {recorded['checksum']} over {recorded['model_bytes']}",
            {"found": found, "recorded": recorded},
            "copy the file again, or convert again: what was proven holds for the unchanged file only",
        )
    ]


def _document(text: bytes, where: str) -> Manifest:
    # each takes memory many times its size in the text, which has two characters of it
    containers = text.count(b"{") + text.count(b"[") if len(text) > 2 * _MOST_CONTAINERS else 0
    if containers > _MOST_CONTAINERS:
        raise ArtifactError(
            "BNF-M006",
            f"the manifest is malformed: {containers:,} lists and objects, of at most {_MOST_CONTAINERS:,}",
            where=where,
            fix="convert again",
        )
    try:
        document = json.loads(text.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ArtifactError(
            "BNF-M006", f"the manifest is not JSON: {error}", where=where, fix="convert again"
        ) from error
    if not isinstance(document, dict):
        raise ArtifactError("BNF-M006", "the manifest is not a JSON object", where=where, fix="convert again")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_constant(digits)


def _payload(data: bytes, target: Target) -> bytes:
    found, payload, _ = split(data, "model")
    if found != target:
        raise ArtifactError("BNF-M002", f"not {NAMES[target]} file, but {NAMES[found]} file", where="model")
    return payload
