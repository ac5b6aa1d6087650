"""Artifact or checkpoint?"""

from __future__ import annotations

from pathlib import Path

from bnfold.files import special
from bnfold.manifest import detect

_ARTIFACTS = (".onnx", ".tflite")
_CHECKPOINTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_HEAD = 64


def is_artifact(path: str) -> bool:
    """Whether a file is for an interpreter (ONNX, TFLite) and not for torch: by its name, else by content.

    A file that cannot be read counts as an artifact by its name only: whoever opens it says why.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] == ".rejected":
        suffixes.pop()
    if suffixes and suffixes[-1] in _ARTIFACTS + _CHECKPOINTS:
        return suffixes[-1] in _ARTIFACTS
    if special(path) is not None:
        return False
    try:
        with Path(path).open("rb") as file:
            return detect(file.read(_HEAD)) is not None
    except OSError:
        return False
