"""The state dicts inside a checkpoint, and which of them is meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import CheckpointError
from bnfold.finding import Finding
from bnfold.wording import clip, clip_path, close, count, some

if TYPE_CHECKING:
    from torch import Tensor

#: the name of a state dict that is the whole file
WHOLE = "state_dict"
_PLAIN = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
_AVERAGED = re.compile(r"(^|[._/\-])(ema|swa|averaged?|shadow)($|[._/\-\d])", re.IGNORECASE)
# training's own state, where tensors are no weights
_NOT_WEIGHTS = re.compile(
    r"optim|sched|scaler|rng|hyper_param|callbacks|loops|history|args$|config", re.IGNORECASE
)
_DEPTH = 3


@dataclass(frozen=True)
class Checkpoint:
    """A file's content.

    Attributes:
        path: the file.
        format: ``safetensors`` or ``torch``.
        sha256: of the file's bytes, in hexadecimal.
        state_dicts: tensors by key, by the name of the state dict: ``state_dict`` where it is the whole file
            or under that key, else the keys that lead to it (``model_ema``, ``model/state_dict``).
        unusable: why a state dict that is in the file cannot be used, by its name.
        notes: what the user should know, severity info.
    """

    path: Path
    format: str
    sha256: str
    state_dicts: dict[str, dict[str, Tensor]]
    unusable: dict[str, CheckpointError] = field(default_factory=dict)
    notes: list[Finding] = field(default_factory=list)

    @property
    def default(self) -> str | None:
        """The name that `pick` takes: the only state dict, or the plain one beside averaged ones.

        None where there are several and nothing tells which is meant.
        """
        names = [*self.state_dicts, *self.unusable]
        plain = [name for name in names if not is_averaged(name)] or names
        if len(plain) == 1:
            return plain[0]
        usual = [name for name in plain if name.rpartition("/")[2] in _PLAIN]
        return usual[0] if len(usual) == 1 else None

    def pick(self, name: str | None = None) -> dict[str, Tensor]:
        """The state dict of that name; without a name, the `default`.

        Raises:
            CheckpointError: L014 (no such name), L017 (none is the obvious one), L018 (entries that are
                not named tensors).
        """
        names = [*self.state_dicts, *self.unusable]
        file = clip_path(self.path.name)
        if name is None:
            name = self.default
            if name is None:
                raise CheckpointError(
                    "BNF-L017",
                    f"{file} has {len(names)} state dicts, and none is the obvious one",
                    where=some(names, limit=5),
                    fix=f"name one: --state {clip(names[0], 40)}",
                )
        if name in self.unusable:
            raise self.unusable[name]
        if name not in self.state_dicts:
            near = [known for known in names if name in known] or close(name, names)
            raise CheckpointError(
                "BNF-L014",
                f'{file} has no state dict named "{clip(name, 40)}"',
                where=f"it has {some(names, limit=5)}",
                fix=f"--state {clip(near[0] if near else names[0], 60)}",
            )
        return self.state_dicts[name]


def is_averaged(name: str) -> bool:
    """Whether a state dict's name says that it holds averaged (EMA, SWA) weights."""
    return _AVERAGED.search(name) is not None


def others_note(checkpoint: Checkpoint, used: str) -> Finding | None:
    """The note that there are state dicts beside the one used, or None where there are none."""
    others = [name for name in checkpoint.state_dicts if name != used]
    if not others:
        return None
    averaged = [name for name in others if is_averaged(name)]
    what = "averaged (EMA) weights" if averaged else "other state dicts"
    return Finding(
        "BNF-L101",
        "info",
        clip_path(checkpoint.path.name),
        f'"{clip(used)}" is used; the file also has {what}: {some(averaged or others)}',
        {"used": used, "others": others},
        f"to use it instead: --state {clip((averaged or others)[0], 60)}",
    )


def find(path: Path, content: object) -> tuple[dict[str, dict[str, Tensor]], dict[str, CheckpointError]]:
    """The state dicts in what a checkpoint file held: usable ones, and why the others are not.

    Raises:
        CheckpointError: L015 (there is none), L018 (the only ones hold entries that are not named tensors).
    """
    import torch

    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    usable: dict[str, dict[str, Tensor]] = {}
    unusable: dict[str, CheckpointError] = {}
    for name, entries in _candidates(content):
        wrong = _not_named_tensors(path, name, entries)
        if wrong is None:
            usable[name] = {str(key): value.detach() for key, value in entries.items()}  # type: ignore[attr-defined]
        else:
            unusable[name] = wrong
    if usable:
        return usable, unusable
    if unusable:
        raise next(iter(unusable.values()))
    raise CheckpointError(
        "BNF-L015",
        f"{clip_path(path.name)} has no state dict in it",
        where=f"it holds {_describe(content)}",
        fix="save one: torch.save(m.state_dict(), ...)",
    )


def _candidates(content: object) -> list[tuple[str, Mapping[object, object]]]:
    """Mappings that hold tensors: the outermost one, unless there are some inside it."""
    nested = list(_nested(content, (), _DEPTH))
    if not nested and isinstance(content, Mapping) and _has_tensor(content):
        return [(WHOLE, content)]
    return nested


def _nested(
    content: object, path: tuple[str, ...], depth: int
) -> Iterator[tuple[str, Mapping[object, object]]]:
    import torch

    if isinstance(content, (list, tuple)) and not path:  # torch.save((model.state_dict(), epoch), ...)
        content = {str(place): item for place, item in enumerate(content)}
    if not isinstance(content, Mapping) or depth == 0:
        return
    for key, value in content.items():
        if not isinstance(key, str) or _NOT_WEIGHTS.search(key):
            continue
        if isinstance(value, torch.nn.Module):  # only a trusted pickle has one
            value = value.state_dict()
        here = (*path, key)
        if isinstance(value, Mapping) and _has_tensor(value):
            yield "/".join(here), value
        else:
            yield from _nested(value, here, depth - 1)


def _has_tensor(content: Mapping[object, object]) -> bool:
    import torch

    return any(isinstance(value, torch.Tensor) for value in content.values())


def _not_named_tensors(path: Path, name: str, entries: Mapping[object, object]) -> CheckpointError | None:
    import torch

    unnamed = [key for key in entries if not isinstance(key, str)]
    others = [key for key, value in entries.items() if not isinstance(value, torch.Tensor)]
    if not unnamed and not others:
        return None
    wrong = unnamed or others
    if unnamed:
        what, shown = "no string as its key", f"{type(unnamed[0]).__name__} {clip(repr(unnamed[0]), 40)}"
    else:
        what, shown = "no tensor", f'"{clip(others[0], 60)}" is of type {type(entries[others[0]]).__name__}'
    return CheckpointError(
        "BNF-L018",
        f"{clip_path(path.name, 40)}: {len(wrong):,} of {count(len(entries), 'item')} "
        f'in "{clip(name, 40)}": {what}',
        where=shown,
        fix="save the state dict alone: torch.save(m.state_dict(), ...)",
    )


def _describe(content: object) -> str:
    import torch

    if isinstance(content, torch.Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    kind = type(content).__name__
    if isinstance(content, Mapping):
        return f"a mapping with {some(content, limit=5, width=20)}" if content else "an empty mapping"
    if isinstance(content, (list, tuple)):
        return f"a {kind} of {count(len(content), 'item')}"
    return f"an object of type {clip(kind, 40)}"
