"""safetensors files. The library reads and checks them; here its refusals get numbers and a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import CheckpointError
from bnfold.wording import clip, clip_path, count, encodable, first_line

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "copy or download it again, and compare its size or sha256 with the source's"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name, on the CPU; they may be views of the mapped file.

    Raises:
        CheckpointError: L020 (shorter or longer than its header says), L021 (header damaged).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if encodable(str(path)) != str(path):  # the library opens no such name
            return dict(load(path.read_bytes()))
        return dict(load_file(path))
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError, MemoryError) as error:
        # KeyError: a dtype that torch lacks; the others come from mapping or reshaping what a header claims
        raise _diagnose(path, error) from error


def _diagnose(path: Path, error: BaseException) -> CheckpointError:
    name, size = clip_path(path.name), path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        room = size - len(prefix)
        if len(prefix) < 8 or length > room:
            return CheckpointError(
                "BNF-L020",
                f"{name} is truncated inside its header, or the header's length is damaged",
                where=f"header of {length:,} bytes announced, {max(room, 0):,} bytes follow",
                fix=_AGAIN,
            )
        raw = file.read(length)
    try:
        end = _end(json.loads(raw))
    except (ValueError, RecursionError) as broken:
        return CheckpointError(
            "BNF-L021", f"{name} has a damaged header", where=first_line(broken, 150), fix=_AGAIN
        )
    data = size - 8 - length
    if end != data:
        verb = "is" if end - data == 1 else "are"
        what = (
            f"is truncated: {count(end - data, 'byte')} {verb} missing"
            if end > data
            else "is longer than it should be"
        )
        return CheckpointError(
            "BNF-L020",
            f"{name} {what}",
            where=f"header announces {end:,} bytes of tensor data, the file has {data:,}",
            fix=_AGAIN,
        )
    reason = str(error).removeprefix("Error while deserializing header: ")
    return CheckpointError("BNF-L021", f"{name} has a damaged header", where=clip(reason, 150), fix=_AGAIN)


def _end(header: object) -> int:
    """Where the last tensor of a header ends, counted from the first; ValueError where it cannot tell."""
    if not isinstance(header, dict):
        raise ValueError(f"the header is a {type(header).__name__}, not an object")
    ends = [0]
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int)):
            raise ValueError(f'tensor "{clip(key, 60)}" has no pair of data_offsets')
        ends.append(offsets[1])
    return max(ends)
