"""Drift: do frames look like what the network was trained on? Torch-free: numpy and the standard library.

    result = bnfold.drift.check("digits.monitor.onnx", frames)
    if result.drifted:
        print(result.findings[0].message)

reference, baseline   what travels with the network
taps, observe         what frames give, from an artifact or a module
blocks                how many independent frames a window is worth
tier0, tier1, tiers   the tests; scores and distributions are theirs
images, labels        what changed in the user's words
layout                where things stand in the picture
monitor, alarms       what a stream of frames shows, one at a time, and what is said of it
looks, scan           whether its last frames differ, in windows of several lengths at once
watched, held_out     the channels and the held-out frames that it uses
state, scale          what is remembered of it, and what that means without the artifact
stream                an artifact, a camera's frames and a monitor together
fleet                 the states of many devices, and which of them stands out
check, verdict        the tests together, and their result as findings
evidence              the frames behind a result, kept on request
"""

from __future__ import annotations

from bnfold.drift.baseline import Baseline
from bnfold.drift.check import check
from bnfold.drift.evidence import Evidence
from bnfold.drift.fleet import DeviceDrift, FleetResult, fleet
from bnfold.drift.monitor import Monitor
from bnfold.drift.reference import LayerReference, Reference
from bnfold.drift.result import DriftResult, LayerDrift, TierResult
from bnfold.drift.state import State, merge
from bnfold.drift.stream import Seen, Stream
from bnfold.drift.taps import Taps

__all__ = [
    "Baseline",
    "DeviceDrift",
    "DriftResult",
    "Evidence",
    "FleetResult",
    "LayerDrift",
    "LayerReference",
    "Monitor",
    "Reference",
    "Seen",
    "State",
    "Stream",
    "Taps",
    "TierResult",
    "check",
    "fleet",
    "merge",
]
