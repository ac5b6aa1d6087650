"""A layer that was updated more often than the network was trained: T = k times what the others have.

Either the BatchNorm is used at k places, and its average mixes what they see; or activation checkpointing ran
the forward pass twice (k = 2 and one place), which changes the momentum to 1 - (1 - m)^2 and nothing else. A
file shows T alone. A module shows a BatchNorm that is registered twice, and a forward pass how often each is
called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bnfold.finding import Finding
from bnfold.statistics.causes import SHARED, UPDATED_MORE_OFTEN, UPDATED_TWICE
from bnfold.statistics.checks._base import Check, evidence, names
from bnfold.statistics.layers import UPDATES, Layer
from bnfold.statistics.subject import Subject

# steps that a user gives are rarely the exact count of forward passes
_NEAR = 0.01
# no BatchNorm is used more often; what looks like it is a layer that hardly trained
_MOST = 32


class UpdateCounts(Check):
    """Counts that are multiples of the others', or of the training steps; BatchNorms at several places."""

    causes = (SHARED, UPDATED_TWICE, UPDATED_MORE_OFTEN)

    def examine(self, subject: Subject) -> Iterable[Finding]:
        """One finding per layer at several places; one for all other layers of a multiple."""
        base = subject.steps or usual_count([layer for layer in subject.layers if _uses(layer, subject) == 1])
        rest: dict[int, list[Layer]] = {}
        for layer in subject.layers:
            times = _multiple(layer.updates, base, exact=subject.steps is None)
            uses = _uses(layer, subject)
            if uses > 1 and (times > 1 or base is None or not layer.updates):
                yield _shared(layer, uses, base)
            elif times > 1:
                rest.setdefault(times, []).append(layer)
        for times, layers in rest.items():
            yield _more_often(layers, times, base, subject)


def usual_count(layers: Iterable[Layer]) -> int | None:
    """How often most layers were updated; None where none tells.

    The lowest count where all others are multiples of it, else the one that most layers have.
    """
    counts = Counter(layer.updates for layer in layers if layer.updates)
    if not counts:
        return None
    lowest = min(counts)
    if all(_multiple(count, lowest, exact=True) for count in counts):
        return lowest
    return max(counts, key=lambda count: (counts[count], -count))


def _multiple(updates: int | None, base: int | None, *, exact: bool) -> int:
    """How many times the base a count is; 0 where it is no multiple."""
    if not updates or not base:
        return 0
    times = round(updates / base)
    near = 0 if exact else max(1, int(_NEAR * times * base))
    return times if 1 <= times <= _MOST and abs(updates - times * base) <= near else 0


def _uses(layer: Layer, subject: Subject) -> int:
    """At how many places the layer is used: calls of a forward pass, else places where it is registered."""
    calls = sum((subject.calls or {}).get(name, 0) for name in (layer.name, *layer.aliases))
    return calls or layer.registered


def _shared(layer: Layer, uses: int, base: int | None) -> Finding:
    also = f" (also {', '.join(layer.aliases)})" if layer.aliases else ""
    counted = f"{UPDATES} {layer.updates}" if layer.updates else "no count of its updates"
    against = f", {layer.updates / base:.0f} times the usual {base}" if base and layer.updates else ""
    return Finding(
        SHARED.code,
        "error" if layer.updates else "warning",
        layer.key(UPDATES) if layer.updates else layer.name,
        f"one BatchNorm is used at {uses} places{also}: its average mixes what they see ({counted}{against})",
        evidence(layer, aliases=list(layer.aliases), uses=uses, updates=layer.updates, usual=base),
        "train with a BatchNorm for each place; where the places see the same data, this is harmless: "
        f"compare them with bnfold diagnose, then convert with --allow {SHARED.code}",
    )


def _more_often(layers: list[Layer], times: int, base: int | None, subject: Subject) -> Finding:
    first = layers[0]
    told = "training steps" if subject.steps else "updates of the other layers"
    message = f"{names(layers)}: {UPDATES} is {first.updates}, {times} times the {base} {told}"
    details = evidence(
        first, layers=[layer.name for layer in layers], updates=first.updates, usual=base, times=times
    )
    if subject.calls is not None and times == 2:
        return Finding(
            UPDATED_TWICE.code,
            "warning",
            first.key(UPDATES),
            f"{message}; a forward pass calls it once, so activation checkpointing updated it twice",
            details,
            "with checkpointing, train with momentum 1 - sqrt(1 - m); these statistics are usable",
        )
    return Finding(
        UPDATED_MORE_OFTEN.code,
        "warning",
        first.key(UPDATES),
        f"{message}: a BatchNorm that is used at several places, or activation checkpointing",
        details,
        "--model and --input tell which; or the other layers were frozen for a part of the training, and all "
        "is well"
        if not subject.steps
        else "--model and --input tell which; with gradient accumulation count forward passes as --steps",
    )
