"""Many devices that run one network: has the fleet left what it was trained on, and which device has?

Counts and sums add up exactly (:func:`bnfold.drift.merge`), and say what each device has seen in its life.
The verdict rests on the last kept frames that every state holds, at most 64 of a device, against what the
codes are compared with: the population statistics, or the mean of the held-out frames and their number. The
test is tier 0's: it needs no frames of the other side, so a state is enough.

- A *device* has drifted where its own monitor gave an alarm that stands, or where its window is significant.
- The *fleet* has drifted where the windows of all the other devices together are: a change that is too small
  for any one of them to tell.

Both share 1%: half is for the devices, over their number, and half for the fleet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold import finding
from bnfold.drift import fleet_findings as words
from bnfold.drift import tier0
from bnfold.drift.scale import Scale
from bnfold.drift.state import Counts, State, merge
from bnfold.drift.taps import columns
from bnfold.drift.tier0 import LayerTest
from bnfold.drift.tiers import LEAST_FRAMES
from bnfold.finding import Finding, by_severity

# Of fewer frames the scale test's own estimate of chance is too rough for a level shared by many devices: at
# 8 frames of 6 channels it gave 5 times the false alarms of a level of 0.00025, at 32 frames none too many.
_SURE = 32
_MOST = 1024  # frames that are tested together; of more, as many at even distances


@dataclass(frozen=True)
class LayerShift:
    """One layer of a device, or of the fleet.

    Attributes:
        name: of the BatchNorm call.
        effect: root mean square over its watched channels of the mean shift beyond chance in all kept frames,
            in deviations of training.
        significant: whether the last kept frames say so.
    """

    name: str
    effect: float
    significant: bool = False


@dataclass(frozen=True)
class DeviceDrift:
    """One state.

    Attributes:
        name: what the caller calls it.
        counts: of the state; ``devices`` is more than 1 where it was merged before.
        window: kept frames that could be tested.
        drifted: whether the device stands out, by its alarm or by its window.
        alarmed: whether its own monitor gave an alarm that was not reset.
        judged: whether there was enough evidence.
        blamed: the earliest layer that drifted; empty if none, or where it is not known.
        layers: in execution order.
    """

    name: str
    counts: Counts
    window: int
    drifted: bool
    alarmed: bool
    judged: bool
    blamed: str
    layers: tuple[LayerShift, ...]


@dataclass(frozen=True)
class FleetResult:
    """The answer of :func:`fleet`.

    Attributes:
        drifted: whether a device or the fleet has drifted, or gave values that are not finite.
        judged: whether there was enough evidence for a verdict.
        tier: what the frames are compared with: 0 the population statistics, 1 held-out frames.
        counts: of all devices together.
        devices: in the order of their names.
        layers: of all devices together, in execution order.
        together: whether all the devices that have not drifted differ from training as one.
        frames: kept frames of theirs that were tested.
        findings: the verdict in words, sorted by severity.
    """

    drifted: bool
    judged: bool
    tier: int
    counts: Counts
    devices: tuple[DeviceDrift, ...]
    layers: tuple[LayerShift, ...]
    together: bool
    frames: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return finding.passed(self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "schema": 1,
            "passed": self.passed,
            **{key: value for key, value in asdict(self).items() if key != "findings"},
            "findings": [item.to_json() for item in self.findings],
        }


def fleet(states: Mapping[str, State]) -> FleetResult:
    """The verdict on the states of many devices, by name. The order in which they come does not matter.

    Raises:
        UsageError: BNF-U144 there are none; BNF-U145 they are of different networks or baselines.
    """
    named = dict(sorted(states.items()))
    total = merge(named.values())
    scale = total.scale
    tests = {
        name: _tested([state], scale, tier0.ALPHA / 2 / len(named)) for name, state in named.items()
    }
    devices = tuple(_device(name, state, tests[name]) for name, state in named.items())
    others = [named[device.name] for device in devices if not device.drifted]
    pooled = _tested(others, scale, tier0.ALPHA / 2)
    together = any(test.significant for test in pooled)
    frames = sum(state.filled for state in others)
    broken = [found for device in devices for found in words.broken(device)]
    drifted = together or any(
        device.drifted or device.counts.bad_inputs or device.counts.bad_outputs for device in devices
    )
    judged = drifted or bool(pooled) or any(device.judged for device in devices)
    findings = [
        *(words.stands_out(device, tests[device.name], scale.tier) for device in devices if device.drifted),
        *([words.as_one(pooled, scale, len(others), frames)] if together else []),
        *broken,
        *(words.merged_before(device) for device in devices if device.counts.devices != 1),
        *([] if drifted else [words.unseen(pooled, frames) if judged else words.thin(frames)]),
    ]
    return FleetResult(
        bool(drifted), judged, scale.tier, total.counts, devices, _layers(total, pooled), together, frames,
        by_severity(findings),
    )  # fmt: skip


def _tested(states: Sequence[State], scale: Scale, alpha: float) -> list[LayerTest]:
    """One test per layer on the windows together; empty with too little, or no bound on the spread."""
    codes = [state.window for state in states if state.filled]
    if sum(len(window) for window in codes) < LEAST_FRAMES:
        return []
    factors = [layer.factor for layer in scale.layers]
    if not all(map(math.isfinite, factors)):
        return []
    rows = np.concatenate(codes)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _MOST).astype(int))]
    values = scale.deviations(rows)
    parts = [
        values[:, part] / math.sqrt(factor)
        for part, factor in zip(columns(scale.sizes), factors, strict=True)
    ]
    sure = len(rows) >= _SURE
    expected = [tier0.Expected(one.behind, one.batches, one.single and sure) for one in scale.layers]
    return tier0.judge(parts, expected, alpha=alpha)


def _device(name: str, state: State, tests: Sequence[LayerTest]) -> DeviceDrift:
    layers = _layers(state, tests)
    origin = next((layer.name for layer in layers if layer.significant), "")
    return DeviceDrift(
        name, state.counts, state.filled, state.alarmed or bool(origin), state.alarmed,
        state.alarmed or bool(tests) or state.counts.looks > 0, state.blamed or origin, layers,
    )  # fmt: skip


def _layers(state: State, tests: Sequence[LayerTest]) -> tuple[LayerShift, ...]:
    """Each layer's shift over all kept frames, and whether the window's test says so."""
    effects = _effects(state)
    flags = [test.significant for test in tests] or [False] * len(effects)
    return tuple(
        LayerShift(layer.name, effect, flag)
        for layer, effect, flag in zip(state.scale.layers, effects, flags, strict=True)
    )


def _effects(state: State) -> list[float]:
    """Root mean square shift of each layer beyond the error of the two means; 0 without two frames."""
    scale, kept = state.scale, state.counts.kept
    if kept < 2:
        return [0.0] * len(scale.layers)
    mean = state.sums / kept
    # exact in Python's integers where float64 would lose the difference of two large sums
    spread = _spread(state.sums, state.squares, kept) * np.square(scale.step.astype(np.float64))
    shift = scale.deviations(mean)
    found = []
    for layer, part in zip(scale.layers, columns(scale.sizes), strict=True):
        if not layer.columns:
            found.append(0.0)
            continue
        chance = float(spread[part].mean()) * (1 / kept + 1 / layer.behind)
        found.append(math.sqrt(max(float(np.square(shift[part]).mean()) - chance, 0.0)))
    return found


def _spread(sums: NDArray[np.int64], squares: NDArray[np.int64], kept: int) -> NDArray[np.float64]:
    """The variance of each column's codes."""
    return np.array(
        [(kept * int(q) - int(s) ** 2) / (kept * (kept - 1)) for s, q in zip(sums, squares, strict=True)]
    )
