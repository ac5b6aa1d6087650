"""What torch.save wrote, through the loader that runs no code (weights_only), unless the file is trusted."""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO

from bnfold.checkpoint import opcodes
from bnfold.checkpoint.content import Container
from bnfold.errors import CheckpointError
from bnfold.wording import clip, clip_path, close, count, first_line, some

# How torch's loader words what it refuses. The class stands in the first group.
_WANTED = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(r"via `add_safe_globals`,? but got (.+)"),
    re.compile(r"reduce for unrecognized function (.+)"),
    re.compile(r"``(\S+)`` (?:and \S+ )?must be imported to load"),
)
_TOLD = re.compile(r"WeightsUnpickler error: (.+)")
_OPERAND = re.compile(r"Unsupported operand (\d+)")
_MODULE = "torch.nn.modules."
# What a pickle names to run a program or Python code, never to hold weights. Not a list of all that is
# dangerous: every class beyond the loader's own list is refused; for these the advice differs.
_PROGRAMS = frozenset(
    {"os", "posix", "nt", "subprocess", "commands", "pty", "shutil", "socket", "runpy", "ctypes"}
)
_CODE = frozenset(f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "__import__")) | {
    "io.open"
}
# What nearly every checkpoint names. A name that is nearly one of these was damaged: the old format has no
# checksums.
_USUAL = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
_LEGACY_PICKLES = 5  # magic number, protocol, system, object, keys of the storages
# operations of protocols 0 and 1, which the safe loader does not know; a pickle of theirs has no PROTO
_OLD_OPERATIONS = frozenset(operation.code for operation in pickletools.opcodes if operation.proto < 2)
# protocol 0 writes the references to tensors as text (operation P), which no loader of torch reads
_TEXT_ID = "saved_id must be a tuple"
_PROTO = 0x80
_READABLE = (2, 3)


def unpickle(path: Path, container: Container, *, trust: bool) -> object:
    """The object in a file of torch.save, its tensors on the CPU.

    Raises:
        CheckpointError: L002, L027 to L030, L032, L040.
    """
    import torch

    scan = opcodes.Scan() if trust else _scan(path, container)
    try:
        with warnings.catch_warnings():
            # torch comments on pickle protocols and storage classes; what matters becomes an error below
            warnings.simplefilter("ignore")
            # An open file: given a path, torch would go by its ending
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=not trust)
    # A damaged stream, or a trusted pickle's own code, can raise anything at all, SystemExit included
    except (Exception, SystemExit) as error:
        raise _explain(path, container, scan, error, trust=trust) from error


def _scan(path: Path, container: Container) -> opcodes.Scan:
    """Looks through the file's pickles before the loader builds anything."""
    try:
        with path.open("rb") as file:
            if container == "zip":
                return opcodes.scan(io.BytesIO(_pickle_in(file)), 1)
            return opcodes.scan(file, _LEGACY_PICKLES if container == "legacy" else 1)
    except opcodes.BombError as error:
        raise CheckpointError(
            "BNF-L040",
            f"{clip_path(path.name)} is made to exhaust the machine that loads it",
            where=f"its pickle has {error}",
            fix="no checkpoint needs this: do not load the file, and find out where it comes from",
        ) from error


def _pickle_in(file: IO[bytes]) -> bytes:
    """The pickle as the loader finds it, through the loader's own reader; nothing where it finds none."""
    import torch

    try:
        found: bytes = torch._C.PyTorchFileReader(file).get_record("data.pkl")
    except RuntimeError:
        return b""  # the loader will stumble over the same, and its error is explained
    return found


