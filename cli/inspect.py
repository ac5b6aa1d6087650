"""``bnfold inspect``: what a file says of itself. An artifact needs no torch; a checkpoint does."""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.report.inspection import render_artifact, render_checkpoint

from . import values
from .command import CommandParser, Context, Outcome
from .kinds import is_artifact

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIX = "running_mean"


def configure(parser: CommandParser) -> None:
    """The options."""
    parser.add_argument("file", metavar="FILE", help="an artifact or a checkpoint")
    parser.option(
        "--trust-pickle",
        action="store_true",
        default=False,
        help="let a checkpoint's pickle run the code it names; only for files whose author you trust",
    )
    parser.option("--sha256", metavar="HEX", type=values.sha256, help="the digest a checkpoint must have")


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Read and describe."""
    if is_artifact(options.file):
        return _artifact(options.file)
    context.start_torch()
    return _checkpoint(options)


def _artifact(path: str) -> Outcome:
    from bnfold import manifest

    content = manifest.read(path)
    data = Path(path).read_bytes()
    document: dict[str, Any] = {
        "schema": 1,
        "passed": True,
        "kind": "artifact",
        "path": path,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "manifest": content,
    }
    return Outcome(True, document, lambda style: render_artifact(document, style))


def _checkpoint(options: argparse.Namespace) -> Outcome:
    from bnfold.checkpoint import read

    checkpoint = read(options.file, trust_pickle=options.trust_pickle, sha256=options.sha256)
    document: dict[str, Any] = {
        "schema": 1,
        "passed": True,
        "kind": "checkpoint",
        "path": options.file,
        "size_bytes": Path(options.file).stat().st_size,
        "sha256": checkpoint.sha256,
        "format": checkpoint.format,
        "default": checkpoint.default,
        "state_dicts": [_state_dict(name, tensors) for name, tensors in checkpoint.state_dicts.items()],
        "unusable": [{"name": name, "reason": error.what} for name, error in checkpoint.unusable.items()],
        "findings": [note.to_json() for note in checkpoint.notes],
    }
    return Outcome(True, document, lambda style: render_checkpoint(document, style))


def _state_dict(name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One state dict: its tensors, and the BatchNorm layers that its keys show."""
    return {
        "name": name,
        "tensors": [
            {
                "name": key,
                "shape": None if tensor.is_nested else list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
            }
            for key, tensor in tensors.items()
        ],
        "batch_norms": [
            _batch_norm(key.removesuffix(_SUFFIX).rstrip("."), key.removesuffix(_SUFFIX), tensors)
            for key in tensors
            if key.rpartition(".")[2] == _SUFFIX
        ],
    }


def _batch_norm(name: str, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One BatchNorm's running statistics."""
    mean = tensors[f"{prefix}{_SUFFIX}"]
    return {
        "name": name,
        "channels": None if mean.is_nested else mean.numel(),
        "running_mean": _range(mean),
        "running_var": _range(tensors.get(f"{prefix}running_var")),
        "num_batches_tracked": _count(tensors.get(f"{prefix}num_batches_tracked")),
    }


def _count(tensor: Tensor | None) -> int | None:
    """A tensor's one number; None where it holds none that counts anything."""
    if tensor is None or not _has_numbers(tensor) or tensor.numel() != 1:
        return None
    value = tensor.item()
    return int(value) if math.isfinite(value) else None


def _has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor holds real numbers, each of them in the file: one may claim more than is there."""
    from bnfold.checkpoint.fit import unusual

    if unusual(tensor) or tensor.is_complex():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _range(tensor: Tensor | None) -> dict[str, Any] | None:
    """Smallest and largest finite value, and how many are not finite; None where there are no numbers."""
    if tensor is None or not _has_numbers(tensor):
        return None
    import torch

    values = tensor.detach().to(torch.float64).flatten()
    finite = values[torch.isfinite(values)]
    return {
        "min": float(finite.min()) if finite.numel() else None,
        "max": float(finite.max()) if finite.numel() else None,
        "non_finite": int(values.numel() - finite.numel()),
    }
