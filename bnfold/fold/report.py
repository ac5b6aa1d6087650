"""What became of each BatchNorm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bnfold.finding import Finding

Status = Literal["folded", "reduced", "kept", "refused"]


@dataclass(frozen=True)
class WeightCopy:
    """A weight that a call has a version of its own of, because other calls read another version.

    Attributes:
        weight: its name in the original.
        bytes: of this version.
    """

    weight: str
    bytes: int


@dataclass
class BatchNormEntry:
    """One BatchNorm call.

    Attributes:
        name: the module's path; ``path#2`` for a second call; ``<calling module>.batch_norm`` for a
            functional one.
        channels: how many.
        status: run-time operators that are left, against the same graph with the BatchNorm deleted:
            ``folded`` none, ``reduced`` one, ``kept`` a multiplication and an addition, ``refused``: it
            cannot be frozen and stays.
        rules: names of the rules that moved it.
        into: names of the layers whose weights took it.
        copies: weights that were copied for this call, because others read them too: one conv that is called
            for several levels, with a BatchNorm for each. Where no copy was made because it would cost more
            than what is left over, ``reason`` says so.
        reason: why it went no further; None for ``folded``.
        gain: the largest |s| of its channels, s = gamma / sqrt(var + eps); None when refused.
        max_rel_error: its certificate: the largest error of its site, replayed in float64 on the
            reference's own input to that site, relative to max|y|. None where nothing can be replayed.
    """

    name: str
    channels: int
    status: Status = "kept"
    rules: list[str] = field(default_factory=list)
    into: list[str] = field(default_factory=list)
    copies: list[WeightCopy] = field(default_factory=list)
    reason: str | None = None
    gain: float | None = None
    max_rel_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON types."""
        return {
            "name": self.name,
            "channels": self.channels,
            "status": self.status,
            "rules": list(self.rules),
            "into": list(self.into),
            "copies": [{"weight": copy.weight, "bytes": copy.bytes} for copy in self.copies],
            "reason": self.reason,
            "gain": self.gain,
            "max_rel_error": self.max_rel_error,
        }


@dataclass(frozen=True)
class PrunedLayer:
    """What pruning made of one convolution or linear layer.

    Attributes:
        name: of the layer.
        channels: outputs that it had.
        removed: which of them are gone.
        left: which of them are constant and stay.
        reader: who reads the ones that stay; None where none do.
    """

    name: str
    channels: int
    removed: list[int]
    left: list[int]
    reader: str | None

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON types."""
        return {
            "name": self.name,
            "channels": self.channels,
            "removed": list(self.removed),
            "left": list(self.left),
            "reader": self.reader,
        }


@dataclass(frozen=True)
class Pruning:
    """What pruning removed.

    Attributes:
        layers: those with channels that are gone, or constant; in execution order.
        weight_bytes: how much smaller the weights are.
    """

    layers: list[PrunedLayer]
    weight_bytes: int

    @property
    def removed(self) -> int:
        """How many channels are gone."""
        return sum(len(layer.removed) for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "layers": [layer.to_json() for layer in self.layers],
            "weight_bytes_saved": self.weight_bytes,
        }


@dataclass
class FoldReport:
    """The account of a fold.

    Attributes:
        batch_norms: one entry per BatchNorm call, in execution order.
        findings: what is wrong with statistics, or worth knowing.
        max_rel_error: of the whole network in float64, per output relative to max|y|; None where the
            reference's own output is not finite.
        tolerance: what ``max_rel_error`` had to stay within.
        seconds: ``capture``, ``fold``, ``certificate``.
        pruned: the channels that were removed; None where it was not asked for.
    """

    batch_norms: list[BatchNormEntry]
    findings: list[Finding] = field(default_factory=list)
    max_rel_error: float | None = None
    tolerance: float = 1e-10
    seconds: dict[str, float] = field(default_factory=dict)
    pruned: Pruning | None = None