def _explain(
    path: Path, container: Container, scan: opcodes.Scan, error: BaseException, *, trust: bool
) -> CheckpointError:
    name = clip_path(path.name)
    message = str(error)
    wanted = _wanted(path, container, scan, message)
    if wanted and not _damaged_name(container, scan, wanted[0]):
        return _refusal(name, wanted)
    if container == "pickle":
        return CheckpointError(
            "BNF-L032",
            f"{name} is a plain pickle, not a file of torch.save",
            where=clip_path(path),
            fix="save the weights with torch.save(state_dict, ...) or safetensors",
        )
    operand = _OPERAND.search(message)
    operation = chr(int(operand[1])) if operand else "P" if _TEXT_ID in message else None
    protocol = operation and _other_protocol(path, container, operation)
    if protocol:
        return CheckpointError(
            "BNF-L028",
            f"{name} is in pickle protocol {protocol}, which the safe loader does not read",
            where="torch.save writes protocol 2 unless told otherwise",
            fix="save again without pickle_protocol=: torch.save(m.state_dict(), ...)",
        )
    if trust and isinstance(error, (ImportError, AttributeError, SystemExit)):
        return CheckpointError(
            "BNF-L030",
            f"the code that {name} asks for failed",
            where=first_line(error, 150),
            fix="run where the classes it was saved with can be imported, or save the state dict alone",
        )
    return CheckpointError(
        "BNF-L027",
        f"{name} cannot be read: its pickle is damaged",
        where=_reason(scan, error, wanted),
        fix="copy or download it again; a file cut short fails like this too",
    )


def _reason(scan: opcodes.Scan, error: BaseException, wanted: list[str]) -> str:
    """What is wrong with a pickle, without torch's advice to load it all the same."""
    if wanted and scan.complete:
        return f"it names {clip(wanted[0], 80)}, and nothing is called so"
    if not scan.complete:
        return "its operations break off"
    told = _TOLD.search(str(error))
    return clip(told[1], 150) if told else first_line(error, 150)


def _other_protocol(path: Path, container: Container, operation: str) -> str:
    """The pickle's protocol where it is none of those that the safe loader reads, otherwise nothing."""
    if container == "zip":
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            with archive.open(pickled) as member:
                head = member.read(2)
    else:
        with path.open("rb") as file:
            head = file.read(2)
    if len(head) == 2 and head[0] == _PROTO:
        return str(head[1]) if head[1] not in _READABLE else ""
    return "0 or 1" if operation in _OLD_OPERATIONS else ""


def _wanted(path: Path, container: Container, scan: opcodes.Scan, message: str) -> list[str]:
    """The classes and functions that the safe loader refused; the one it stopped at comes first."""
    found = [match[1] for pattern in _WANTED if (match := pattern.search(message))]
    if found and container == "zip":
        found += _all_unsafe(path)
    elif found:
        found += [name for name in scan.names if name.startswith(_MODULE)]
    # torch leaves the module out of the names of builtins
    return list(dict.fromkeys(name if "." in name else f"builtins.{name}" for name in found))


def _damaged_name(container: Container, scan: opcodes.Scan, name: str) -> bool:
    """Whether a name that the loader refused is none that the file was written with.

    A zip archive has been compared with its checksums; the old format ends early, or has a letter changed.
    """
    return container == "legacy" and (not scan.complete or bool(close(name, _USUAL, cutoff=0.9)))


def _all_unsafe(path: Path) -> list[str]:
    from pickle import UnpicklingError

    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sorted(get_unsafe_globals_in_checkpoint(path))
    except (UnpicklingError, EOFError, ValueError, RuntimeError):
        return []  # the scan reads fewer operations than the loader; the one name at hand is enough


def _refusal(name: str, wanted: list[str]) -> CheckpointError:
    modules = [item for item in wanted if item.startswith(_MODULE)]
    if modules:
        owner = next((item for item in wanted if not item.startswith("torch.")), modules[0])
        more = f" and {count(len(wanted) - 1, 'more name')}" if len(wanted) > 1 else ""
        return CheckpointError(
            "BNF-L029",
            f"{name} holds a whole pickled module, and loading it runs the code it names",
            where=f"it needs {clip(owner, 60)}{more}",
            fix="save its weights: torch.save(m.state_dict(), ...); or, if you trust it: --trust-pickle",
        )
    dangerous = next((item for item in wanted if item in _CODE or item.partition(".")[0] in _PROGRAMS), None)
    return CheckpointError(
        "BNF-L002",
        f"{name} needs more than tensors: {clip(dangerous or wanted[0], 80)}",
        where=f"names in its pickle that may run code: {some(wanted)}",
        fix="no checkpoint needs this: do not load the file, and find out where it comes from"
        if dangerous
        else "save the weights alone: torch.save(m.state_dict(), ...); or, if you trust it: --trust-pickle",
    )
