"""What the frames showed, in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bnfold.statistics.diagnose.gap import Gap
from bnfold.statistics.diagnose.passes import Pass

Gaps = Mapping[str, Gap]


@dataclass(frozen=True)
class Seen:
    """What the frames showed.

    Attributes:
        trained, evaluated: the two passes.
        own: gaps in train mode: the layer's own statistics against what it reads.
        carried: gaps in eval mode: what the layers before did is in them.
        sites: by module with several call sites, how far these are apart.
        revived: the gaps in train mode if some channels, by call, were alive and like a living one, which
            is chosen by number.
    """

    trained: Pass
    evaluated: Pass
    own: Gaps
    carried: Gaps
    sites: Gaps
    revived: Callable[[dict[str, list[int]], int], Gaps]

    def owner(self, name: str) -> str:
        """The module of a call."""
        return self.trained.readings[name].owner
