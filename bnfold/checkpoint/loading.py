"""From a path and a model to a module with the file's weights."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.checkpoint import archive, content, pickles, tensors
from bnfold.checkpoint.fit import fill, fit
from bnfold.checkpoint.states import Checkpoint, choice_note, find
from bnfold.errors import CheckpointError, UsageError
from bnfold.finding import Finding
from bnfold.modelspec import build, home, importable
from bnfold.wording import clip, clip_path

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger("bnfold.checkpoint")


@dataclass(frozen=True)
class Loaded:
    """A module with a checkpoint's weights.

    Attributes:
        module: in eval mode.
        checkpoint: the file it came from.
        state: the name of the state dict used.
        notes: what the user should know (severity info), the checkpoint's own notes included.
    """

    module: nn.Module
    checkpoint: Checkpoint
    state: str
    notes: list[Finding]


def read(
    path: str | os.PathLike[str], *, trust_pickle: bool = False, sha256: str | None = None
) -> Checkpoint:
    """Reads a checkpoint: .safetensors, or what torch.save wrote, told apart by content.

    Args:
        path: the file.
        trust_pickle: let a pickle name any class, which runs whatever code the file asks for.
        sha256: the file must have this digest (64 hexadecimal digits); compared before anything is parsed.

    Raises:
        CheckpointError: codes in `bnfold.checkpoint`; no code of the file has run, unless it was trusted.
        UsageError: U050, the digest given is none.
    """
    return _read(Path(path), [Path.cwd()] if trust_pickle else [], sha256)


def _read(path: Path, trusted: Sequence[Path], sha256: str | None) -> Checkpoint:
    """The checkpoint; its pickle is trusted where ``trusted`` names folders to look its classes up in.

    The first folder that has a module is taken, before anything that is installed.
    """
    container = content.examine(path)
    before = _identity(path)
    if sha256 is not None:
        _compare(path, _digest(path), sha256)
    notes: list[Finding] = []
    # The digest takes as long as the loading; both release the GIL most of the time, so they overlap
    with ThreadPoolExecutor(1, "bnfold-sha256") as beside:
        digest = beside.submit(_digest, path)
        found: object
        if container == "safetensors":
            found = tensors.read_tensors(path)
        else:
            if container == "legacy" or (container == "zip" and not archive.check(path)):
                notes.append(_no_checksums(path))
            with ExitStack() as findable:
                for folder in reversed(trusted):
                    findable.enter_context(importable(folder))
                found = pickles.unpickle(path, container, trust=bool(trusted))
    usable, unusable = find(path, found)
    if _identity(path) != before:
        raise CheckpointError(
            "BNF-L034",
            f"{clip_path(path.name)} changed while it was read",
            where=clip_path(path),
            fix="wait until what writes it (training? a download?) is done, or read a copy",
        )
    kind = "safetensors" if container == "safetensors" else "torch"
    if trusted and kind == "torch":
        notes.append(_trusted(path))
    return Checkpoint(path, kind, digest.result(), usable, unusable, notes)


def load(
    path: str | os.PathLike[str],
    model: nn.Module | Callable[..., nn.Module] | str,
    *,
    model_args: Mapping[str, Any] | Sequence[Any] | str | None = None,
    strip_prefix: str | None = None,
    trust_pickle: bool = False,
    state: str | None = None,
    sha256: str | None = None,
) -> nn.Module:
    """A model with the weights of a checkpoint, in eval mode.

    Every parameter and buffer of the model is filled from the file, and every entry of the file is used;
    nothing is renamed or left out in silence. What is tolerated (see `load_with_notes`) is logged at level
    INFO by the logger ``bnfold.checkpoint``.

    Args:
        path: .safetensors, or what torch.save wrote (.pt, .pth, .ckpt, .bin); told apart by content.
        model: a module (filled in place, or left as it was if anything does not fit), a class or function
            that makes one, or ``FILE.py:NAME`` / ``pkg.mod:NAME``, whose code is imported and run.
        model_args: the constructor's arguments: a mapping (keywords), a sequence (positional), or either
            as JSON text.
        strip_prefix: use the keys that begin with it, without it: ``module.``.
        trust_pickle: let a pickle run the code it names. Only for files whose author you trust.
        state: which state dict, where the file has several: ``model_ema``.
        sha256: the digest the file must have.

    Raises:
        CheckpointError: the file cannot be read or does not fit; codes in `bnfold.checkpoint`.
        UsageError: U040 to U050, the model cannot be made from what was given.
    """
    loaded = load_with_notes(
        path,
        model,
        model_args=model_args,
        strip_prefix=strip_prefix,
        trust_pickle=trust_pickle,
        state=state,
        sha256=sha256,
    )
    for note in loaded.notes:
        _log.info("%s: %s", note.code, note.message)
    return loaded.module


def load_with_notes(
    path: str | os.PathLike[str],
    model: nn.Module | Callable[..., nn.Module] | str,
    *,
    model_args: Mapping[str, Any] | Sequence[Any] | str | None = None,
    strip_prefix: str | None = None,
    trust_pickle: bool = False,
    state: str | None = None,
    sha256: str | None = None,
) -> Loaded:
    """Like `load`, and says what it had to decide: the notes L101 to L108 of `bnfold.checkpoint`."""
    trusted = [Path.cwd()] if trust_pickle else []
    if trust_pickle and isinstance(model, str):
        trusted.insert(0, home(model))  # a pickle finds the model's classes where the model is found
    checkpoint = _read(Path(path), trusted, sha256)
    entries = checkpoint.pick(state)
    used = state or checkpoint.default or ""  # pick has found it
    module = build(model, model_args)
    plan = fit(entries, module, file=checkpoint.path.name, strip_prefix=strip_prefix)
    fill(module, plan.entries, file=checkpoint.path.name, restore=module is model)
    beside = choice_note(checkpoint, used)
    notes = [*checkpoint.notes, *([beside] if beside else []), *plan.notes]
    return Loaded(module.eval(), checkpoint, used, notes)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _compare(path: Path, actual: str, expected: str) -> None:
    wanted = expected.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise UsageError(
            "BNF-U050",
            "the sha256 given is not 64 hexadecimal digits",
            where=f'"{clip(expected, 70)}", {len(wanted)} characters',
            fix=f"sha256sum {clip_path(path.name)} prints one",
        )
    if actual != wanted:
        raise CheckpointError(
            "BNF-L009",
            f"{clip_path(path.name)} is not the file expected: its sha256 differs",
            where=f"expected {wanted[:16]}…, the file has {actual}",
            fix="copy or download it again; if it was replaced on purpose, give the new digest",
        )


def _no_checksums(path: Path) -> Finding:
    return Finding(
        "BNF-L107",
        "info",
        clip_path(path.name),
        "the file was saved without checksums, so damage to its weights cannot be seen",
        {},
        "give its digest: --sha256 HEX",
    )


def _trusted(path: Path) -> Finding:
    return Finding(
        "BNF-L108",
        "info",
        clip_path(path.name),
        "the pickle was trusted: code that it names may have run",
        {},
        "save the weights alone as safetensors, and --trust-pickle is not needed",
    )
