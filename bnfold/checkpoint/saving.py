"""Writing a state dict back, in the format that it came in, with what it replaced riding along.

The record of the old values does not stand in the way of any reader: in a safetensors file it is an entry of
the metadata, in a file of torch.save one of the versions that ``module.state_dict()`` carries along
(``state_dict._metadata``), where no module has its name. So the file stays what it was: a state dict.
"""

from __future__ import annotations

import base64
import io
import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold._version import __version__
from bnfold.checkpoint import content, pickles
from bnfold.errors import CheckpointError
from bnfold.wording import clip, clip_path

if TYPE_CHECKING:
    from torch import Tensor

    from bnfold.checkpoint.states import Checkpoint

KEY = "bnfold.recalibration"
_SCHEMA = 1
# a safetensors file is the length of its header, the header, and the tensors' bytes
_LENGTH, _METADATA = 8, "__metadata__"

Record = dict[str, Any]


def record_of(old: Mapping[str, Tensor], how: Mapping[str, Any], previous: Record | None = None) -> Record:
    """What undoes a change of tensors.

    Args:
        old: the replaced tensors by key, bit for bit.
        how: what is told about the change; JSON types.
        previous: the record of the file before, which is undone next.
    """
    return {
        "schema": _SCHEMA,
        "bnfold": __version__,
        "how": dict(how),
        "old": {key: _encoded(tensor) for key, tensor in old.items()},
        "previous": previous,
    }


def read_record(path: Path, *, trust: bool = False) -> Record | None:
    """The record in a file; None where there is none. ``trust`` is as for `read`.

    Raises:
        CheckpointError: the file cannot be read, or its record is damaged (BNF-L041).
    """
    container = content.examine(path)
    if container == "safetensors":
        text = _safetensors_metadata(path).get(KEY)
    else:
        found = pickles.unpickle(path, container, trust=trust)
        metadata = getattr(found, "_metadata", None)
        text = metadata.get(KEY) if isinstance(metadata, Mapping) else None
    if text is None:
        return None
    try:
        record = json.loads(text)
        if record["schema"] != _SCHEMA or not isinstance(record["old"], dict):
            raise ValueError(f"schema {record['schema']!r}")
        restored(record)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise CheckpointError(
            "BNF-L041",
            f"the record of the old statistics in {clip_path(path.name)} is damaged",
            where=clip(error, 100),
            fix="use a copy of the checkpoint from before it was recalibrated",
        ) from error
    return dict(record)


def restored(record: Record) -> dict[str, Tensor]:
    """The old tensors of a record, by key.

    Raises:
        ValueError, KeyError, TypeError: it is no record.
    """
    return {key: _decoded(entry) for key, entry in record["old"].items()}


def to_bytes(
    checkpoint: Checkpoint,
    entries: Mapping[str, Tensor],
    record: Record | None,
    versions: Mapping[str, Any] | None = None,
) -> bytes:
    """A file with these entries in the checkpoint's format.

    Args:
        checkpoint: tells the format; the metadata of a safetensors file is kept.
        entries: tensors by key, of one state dict.
        record: what undoes them, or None.
        versions: the modules' versions, for a file of torch.save: ``module.state_dict()._metadata``.
    """
    import torch

    # safetensors refuses shared memory, and torch.save would write all of a storage for a view of it
    own = OrderedDict((key, tensor.detach().contiguous().clone()) for key, tensor in entries.items())
    text = None if record is None else json.dumps(record, separators=(",", ":"))
    if checkpoint.format == "safetensors":
        from safetensors.torch import save

        metadata = {k: v for k, v in _safetensors_metadata(checkpoint.path).items() if k != KEY}
        if text is not None:
            metadata[KEY] = text
        return _with_metadata(bytes(save(own)), metadata)
    metadata = OrderedDict(versions or {})
    metadata.pop(KEY, None)
    if text is not None:
        metadata[KEY] = text
    if metadata:
        own._metadata = metadata  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    torch.save(own, buffer)
    return buffer.getvalue()


def versions_in(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """The modules' versions that a plain state dict of torch.save carries; empty where there are none."""
    container = content.examine(path)
    if container == "safetensors":
        return {}
    metadata = getattr(pickles.unpickle(path, container, trust=trust), "_metadata", None)
    return dict(metadata) if isinstance(metadata, Mapping) else {}


def _safetensors_metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(_LENGTH), "little")))
    return dict(header.get(_METADATA) or {})


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file with metadata in this order; the library would write them in a random one."""
    length = int.from_bytes(data[:_LENGTH], "little")
    tensors = {key: entry for key, entry in json.loads(data[_LENGTH:][:length]).items() if key != _METADATA}
    header = {_METADATA: dict(metadata), **tensors} if metadata else tensors
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)  # tensors begin at a multiple of 8
    return len(text).to_bytes(_LENGTH, "little") + text + data[_LENGTH + length :]


def _encoded(tensor: Tensor) -> dict[str, Any]:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "data": base64.b64encode(data).decode("ascii"),
    }


def _decoded(entry: Mapping[str, Any]) -> Tensor:
    import torch

    dtype = getattr(torch, entry["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{entry['dtype']!r} is no dtype")
    data = bytearray(base64.b64decode(entry["data"], validate=True))
    shape = [int(size) for size in entry["shape"]]
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)
