"""Where the manifest sits inside a model file: protobuf wire format for ONNX, an appended ZIP for TFLite.

Standard library only, and nothing here trusts the bytes: every length is checked against the file's end and
every step moves forward, so damaged or hostile files end in a coded error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from mmap import mmap
from typing import Literal, TypeAlias

from bnfold import plain_archive
from bnfold.errors import ArtifactError, ExportError

Target: TypeAlias = Literal["onnx", "tflite"]
Data: TypeAlias = "bytes | mmap"
"""The bytes of a file: read, or mapped."""

KEY = "bnfold.manifest"
MEMBER = "bnfold.json"
NAMES: dict[Target, str] = {"onnx": "an ONNX", "tflite": "a TFLite"}

_MAX_BYTES = 2**31 - 1  # both formats address their content with 31 bits
_MAX_DOCUMENT = 2**26  # far above any manifest: a bound for hostile files
_METHODS = (0, 8)  # of the ZIP format: stored, deflated
_METADATA_PROPS, _GRAPH = 14, 7  # field numbers of onnx.ModelProto
_END_OF_ARCHIVE, _END_SIZE = b"PK\x05\x06", 22


def detect(data: Data) -> Target | None:
    """The format of a model file by its first bytes; None where it is neither.

    A TFLite file has the identifier ``TFL3`` at byte 4; ONNX has no magic number, but its serializers write
    the fields in order, and the first is ``ir_version``, a varint in field 1.
    """
    if data[4:8] == b"TFL3":
        return "tflite"
    return "onnx" if data[:1] == b"\x08" and len(data) > 2 and 0 < data[1] < 0x80 else None


def split(data: Data, where: str) -> tuple[Target, bytes, bytes | None]:
    """Format, the model's own bytes, and the manifest's bytes if there are any.

    Raises:
        ArtifactError: as :func:`parts`.
    """
    target, payload, text = parts(data, where)
    return target, bytes(payload), text


def parts(data: Data, where: str) -> tuple[Target, bytes | memoryview, bytes | None]:
    """Like :func:`split`, without a copy of the model's own bytes where they stand in one piece.

    They do in what bnfold wrote; another tool may write an ONNX file anew with the manifest amid them.

    Raises:
        ArtifactError: BNF-M002 neither ONNX nor TFLite; BNF-M003 damaged.
    """
    target = detect(data)
    if target is None:
        raise ArtifactError(
            "BNF-M002",
            f"neither an ONNX nor a TFLite file, but {_looks_like(data)}",
            where=where,
            fix="name a .onnx or .tflite file written by bnfold convert",
        )
    payload, text = (_split_onnx if target == "onnx" else _split_tflite)(data, where)
    return target, payload, text


def join_onnx(payload: bytes, text: str) -> bytes:
    """The model with the manifest appended as one more entry of ``metadata_props``."""
    return _limited(payload + _field(_METADATA_PROPS, _field(1, KEY.encode()) + _field(2, text.encode())))


def join_tflite(payload: bytes, members: Mapping[str, str]) -> bytes:
    """The model with an archive of these text files appended.

    The members are stored uncompressed, as readers of TFLite metadata expect, and dated 1980-01-01, so that
    the same arguments give the same bytes on every operating system.
    """
    import io
    import zipfile

    file = io.BytesIO()
    file.write(payload)
    # The offsets in the archive count from the start of the file, as in TFLite's own metadata. Not mode "a":
    # it takes the mark PK\5\6 among the last weights for the end of an archive, and writes over what follows.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, text in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, text.encode())
    return _limited(file.getvalue())


def _limited(data: bytes) -> bytes:
    if len(data) > _MAX_BYTES:
        raise ExportError(
            "BNF-E090",
            f"the model takes {len(data)} bytes; one file can hold {_MAX_BYTES}",
            fix="export a smaller model: bnfold writes one file per artifact",
        )
    return data


def _damaged(what: str, where: str) -> ArtifactError:
    return ArtifactError(
        "BNF-M003", f"the file is damaged: {what}", where=where, fix="copy the file again, or convert again"
    )


def _split_onnx(data: Data, where: str) -> tuple[bytes | memoryview, bytes | None]:
    text: bytes | None = None
    kept: list[memoryview] = []
    whole = memoryview(data)
    done, graph = 0, False  # done: everything before it is in `kept` or was the manifest
    try:
        for number, start, value, end in _fields(data, 0, len(data)):
            graph = graph or number == _GRAPH
            if number == _METADATA_PROPS and (found := _entry(data, value, end)) is not None:
                kept.append(whole[done:start])
                text, done = found, end
    except _WireError as error:
        raise _damaged(str(error), where) from error
    if not graph:
        raise _damaged("it holds no ONNX graph", where)
    kept.append(whole[done:])
    pieces = [piece for piece in kept if piece]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), text


def _entry(data: Data, start: int, end: int) -> bytes | None:
    """The value of a ``StringStringEntryProto`` whose key is ours."""
    parts = {number: data[value:stop] for number, _, value, stop in _fields(data, start, end)}
    if parts.get(1) != KEY.encode():
        return None
    text = parts.get(2, b"")
    if len(text) > _MAX_DOCUMENT:
        raise _WireError(f"its manifest has {len(text):,} bytes, of at most {_MAX_DOCUMENT:,}")
    return text


class _WireError(ValueError):
    """Bytes that are no protobuf message."""


def _fields(data: Data, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start, start of the value, end) of the fields of a protobuf message.

    Every step moves forward by at least one byte, and a length that points past the end is an error.
    """
    while position < end:
        start = position
        tag, position = _varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        value = position
        if kind == 0:
            _, position = _varint(data, position, end)
        elif kind == 1:
            position += 8
        elif kind == 2:
            length, value = _varint(data, position, end)
            position = value + length
        elif kind == 5:
            position += 4
        else:
            raise _WireError(f"wire type {kind} at byte {start}")
        if number == 0:
            raise _WireError(f"field number 0 at byte {start}")
        if position > end:
            raise _WireError(f"field {number} at byte {start} ends at byte {position}, the file at {end}")
        yield number, start, value, position


