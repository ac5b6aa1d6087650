"""What a file is, told by its first bytes and never by its name. Imports no torch."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path
from typing import Literal

from bnfold.errors import CheckpointError
from bnfold.wording import clip, clip_path, close, count

Container = Literal["safetensors", "zip", "legacy", "pickle"]

_HEAD = 4096
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_LFS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/")
_PAGE = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<script", b"<!--")
# torch.save before 1.6 begins with this number as a pickle of its own: in binary, or in protocols 0 and 1
# as text
_LEGACY_MAGIC = (b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"L119547037146038801333356L\n.")
_LEGACY_ROOM = 40
_PICKLE = re.compile(rb"\x80[\x01-\x05]")

# offset, first bytes, what it is, what to do about it
_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first: gunzip, or tar xzf"),
    (0, b"BZh", "a bzip2 archive", "unpack it first: bunzip2, or tar xjf"),
    (0, b"\xfd7zXZ\x00", "an xz archive", "unpack it first: unxz, or tar xJf"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first: unzstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x"),
    (0, b"Rar!", "a rar archive", "unpack it first"),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras weights?)", "bnfold reads PyTorch checkpoints"),
    (4, b"TFL3", "a TFLite model", "give the PyTorch checkpoint it was made from"),
    (0, b"GGUF", "a GGUF file", "give the PyTorch checkpoint it was made from"),
    (0, b"\x93NUMPY", "a NumPy array", "give a state dict: torch.save(m.state_dict(), ...)"),
    (0, b"\x89PNG", "a PNG image", "give the checkpoint, not a frame"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the checkpoint, not a frame"),
    (0, b"%PDF", "a PDF document", "give the checkpoint"),
)


def examine(path: Path) -> Container:
    """The container that the bytes of `path` are in.

    Raises:
        CheckpointError: L001, L003 to L008, L026: the file is not there, or is not a checkpoint.
    """
    name = _called(path)
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode):
        inside = [file for file in _names(path) if file.endswith((".safetensors", ".pt", ".pth", ".ckpt"))]
        raise CheckpointError(
            "BNF-L003",
            f"{name} is a folder, not a checkpoint",
            where=clip_path(path),
            fix=f"give a file in it: {clip_path(path / inside[0])}" if inside else "give the checkpoint file",
        )
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(
            "BNF-L003",
            f"{name} is no regular file (a pipe or a device?)",
            where=clip_path(path),
            fix="save it to a file first",
        )
    if status.st_size == 0:
        raise CheckpointError(
            "BNF-L005",
            f"{name} is empty (0 bytes)",
            where=clip_path(path),
            fix="copy or download it again; an interrupted copy or a full disk leaves such a file",
        )
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise _cannot_open(path, error) from error
    return _recognise(path, head, status.st_size)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        if path.is_symlink():
            raise CheckpointError(
                "BNF-L001",
                f"{clip_path(path.name)} is a link to a file that is not there",
                where=f"{clip_path(path, 60)} -> {clip_path(path.readlink(), 60)}",
                fix="fetch the file that it names (a store of large files that was not pulled?)",
            ) from error
        near = close(path.name, _names(path.parent))
        raise CheckpointError(
            "BNF-L001",
            f"there is no file {clip_path(path.name)}",
            where=clip_path(path),
            fix=f"did you mean {clip_path(path.parent / near[0])}?" if near else "check the path",
        ) from error
    except OSError as error:
        raise _cannot_open(path, error) from error


def _names(folder: Path) -> list[str]:
    """The names in a folder, for a suggestion: none where it cannot be listed."""
    try:
        return sorted(item.name for item in folder.iterdir())
    except (OSError, ValueError):
        return []


def _cannot_open(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        "BNF-L004",
        f"{clip_path(path.name)} cannot be opened: {clip(error.strerror or error)}",
        where=clip_path(path),
        fix="check its permissions: ls -l",
    )


def _called(path: Path) -> str:
    """A path's name for messages; "." and "/" have none."""
    return clip_path(path.name or path)


def _recognise(path: Path, head: bytes, size: int) -> Container:
    if head.startswith(_ZIP):
        return "zip"
    if head[8:9] == b"{" and (b'"' in head[9:64] or head[9:10] == b"}"):
        return "safetensors"
    if any(magic in head[:_LEGACY_ROOM] for magic in _LEGACY_MAGIC):
        return "legacy"
    if _PICKLE.match(head):
        return "pickle"
    other = _something_else(path, head, size)
    if other:
        raise other
    words = _as_text(head)
    if path.suffix == ".safetensors" and words is None:
        return "safetensors"  # damaged beyond recognition: its own reader says how
    shown = head[:12].hex(" ") if words is None else f'"{clip(words, 40)}"'
    raise CheckpointError(
        "BNF-L008",
        f"{clip_path(path.name)} is neither safetensors nor a file of torch.save",
        where=f"{count(size, 'byte')}, beginning with {shown}",
        fix="give a .safetensors file or torch.save(m.state_dict(), ...); if it was one, copy it again",
    )


def _something_else(path: Path, head: bytes, size: int) -> CheckpointError | None:
    """The refusal of a file whose kind is known and is no checkpoint."""
    name = _called(path)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(_LFS):
        real = re.search(rb"^size (\d+)", text, re.MULTILINE)
        return CheckpointError(
            "BNF-L006",
            f"{name} is a Git LFS pointer, not the checkpoint itself",
            where=f"{size} bytes; the real file has {int(real[1]):,} bytes" if real else f"{size} bytes",
            fix=f"git lfs pull --include {name}",
        )
    if text[:16].lower().startswith(_PAGE):
        title = re.search(rb"<title[^>]*>([^<]+)", text, re.IGNORECASE)
        shown = title[1] if title else text[:60]
        return CheckpointError(
            "BNF-L007",
            f"{name} is a web page, not a checkpoint",
            where=f'{size:,} bytes: "{clip(shown.decode("utf-8", "replace"), 60)}"',
            fix='download the file itself: the address gave a page (a log-in, a warning, not the "raw" link)',
        )
    if head[257:262] == b"ustar":
        return CheckpointError(
            "BNF-L026",
            f"{name} is a tar archive: the format of torch 0.1, or a packed folder",
            where=clip_path(path),
            fix="unpack it (tar xf), or load it with an old torch and torch.save() its state dict",
        )
    for offset, magic, what, fix in _OTHERS:
        if head[offset:].startswith(magic):
            return CheckpointError(
                "BNF-L008", f"{name} is {what}, not a checkpoint", where=clip_path(path), fix=fix
            )
    return None


def _as_text(head: bytes) -> str | None:
    """The bytes as text, a character cut at the end aside; None where they are no text."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return text if text and all(c.isprintable() or c in "\t\r\n" for c in text) else None
