"""From a checkpoint file to what an audit looks at: every state dict, and what they say of each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bnfold.checkpoint import Checkpoint
from bnfold.checkpoint.states import is_averaged
from bnfold.errors import UsageError
from bnfold.statistics.audit import compared
from bnfold.statistics.subject import Subject
from bnfold.wording import clip, some


@dataclass(frozen=True)
class Known:
    """What the user tells besides the file.

    Attributes:
        steps: forward passes of training.
        momentum: of the running averages.
    """

    steps: int | None = None
    momentum: float | None = None


def subjects_of(
    checkpoint: Checkpoint,
    known: Known,
    *,
    state: str | None = None,
    module: Any = None,
    against: Checkpoint | None = None,
    strip_prefix: str | None = None,
) -> list[Subject]:
    """Every network in the file, the plain one first; with ``state`` that one alone.

    Args:
        checkpoint: the file.
        known: what else is known.
        state: the name of the one to look at.
        module: the network that was filled with ``state``, or with the file's default; it takes its place.
        against: another checkpoint of the same network.
        strip_prefix: what the keys of a state dict begin with and the module's names do not.

    Raises:
        CheckpointError: L014, there is no such state dict.
        UsageError: BNF-U031, the other checkpoint has none of the BatchNorms.
    """
    if state is not None:
        checkpoint.pick(state)
    chosen = state or checkpoint.default
    told = {"steps": known.steps, "momentum": known.momentum}
    subjects = {
        name: Subject.of(
            module if module is not None and name == chosen else tensors,
            name=name,
            averaged=is_averaged(name)
            or (len(checkpoint.state_dicts) == 1 and is_averaged(checkpoint.path.stem)),
            **told,
        )
        for name, tensors in checkpoint.state_dicts.items()
    }
    if module is not None and chosen in subjects:
        subjects[chosen] = _as_stored(subjects[chosen], checkpoint.state_dicts[chosen], strip_prefix)
    plain = subjects.get(checkpoint.default or "")
    for name, subject in subjects.items():
        if plain is not None and name != checkpoint.default:
            subjects[name] = replace(subject, plain=plain)
    names = [state] if state is not None else sorted(subjects, key=lambda name: name != chosen)
    looked_at = [subjects[name] for name in names]
    if against is not None:
        looked_at = [_compared(subject, against, strip_prefix) for subject in looked_at]
    return looked_at


def _as_stored(subject: Subject, tensors: Any, strip_prefix: str | None) -> Subject:
    """The subject of a module with the types that the file has: a cast to the module's hides an overflow."""
    found = Subject.of(tensors).layers
    stored = {layer.name.removeprefix(strip_prefix or ""): layer.dtype for layer in found}
    layers = tuple(replace(layer, dtype=stored.get(layer.name, layer.dtype)) for layer in subject.layers)
    return replace(subject, layers=layers)


def _compared(subject: Subject, against: Checkpoint, strip_prefix: str | None) -> Subject:
    """The subject with the other file's state dict of the same name, else the one that is meant there."""
    tensors = against.state_dicts.get(subject.name) or against.pick()
    other = Subject.of(tensors)
    if strip_prefix and not _common(subject, other):
        other = Subject.of({key.removeprefix(strip_prefix): value for key, value in tensors.items()})
    if not subject.layers:
        return subject
    if not _common(subject, other):
        raise UsageError(
            "BNF-U031",
            f"{clip(against.path.name)} has none of the BatchNorms of this checkpoint",
            where=f"here {some([layer.name for layer in subject.layers])}, "
            f"there {some([layer.name for layer in other.layers]) or 'none'}",
            fix="--against takes another checkpoint of the same network; --strip-prefix evens out a prefix",
        )
    return compared(subject, other)


def _common(subject: Subject, other: Subject) -> bool:
    return any(other.layer(layer.name) is not None for layer in subject.layers)