def _varint(data: Data, position: int, end: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _WireError(f"the file ends inside a number at byte {position}")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise _WireError(f"a number of more than 10 bytes ends at byte {position}")


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field, serialized."""
    return _encode_varint(number << 3 | 2) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _split_tflite(data: Data, where: str) -> tuple[bytes | memoryview, bytes | None]:
    root = int.from_bytes(data[:4], "little")
    if not 8 <= root <= len(data) - 4:
        raise _damaged(f"its root table is at byte {root}, and the file has {len(data)}", where)
    if not _ends_in_archive(data):
        if data.find(MEMBER.encode()) >= 0:
            raise _damaged("the archive at its end, with the manifest, is cut off", where)
        return memoryview(data), None
    found = plain_archive.read(data, _MAX_DOCUMENT)
    if found is None or found[0] <= root:
        found = _read_archive(data, root, where)
    start, members = found
    return memoryview(data)[:start], members.get(MEMBER)


def _read_archive(data: Data, root: int, where: str) -> tuple[int, dict[str, bytes]]:
    """Where an archive of any form starts, and its member with the manifest."""
    import io
    import struct
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            start = min((member.header_offset for member in members), default=len(data))
            if start <= root:
                raise zipfile.BadZipFile(f"it starts at byte {start}, inside the model")
            if any(member.compress_type not in _METHODS for member in members):
                raise zipfile.BadZipFile("its members are compressed in a way that no bnfold uses")
            if sum(member.file_size for member in members) > _MAX_DOCUMENT:
                raise zipfile.BadZipFile("its members claim to be larger than any manifest")
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{damaged} fails its CRC-32 check")
            return start, {MEMBER: archive.read(MEMBER)} if MEMBER in archive.namelist() else {}
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, IndexError,
        NotImplementedError, RuntimeError, OSError,
    ) as error:  # fmt: skip
        raise _damaged(f"the archive at its end cannot be read ({error})", where) from error


def _ends_in_archive(data: Data) -> bool:
    """Whether an end-of-archive record closes the file, its comment included.

    The four bytes of its signature alone may well occur among a model's weights.
    """
    at = data.rfind(_END_OF_ARCHIVE, max(0, len(data) - _END_SIZE - 0xFFFF))
    return at >= 0 and at + _END_SIZE + int.from_bytes(data[at + 20 : at + 22], "little") == len(data)


def _looks_like(data: Data) -> str:
    """What a file that is no artifact is instead, for the message."""
    head = data[:512].lstrip()
    if not data:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (git lfs pull fetches the file)"
    if head[:5].lower() in (b"<!doc", b"<html"):
        return "an HTML page"
    if data[:2] == b"PK":
        return "a ZIP archive, as torch.save writes it"
    if data[:1] == b"\x80":
        return "a pickle"
    if data[8:9] == b"{":
        return "a safetensors file"
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}"
