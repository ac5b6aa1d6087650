"""What a recalibration came to: the network, what changed in each layer, and whether it is better for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnfold.finding import Finding, passed
from bnfold.statistics.skipped import Skipped

if TYPE_CHECKING:
    from torch import nn

    from bnfold.statistics.held_out import HeldOut

Array = NDArray[np.float64]
Method = Literal["one pass", "layer by layer", "merged parts", "debiased"]


@dataclass(frozen=True)
class LayerChange:
    """The running statistics of one layer before and after.

    Attributes:
        name: the module's qualified name.
        calls: the names of its calls in one forward pass.
        values: pooled per channel: frames times positions, over all calls; 0 where no data were used.
        eps: of the layer.
        old_mean, old_variance: shape (channels,), as they were stored.
        mean, variance: shape (channels,), in float64; the module holds them rounded to its own dtype.
    """

    name: str
    calls: tuple[str, ...]
    values: int
    eps: float
    old_mean: Array
    old_variance: Array
    mean: Array
    variance: Array

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def shifts(self) -> Array:
        """Shape (channels,): how far each mean moved, in new standard deviations; infinite from NaN."""
        with np.errstate(invalid="ignore"):
            moved = np.abs(self.mean - self.old_mean) / np.sqrt(self.variance + self.eps)
        return np.where(np.isfinite(moved), moved, math.inf)

    @property
    def ratios(self) -> Array:
        """Shape (channels,): new standard deviation over the old one, eps included; infinite from NaN."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.sqrt((self.variance + self.eps) / (self.old_variance + self.eps))
        return np.where(np.isfinite(ratio), ratio, math.inf)

    def to_json(self, *, arrays: bool = False) -> dict[str, Any]:
        """Plain JSON types; ``arrays`` adds every channel's statistics under ``statistics``."""
        shifts, ratios = self.shifts, self.ratios
        shifted, scaled = int(shifts.argmax()), int(np.abs(np.log(ratios)).argmax())
        document: dict[str, Any] = {
            "name": self.name,
            "channels": self.channels,
            "calls": list(self.calls),
            "values": self.values,
            "not_finite_before": int((~(np.isfinite(self.old_mean) & np.isfinite(self.old_variance))).sum()),
            "largest_shift": _number(shifts[shifted]),
            "shifted_channel": shifted,
            "largest_ratio": _number(ratios[scaled]),
            "scaled_channel": scaled,
        }
        if arrays:
            document["statistics"] = {
                "old_mean": [_number(value) for value in self.old_mean],
                "old_variance": [_number(value) for value in self.old_variance],
                "mean": self.mean.tolist(),
                "variance": self.variance.tolist(),
            }
        return document


@dataclass
class RecalibrationResult:
    """A network with new population statistics.

    Attributes:
        module: a copy of the network in eval mode, with the new statistics.
        layers: what changed, in execution order.
        not_recalibrated: layers that keep what they had, and why, by name.
        skipped: batches or frames that were left out.
        frames: that the statistics are of.
        batches: that they came in.
        method: ``one pass``, ``layer by layer``, ``merged parts`` or ``debiased``.
        prior: frames that the old statistics counted for; None where they were replaced.
        held_out: before and after on frames that the statistics were not taken from; None without any.
        findings: what to know about it; an error where it is worse than before.
        seconds: that pooling took.
    """

    module: nn.Module
    layers: list[LayerChange]
    not_recalibrated: Mapping[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    frames: int = 0
    batches: int = 0
    method: Method = "one pass"
    prior: float | None = None
    held_out: HeldOut | None = None
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it is no worse than before, as far as that could be told."""
        return passed(self.findings)

    def to_json(self, *, arrays: bool = False) -> dict[str, Any]:
        """Plain JSON types; ``arrays`` adds every channel's statistics to the layers."""
        return {
            "schema": 1,
            "passed": self.passed,
            "method": self.method,
            "prior": self.prior,
            "frames": self.frames,
            "batches": self.batches,
            "frames_per_second": self.frames / self.seconds if self.seconds else None,
            "layers": [layer.to_json(arrays=arrays) for layer in self.layers],
            "not_recalibrated": [
                {"name": name, "reason": reason} for name, reason in self.not_recalibrated.items()
            ],
            "skipped": [one.to_json() for one in self.skipped],
            "held_out": None if self.held_out is None else self.held_out.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
        }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
