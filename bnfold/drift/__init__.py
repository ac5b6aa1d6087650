"""Drift: do frames look like what the network was trained on? Torch-free: numpy and the standard library.

    result = bnfold.drift.check("digits.monitor.onnx", frames)
    if result.drifted:
        print(result.findings[0].message)

reference, baseline   what travels with the network
taps, observe         what frames give, from an artifact or a module
blocks                how many independent frames a window is worth
tier0, tier1, tiers   the tests; scores and distributions are theirs
images, labels        what changed in the user's words
monitor, state, alarms  a stream of frames, what is remembered of it, what is said
check, verdict        the tests together, and their result as findings
evidence              the frames behind a result, kept on request
"""

from __future__ import annotations

from bnfold.drift.baseline import Baseline
from bnfold.drift.check import check
from bnfold.drift.evidence import Evidence
from bnfold.drift.monitor import Monitor
from bnfold.drift.reference import LayerReference, Reference
from bnfold.drift.result import DriftResult, LayerDrift, TierResult
from bnfold.drift.state import State, merge
from bnfold.drift.taps import Taps

__all__ = [
    "Baseline",
    "DriftResult",
    "Evidence",
    "LayerDrift",
    "LayerReference",
    "Monitor",
    "Reference",
    "State",
    "Taps",
    "TierResult",
    "check",
    "merge",
]
