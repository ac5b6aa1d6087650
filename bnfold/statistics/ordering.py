"""The order of layers where a file keeps none: safetensors writes tensors in the order of their names.

Names are compared part by part, numbers as numbers, so that ``features.10`` comes after ``features.2``.
Parts that by custom begin a network (a stem, an encoder) or end it (a decoder, a head) come first or last.
That is a convention and no knowledge: a module tells the order, and a forward pass that of execution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_EARLY = frozenset(
    {"stem", "conv_stem", "input", "entry", "patch_embed", "embed", "encoder", "down", "backbone"}
)
_LATE = frozenset(
    {"decoder", "up", "neck", "head", "heads", "classifier", "fc", "final", "last", "top", "aux"}
)
# of the whole network: the BatchNorm after its first convolution
_FIRST = frozenset({"bn0", "bn1", "norm0", "norm1", "conv0", "conv1"})

Key = tuple[tuple[int, tuple[tuple[int, int, str], ...]], ...]


def is_by_name(names: Sequence[str]) -> bool:
    """Whether the names are in alphabetical order, as only a file that sorts them has them."""
    return len(names) > 1 and list(names) == sorted(names)


def by_custom(name: str) -> Key:
    """A key to sort qualified names by."""
    parts = name.split(".")
    return tuple((_rank(part, top=i == 0), _natural(part)) for i, part in enumerate(parts))


def _rank(part: str, *, top: bool) -> int:
    word = re.sub(r"_?\d+$", "", part).lower()
    if word in _EARLY or (top and part in _FIRST):
        return 0
    return 2 if word in _LATE else 1


def _natural(part: str) -> tuple[tuple[int, int, str], ...]:
    pieces = re.findall(r"\d+|\D+", part)
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces)
