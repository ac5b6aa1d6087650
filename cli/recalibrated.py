"""What ``bnfold recalibrate`` writes: a checkpoint with new statistics, with its old ones, or a part."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold import atomic
from bnfold.errors import CheckpointError, InternalError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnfold.checkpoint import Loaded
    from bnfold.finding import Finding
    from bnfold.statistics.parts import Origin
    from bnfold.statistics.pooling import Pool
    from bnfold.statistics.recalibration import RecalibrationResult

_SAFETENSORS = ".safetensors"


def check_output(source: str, output: str | None) -> None:
    """Refuse to write nowhere, or over the input.

    Raises:
        UsageError: BNF-U125.
    """
    if output is None:
        raise UsageError(
            "BNF-U125", "there is no name for the new checkpoint", where="-o", fix="-o NEW.safetensors"
        )
    target = Path(output)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UsageError(
            "BNF-U125",
            "the new checkpoint would take the place of the old one",
            where=f"-o {output}",
            fix="give it another name: both are kept",
        )


def check_place(loaded: Loaded, options: argparse.Namespace) -> None:
    """Refuse what could not be written, before the frames have run.

    Raises:
        UsageError: BNF-U125 the name is of another format than the checkpoint.
        PlatformError: as :func:`bnfold.atomic.check`.
    """
    if options.collect is None:
        _check_suffix(Path(options.output), loaded.checkpoint.format)
    atomic.check(options.output if options.collect is None else options.collect)


def write(result: RecalibrationResult, loaded: Loaded, options: argparse.Namespace) -> dict[str, Any]:
    """The new checkpoint, and what to say of it.

    Raises:
        StatisticsError: BNF-A062 a value beyond what the file stores.
        PlatformError: it cannot be written.
    """
    from bnfold.checkpoint import saving

    target, checkpoint = Path(options.output), loaded.checkpoint
    entries = checkpoint.pick(loaded.state)
    prefix = options.strip_prefix or ""
    changed = _changed(loaded.module, result.module, entries, prefix)
    how = {
        "method": result.method,
        "frames": result.frames,
        "batches": result.batches,
        "prior": result.prior,
        "source": {"name": checkpoint.path.name, "sha256": checkpoint.sha256, "state": loaded.state},
    }
    old = {key: entries[key] for key in changed}
    record = saving.record_of(old, how, saving.read_record(checkpoint.path, trust=options.trust_pickle))
    versions = {f"{prefix}{name}": value for name, value in _versions(loaded.module).items()}
    data = saving.to_bytes(checkpoint, {**entries, **changed}, record, versions)
    atomic.write(target, data)
    return {
        "path": options.output,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "format": checkpoint.format,
        "changed": list(changed),
    }


def undo(source: Path, target: Path, trust: bool, sha256: str | None, state: str | None) -> dict[str, Any]:
    """The checkpoint with the statistics from before it was recalibrated, bit for bit.

    Raises:
        CheckpointError: BNF-L042 there is no record of a recalibration in it; BNF-L041 a damaged one.
        UsageError: BNF-U125 the name is of another format than the file.
    """
    from bnfold.checkpoint import read, saving

    checkpoint = read(source, trust_pickle=trust, sha256=sha256)
    record = saving.read_record(source, trust=trust)
    if record is None:
        raise CheckpointError(
            "BNF-L042",
            f"{source.name} holds no old statistics: it was not written by bnfold recalibrate",
            where=str(source),
            fix="give the file that recalibrate wrote",
        )
    _check_suffix(target, checkpoint.format)
    entries = checkpoint.pick(state)
    old = saving.restored(record)
    missing = [key for key in old if key not in entries or entries[key].shape != old[key].shape]
    if missing:
        raise CheckpointError(
            "BNF-L041",
            f"the old statistics in {source.name} do not fit its tensors: {missing[0]}",
            where=str(source),
            fix="use a copy of the checkpoint from before it was recalibrated",
        )
    versions = saving.versions_in(source, trust=trust)
    data = saving.to_bytes(checkpoint, {**entries, **old}, record["previous"], versions)
    atomic.write(target, data)
    return {
        "schema": 1,
        "passed": True,
        "source": {"path": str(source), "sha256": checkpoint.sha256, "format": checkpoint.format},
        "undone": record["how"],
        "output": {
            "path": str(target),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "format": checkpoint.format,
            "changed": list(old),
        },
        "findings": [],
    }


def collected(
    pool: Pool, origin: Origin, loaded: Loaded, options: argparse.Namespace, writes: bool
) -> dict[str, Any]:
    """A part, written, and what to say of it."""
    from bnfold.statistics import parts
    from bnfold.statistics.notes import notes

    data = parts.to_bytes(pool, origin)
    if writes:
        atomic.write(options.collect, data)
    return {
        "schema": 1,
        "passed": True,
        "source": {
            "path": options.checkpoint,
            "sha256": loaded.checkpoint.sha256,
            "format": loaded.checkpoint.format,
            "state": loaded.state,
        },
        "frames": pool.frames,
        "batches": pool.batches,
        "layers": len(pool.moments),
        "skipped": [one.to_json() for one in pool.skipped],
        "part": {"path": options.collect, "size_bytes": len(data)},
        "findings": [note.to_json() for note in notes(pool)],
    }


def merged(pool: Pool, module: nn.Module, prior: float | None) -> RecalibrationResult:
    """The network with the statistics of merged parts.

    Raises:
        UsageError: BNF-U127 the parts are of another network; and as `bnfold.recalibrate`.
    """
    from bnfold.statistics import recalibrate as steps
    from bnfold.statistics.pooling import check_usable
    from bnfold.statistics.writing import check_prior

    check_prior(module, prior)
    check_usable(pool)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for target, moments in pool.moments.items():
        for name in (target.mean, target.variance):
            if name not in tensors or tensors[name].numel() != moments.channels:
                raise UsageError(
                    "BNF-U127",
                    f"the parts have {moments.channels} channels of {name}, which the network has not",
                    where="--model",
                    fix="give the network that the parts were collected with",
                )
    return steps.finish(steps.working_copy(module), module, pool, method="merged parts", prior=prior)


def other_states(loaded: Loaded) -> list[Finding]:
    """That only one state dict of several was written."""
    from bnfold.finding import Finding

    every = [*loaded.checkpoint.state_dicts, *loaded.checkpoint.unusable]
    others = [name for name in every if name != loaded.state]
    if not others:
        return []
    return [
        Finding(
            "BNF-A071",
            "info",
            loaded.checkpoint.path.name,
            f"only the state dict {loaded.state!r} is in the new file, not {', '.join(others)}",
            {"written": loaded.state, "others": others},
            "--state NAME recalibrates another one",
        )
    ]


def _changed(
    before: nn.Module, after: nn.Module, entries: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """The file's tensors that are others now, under the file's keys and in the file's dtypes."""
    old, new = before.state_dict(), after.state_dict()
    changed: dict[str, Tensor] = {}
    for name, value in new.items():
        if not hasattr(value, "dtype") or _same_bits(old[name], value):
            continue
        key = f"{prefix}{name}"
        if key in entries:
            changed[key] = _as_stored(key, value.detach().cpu(), entries[key])
        elif not key.endswith("num_batches_tracked"):
            # a tensor with several names may be stored under one; the network was filled from this file
            others = [
                k for k, v in new.items() if hasattr(v, "data_ptr") and v.data_ptr() == value.data_ptr()
            ]
            if not any(f"{prefix}{other}" in entries for other in others):
                raise InternalError("BNF-X060", f"{key} was changed and is not in the file", where=key)
    return changed


