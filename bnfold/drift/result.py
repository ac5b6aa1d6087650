"""What a drift check found, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bnfold import finding
from bnfold.drift.evidence import Evidence
from bnfold.drift.images import Change
from bnfold.drift.reference import SQUARES
from bnfold.finding import Finding


@dataclass(frozen=True)
class LayerDrift:
    """One layer in one tier's eyes.

    Attributes:
        name: of the BatchNorm call; of its second moments, which are a layer of their own, it ends in ``^2``.
        effect: root mean square over its channels of the mean shift beyond chance, in deviations of training;
            for second moments that is sqrt(2) variances.
        limit: the effect below which nothing is said of the layer.
        significant: whether the layer drifted.
        by: the tests that say so: ``shift``, ``scale``, ``spread``, ``channel``.
        strength: the largest statistic over its threshold.
        detectable: the effect that would have been seen here with probability 0.9.
        p: of the layer, corrected for all layers; None at tier 0.
        channels: channel numbers that stand out by themselves, the largest shift first; at most 16.
        shifts: the mean shift of each of ``channels``, in deviations.
    """

    name: str
    effect: float
    limit: float
    significant: bool
    by: tuple[str, ...]
    strength: float
    detectable: float
    p: float | None
    channels: tuple[int, ...]
    shifts: tuple[float, ...]

    @property
    def second_moments(self) -> bool:
        """Whether it is about them, and not about means."""
        return self.name.endswith(SQUARES)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "effect": self.effect,
            "limit": self.limit,
            "significant": self.significant,
            "by": list(self.by),
            "strength": self.strength,
            "detectable": self.detectable if math.isfinite(self.detectable) else None,
            "p": self.p,
            "channels": list(self.channels),
            "shifts": list(self.shifts),
        }


@dataclass(frozen=True)
class LayoutDrift:
    """Where things stand in the picture, next to the held-out frames.

    Attributes:
        effect: root mean square shift beyond chance, in deviations between held-out frames.
        limit: the effect below which nothing is said.
        significant: whether the layout has changed.
        by: the tests that say so, as for a layer.
        strength: the largest statistic over its threshold.
        p: corrected for all layers and the layout.
        words: what changed, and in which part of the picture; empty where no part stands out by itself.
    """

    effect: float
    limit: float
    significant: bool
    by: tuple[str, ...]
    strength: float
    p: float
    words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "by": list(self.by), "words": list(self.words)}


@dataclass(frozen=True)
class TierResult:
    """One tier's verdict.

    Attributes:
        tier: 0 (population statistics alone) or 1 (held-out frames).
        judged: False where the evidence is too thin; ``reason`` then says why.
        drifted: False where it is not judged.
        frames: independent frames of the window that were used.
        baseline_frames: independent frames of the baseline; 0 at tier 0.
        p: of all layers together, at tier 1.
        layers: in execution order.
        layout: of the picture, at tier 1; None where the frames are no pictures, where the baseline recorded
            none, or where pictures that follow each other are too much alike to count.
    """

    tier: Literal[0, 1]
    judged: bool
    drifted: bool
    reason: str
    frames: int
    baseline_frames: int = 0
    p: float | None = None
    layers: tuple[LayerDrift, ...] = ()
    layout: LayoutDrift | None = None

    @property
    def origin(self) -> LayerDrift | None:
        """The earliest layer that drifted: what comes after it may be its consequence."""
        return next((layer for layer in self.layers if layer.significant), None) if self.drifted else None

    @property
    def detectable(self) -> float:
        """A shift of this size in any one layer's means would have been seen with probability 0.9."""
        means = (layer.detectable for layer in self.layers if not layer.second_moments)
        return max(means, default=math.inf)

    def to_json(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "judged": self.judged,
            "drifted": self.drifted,
            "reason": self.reason,
            "frames": self.frames,
            "baseline_frames": self.baseline_frames,
            "p": self.p,
            "detectable": self.detectable if math.isfinite(self.detectable) else None,
            "layers": [layer.to_json() for layer in self.layers],
            "layout": None if self.layout is None else self.layout.to_json(),
        }


@dataclass(frozen=True)
class DriftResult:
    """The answer of :func:`bnfold.drift.check`.

    Attributes:
        drifted: whether the frames differ from training, or some of them are not finite.
        judged: whether there was enough evidence for a verdict.
        findings: the verdict in words, sorted by severity; the earliest layer comes first.
        tiers: tier 1 first where there is one: the first decides.
        frames: how many there were.
        effective_frames: how many independent ones they are worth.
        block: frames of one block; 1 where the frames are independent.
        train_batch: the training batch that tier 0 assumed.
        images: what the frames look like.
        predictions: frames per class, here and in the baseline; None where the network gives no scores.
        left_out: BatchNorms that are not looked at: why, by name.
        evidence: the frames and taps behind it, where the check was told to keep them; not in JSON.
    """

    drifted: bool
    judged: bool
    findings: list[Finding]
    tiers: tuple[TierResult, ...]
    frames: int
    effective_frames: int
    block: int
    train_batch: int
    images: list[Change] = field(default_factory=list)
    predictions: Mapping[str, tuple[int, ...]] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    evidence: Evidence | None = None

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return finding.passed(self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "schema": 1,
            "passed": self.passed,
            "drifted": self.drifted,
            "judged": self.judged,
            "frames": self.frames,
            "effective_frames": self.effective_frames,
            "block": self.block,
            "train_batch": self.train_batch,
            "tiers": [tier.to_json() for tier in self.tiers],
            "images": [change.to_json() for change in self.images],
            "predictions": None
            if self.predictions is None
            else {key: list(counts) for key, counts in self.predictions.items()},
            "left_out": dict(self.left_out),
            "findings": [item.to_json() for item in self.findings],
        }
