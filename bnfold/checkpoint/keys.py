"""The names in a state dict against the names in a model: prefixes, shared parameters, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.checkpoint.states import is_averaged
from bnfold.errors import CheckpointError
from bnfold.finding import Finding
from bnfold.wording import clip, count, some

if TYPE_CHECKING:
    from torch import Tensor

_COUNTER = "num_batches_tracked"
# what wrappers put before, or between, the names of the module they wrap
_WRAPPERS = {"_orig_mod": "torch.compile", "module": "DataParallel", "_fsdp_wrapped_module": "FSDP"}


def strip(entries: dict[str, Tensor], prefix: str, file: str, notes: list[Finding]) -> dict[str, Tensor]:
    """The entries whose key begins with `prefix`, without it; a note tells of those left out.

    Raises:
        CheckpointError: L016, no key begins with it.
    """
    kept = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    if not kept:
        raise CheckpointError(
            "BNF-L016",
            f'no key of {clip(file, 60)} begins with the prefix to strip, "{clip(prefix, 40)}"',
            where=f"its keys: {some(entries)}",
            fix="leave --strip-prefix out, and a prefix that differs is named",
        )
    if all(key.startswith(".") for key in kept):  # "module" was given for "module."
        kept = {key[1:]: value for key, value in kept.items()}
    left = [key for key in entries if not key.startswith(prefix)]
    if left:
        notes.append(
            Finding(
                "BNF-L105",
                "info",
                left[0],
                f"{count(len(left), 'key')} of {clip(file)} outside {prefix} left out: {some(left)}",
                {"left_out": left},
            )
        )
    return kept


def tied(own: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """For each key whose tensor is in the model under other keys too: those keys."""
    groups: dict[int, list[str]] = {}
    for key, value in own.items():
        groups.setdefault(id(value), []).append(key)
    return {
        key: tuple(other for other in group if other != key)
        for group in groups.values()
        if len(group) > 1
        for key in group
    }


def mismatch(
    have: list[str], want: list[str], missing: list[str], unexpected: list[str], file: str
) -> CheckpointError:
    """The error for keys that do not match: the cause where one explains it, otherwise the lists.

    Args:
        have: the checkpoint's keys.
        want: the model's keys.
        missing: keys of the model that the checkpoint lacks.
        unexpected: keys of the checkpoint that the model lacks.
        file: the checkpoint's name.
    """
    what = f"{count(len(missing), 'key')} missing and {len(unexpected):,} unexpected"
    prefixes = _prefixes(have, want)
    if prefixes:
        first = next(key for key in want if prefixes[0] + key in have)
        others = f" (or {', '.join(map(_told, prefixes[1:3]))})" if len(prefixes) > 1 else ""
        return CheckpointError(
            "BNF-L010",
            f"{what}; they differ by one prefix",
            where=f'checkpoint "{clip(prefixes[0] + first, 60)}", model "{clip(first, 60)}"',
            fix=f"--strip-prefix {_told(prefixes[0])}{others}",
        )
    outer = _prefixes(want, have)
    if outer:
        first = next(key for key in have if outer[0] + key in want)
        return CheckpointError(
            "BNF-L036",
            f"{what}; the model's keys have a prefix that the checkpoint's lack",
            where=f'checkpoint "{clip(first, 60)}", model "{clip(outer[0] + first, 60)}"',
            fix=f'give the inner module as --model: the one that the model calls "{clip(outer[0][:-1], 60)}"',
        )
    for segment, wrapper in _WRAPPERS.items():
        if any(segment in key.split(".") for key in have) and _covers(
            [_without(k, segment) for k in have], want
        ):
            first = next(key for key in have if segment in key.split("."))
            return CheckpointError(
                "BNF-L037",
                f'{what}; the checkpoint\'s keys have "{segment}" in them, from {wrapper}',
                where=f'checkpoint "{clip(first, 60)}", model "{clip(_without(first, segment), 60)}"',
                fix=f'save again with {{k.replace("{segment}.", ""): v for k, v in sd.items()}}',
            )
    parts = []
    common = len(set(have) & set(want))
    shares = f"shares {common:,} of" if common else "shares none of"
    fix = "make the model as in training: --model and --model-args" if common else "is it the right --model?"
    partial = _best_prefix(have, want)
    if partial:
        prefix, fitting = partial
        fix = f"--strip-prefix {clip(prefix, 40)} makes {fitting:,} keys fit; the rest needs another --model"
    if missing:
        parts.append(f"missing {some(missing, limit=2)}")
    if unexpected:
        parts.append(f"unexpected {some(unexpected, limit=2)}")
    return CheckpointError(
        "BNF-L011",
        f"{what}: {clip(file, 40)} {shares} the model's {count(len(want), 'key')}",
        where="; ".join(parts),
        fix=fix,
    )


def _prefixes(long: list[str], short: list[str]) -> list[str]:
    """The prefixes without which the keys `long` cover the keys `short`; averages last, short ones first."""
    needed = [key for key in short if key.rpartition(".")[2] != _COUNTER]
    if not needed:
        return []
    probe = max(needed, key=len)
    candidates = sorted(
        {key.removesuffix(probe) for key in long if key.endswith("." + probe)},
        key=lambda prefix: (is_averaged(prefix), len(prefix), prefix),
    )
    there = set(long)
    return [prefix for prefix in candidates if all(prefix + key in there for key in needed)]


def _best_prefix(have: list[str], want: list[str]) -> tuple[str, int] | None:
    """The prefix of at most three names without which most keys fit, and how many; at least half must."""
    there = set(want)
    candidates = {
        "".join(f"{part}." for part in parts[:depth])
        for key in have
        if (parts := key.split(".")[:-1])
        for depth in range(1, min(len(parts), 3) + 1)
    }
    fitting = {
        prefix: sum(key.startswith(prefix) and key.removeprefix(prefix) in there for key in have)
        for prefix in candidates
    }
    best = min(
        fitting,
        key=lambda prefix: (-fitting[prefix], is_averaged(prefix), len(prefix), prefix),
        default=None,
    )
    if best is None or 2 * fitting[best] < len(want) or fitting[best] <= len(there.intersection(have)):
        return None
    return best, fitting[best]


def _told(prefix: str) -> str:
    return clip(prefix) + (" with the averaged (EMA) weights" if is_averaged(prefix) else "")


def _without(key: str, segment: str) -> str:
    return ".".join(part for part in key.split(".") if part != segment)


def _covers(have: list[str], want: list[str]) -> bool:
    there = set(have)
    return all(key in there for key in want if key.rpartition(".")[2] != _COUNTER)
