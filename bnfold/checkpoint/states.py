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
#: and where another one has that name: weights at the top beside a key ``state_dict``
TOP = "/"
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
# what a layer calls its tensors: a key that ends so, or has a layer's name before it, is one of a network's
_OF_A_LAYER = frozenset({"weight", "bias", "running_mean", "running_var"})

Entries = Mapping[object, object]


@dataclass(frozen=True)
class Checkpoint:
    """A file's content.

    Attributes:
        path: the file.
        format: ``safetensors`` or ``torch``.
        sha256: of the file's bytes, in hexadecimal.
        state_dicts: tensors by key, by the name of the state dict: ``state_dict`` where it is the whole file,
            the file's outermost weights or under that key, else the keys that lead to it (``model_ema``,
            ``model/state_dict``).
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


def choice_note(checkpoint: Checkpoint, used: str) -> Finding | None:
    """The note that there are state dicts beside the one used, or that there are averaged weights only.

    None where there is nothing to say.
    """
    others = [name for name in checkpoint.state_dicts if name != used]
    if not others:
        alone = is_averaged(used) and not checkpoint.unusable
        return _averaged_note(checkpoint, used) if alone else None
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


def _averaged_note(checkpoint: Checkpoint, used: str) -> Finding:
    return Finding(
        "BNF-L109",
        "info",
        clip_path(checkpoint.path.name),
        f'"{clip(used)}" is used: averaged (EMA) weights are all that the file has',
        {"used": used},
        "if the plain weights were meant, give the checkpoint that has them",
    )


def find(path: Path, content: object) -> tuple[dict[str, dict[str, Tensor]], dict[str, CheckpointError]]:
    """The state dicts in what a checkpoint file held: usable ones, and why the others are not.

    Raises:
        CheckpointError: L015 (there is none), L018 (the only ones hold entries that are not named tensors).
    """
    usable: dict[str, dict[str, Tensor]] = {}
    unusable: dict[str, CheckpointError] = {}
    made: dict[int, dict[str, Tensor]] = {}  # one mapping may be there under several names
    for name, entries in _candidates(content):
        wrong = _not_named_tensors(path, name, entries)
        if wrong is not None:
            unusable[name] = wrong
            continue
        if id(entries) not in made:
            made[id(entries)] = {str(key): value.detach() for key, value in entries.items()}  # type: ignore[attr-defined]
        usable[name] = made[id(entries)]
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


def _candidates(content: object) -> list[tuple[str, Entries]]:
    """Mappings that hold tensors, by name: the outermost one, and those inside it."""
    found = list(_inside(content, (), _DEPTH, {}))
    names = {"/".join(path) for path, _ in found}
    top = TOP if WHOLE in names else WHOLE
    return [("/".join(path) or top, entries) for path, entries in found]


def _inside(
    content: object, path: tuple[str, ...], depth: int, seen: dict[int, tuple[object, Entries | None]]
) -> Iterator[tuple[tuple[str, ...], Entries]]:
    """Mappings that hold tensors, with the keys that lead to them, outer ones first.

    `seen` holds by identity the mappings that were looked into, and what each came to: however often the
    others refer to one, it is looked into once.
    """
    import torch

    if isinstance(content, (list, tuple)) and not path:  # torch.save((model.state_dict(), epoch), ...)
        content = {str(place): item for place, item in enumerate(content)}
    if isinstance(content, torch.nn.Module):  # only a trusted pickle has one
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return
    inner: list[tuple[tuple[str, ...], Entries]] = []
    if id(content) not in seen:
        seen[id(content)] = content, None
        rest: dict[object, object] = {}
        for key, value in content.items():
            found = []
            if depth and isinstance(key, str) and not _NOT_WEIGHTS.search(key):
                found = list(_inside(value, (*path, key), depth - 1, seen))
            if not found:
                rest[key] = value
            inner += found
        if _has_tensor(rest) and (not inner or _is_network(rest, inner)):
            seen[id(content)] = content, rest
    own = seen[id(content)][1]
    if own is not None:
        yield path, own
    yield from inner


def _is_network(own: Entries, inner: list[tuple[tuple[str, ...], Entries]]) -> bool:
    """Whether tensors that stand beside state dicts are weights too, and no epoch or class weights."""
    keys = {key for key, value in own.items() if isinstance(key, str) and _is_tensor(value)}
    named = any("." in key or key in _OF_A_LAYER for key in keys)
    return named or any(not keys.isdisjoint(entries) for _, entries in inner)


def _has_tensor(content: Entries) -> bool:
    return any(_is_tensor(value) for value in content.values())


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _not_named_tensors(path: Path, name: str, entries: Entries) -> CheckpointError | None:
    unnamed = [key for key in entries if not isinstance(key, str)]
    others = [key for key, value in entries.items() if not _is_tensor(value)]
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
