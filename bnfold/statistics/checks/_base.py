"""What a check is, and how its findings read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bnfold.finding import Finding
from bnfold.statistics.causes import Cause
from bnfold.statistics.layers import Layer
from bnfold.statistics.subject import Subject

_SHOWN = 6


class Check(ABC):
    """Looks for one cause, or for causes with one signature.

    A finding's ``evidence`` names the module in ``layer``; ``channels`` are channel numbers.

    Attributes:
        causes: what it can find.
        supersedes: causes that it tells more about: their findings at the same layer are dropped.
        relation: of a finding that follows to the first one.
    """

    causes: ClassVar[tuple[Cause, ...]]
    supersedes: ClassVar[tuple[Cause, ...]] = ()
    relation: ClassVar[str] = "a consequence of"

    @abstractmethod
    def examine(self, subject: Subject) -> Iterable[Finding]:
        """What it finds in a network, in the order of the layers."""

    def follows(self, finding: Finding) -> bool:
        """Whether the same cause in an earlier layer explains this finding."""
        return False


class LayerCheck(Check):
    """A check that needs no more than one layer's numbers.

    Attributes:
        stops: whether its errors are about what makes a layer unusable; the fold asks these checks.
    """

    stops: ClassVar[bool] = False

    @abstractmethod
    def of_layer(self, layer: Layer) -> list[Finding]:
        """What it finds in one layer."""

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """Layer by layer."""
        for layer in subject.layers:
            yield from self.of_layer(layer)


def channel_list(channels: Sequence[int] | NDArray[Any]) -> str:
    """``[3, 7]``, the first few of many."""
    shown = ", ".join(str(int(channel)) for channel in channels[:_SHOWN])
    return f"[{shown}{', ...' if len(channels) > _SHOWN else ''}]"


def among(channels: Sequence[int] | NDArray[Any], layer: Layer) -> str:
    """``2 of 16 channels``, ``all 16 channels``, ``its one channel``."""
    count, total = len(channels), layer.channels
    if count == total:
        return "its one channel" if total == 1 else f"all {total} channels"
    return f"{count} of {total} channels"


def names(layers: Sequence[Layer], shown: int = 3) -> str:
    """``bn1, bn2, bn3 and 4 more``; ``(the whole)`` for a BatchNorm that is the network."""
    words = [layer.name or "(the whole)" for layer in layers]
    rest = len(words) - shown
    return ", ".join(words) if rest <= 0 else f"{', '.join(words[:shown])} and {rest} more"


def in_layers(found: Sequence[Layer], subject: Subject) -> str:
    """``in all 16 layers``, ``in layer1.bn2``, ``in 3 of 16 layers (a, b, c)``."""
    total = len(subject.layers)
    if len(found) == total and total > 1:
        return f"in all {total} layers"
    return f"in {names(found)}" if len(found) == 1 else f"in {len(found)} of {total} layers ({names(found)})"


def evidence(
    layer: Layer, channels: Sequence[int] | NDArray[Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A finding's evidence about a layer: JSON types."""
    content: dict[str, Any] = {"layer": layer.name}
    if channels is not None:
        content |= {"channels": np.asarray(channels, dtype=int).tolist(), "count": layer.channels}
    return content | more


def with_origin(findings: Sequence[Finding], check: Check) -> list[Finding]:
    """The findings of one cause, in order: those that the first explains say so.

    A consequence has the origin's layer in ``evidence["origin"]``.
    """
    marked: list[Finding] = []
    for finding in findings:
        if marked and check.follows(finding):
            origin = _place(marked[0])
            finding = replace(
                finding,
                message=f"{finding.message.partition(': ')[0]}: {check.relation} {origin}",
                evidence={**finding.evidence, "origin": origin},
                remedy=f"as for {origin}",
            )
        marked.append(finding)
    return marked


def _place(finding: Finding) -> str:
    return str(finding.evidence.get("layer") or finding.where.partition("[")[0])