def _as_stored(key: str, value: Tensor, like: Tensor) -> Tensor:
    import torch

    from bnfold.errors import StatisticsError

    stored = value.to(like.dtype).reshape(like.shape)
    if like.dtype.is_floating_point and not bool(torch.isfinite(stored.float()).all()):
        raise StatisticsError(
            "BNF-A062",
            f"{float(value.abs().max()):.3g} is beyond {str(like.dtype).removeprefix('torch.')}",
            where=f"{key} in the file",
            fix="save the checkpoint in float32 first",
        )
    return stored


def _same_bits(a: Tensor, b: Tensor) -> bool:
    import torch

    def bits(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)

    return a.shape == b.shape and a.dtype == b.dtype and (not a.numel() or torch.equal(bits(a), bits(b)))


def _versions(module: nn.Module) -> dict[str, Any]:
    return dict(getattr(module.state_dict(), "_metadata", {}))


def _check_suffix(target: Path, form: str) -> None:
    if (target.suffix == _SAFETENSORS) != (form == "safetensors"):
        raise UsageError(
            "BNF-U125",
            f"the new checkpoint is written as the old one is, in the format {form}",
            where=f"-o {target}",
            fix=f"-o {target.with_suffix(_SAFETENSORS if form == 'safetensors' else '.pt')}",
        )
