"""A diagnosis as plain JSON types."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.statistics.diagnose.gap import MARGIN, Gap
from bnfold.statistics.diagnose.passes import Reading, Size

if TYPE_CHECKING:
    from bnfold.statistics.diagnose import Diagnosis


def document(result: Diagnosis, *, channels: bool = False) -> dict[str, Any]:
    """See `Diagnosis.to_json`.

    ``layers`` has one entry per BatchNorm call in execution order: ``gap`` in train mode (the layer's own
    statistics), ``eval_gap``, ``shift`` of the deployment, each with the typical and the largest gap in
    standard deviations and the channels that are off; ``output`` with the size of what it gives in both
    modes. ``modules`` has the sizes of every module without parts. With ``channels`` each layer has
    ``by_channel``. ``margin`` is the gap that is let pass. ``histograms`` is empty unless asked
    for.
    """
    return {
        "schema": 1,
        "passed": result.passed,
        "findings": [finding.to_json() for finding in result.findings],
        "frames": result.frames,
        "deployment_frames": result.deployment_frames,
        "unusable_frames": [one.to_json() for one in result.unusable],
        "breakdown": result.breakdown.to_json() if result.breakdown else None,
        "exploding": result.exploding,
        "margin": MARGIN,
        "layers": [_layer(result, name, reading, channels) for name, reading in _readings(result)],
        "modules": [
            {"name": name, "eval": _size(size), "train": _size(_twin(result, name))}
            for name, size in (result.evaluated.modules.items() if result.evaluated else ())
        ],
        "histograms": [one.to_json() for one in result.histograms],
    }


def _readings(result: Diagnosis) -> Iterable[tuple[str, Reading]]:
    return result.evaluated.readings.items() if result.evaluated else ()


def _twin(result: Diagnosis, module: str) -> Size | None:
    return result.trained.modules.get(module) if result.trained else None


def _layer(result: Diagnosis, name: str, reading: Reading, channels: bool) -> dict[str, Any]:
    trained = result.trained.readings.get(name) if result.trained else None
    entry: dict[str, Any] = {
        "name": name,
        "layer": reading.owner,
        "channels": reading.channels,
        "uses_batch": reading.uses_batch,
        "gap": _gap(result.own.get(name)),
        "eval_gap": _gap(result.carried.get(name)),
        "shift": _gap(result.shifted.get(name)),
        "output": {"eval": _size(reading.output), "train": _size(trained.output if trained else None)},
    }
    if channels:
        entry["by_channel"] = {
            "stored_mean": _array(reading.mean),
            "stored_variance": _array(reading.variance),
            "mean": _array(trained.input.mean if trained else None),
            "variance": _array(trained.input.variance if trained else None),
            "between_frames": _array(trained.input.between if trained else None),
            "eval_mean": _array(reading.input.mean),
            "eval_variance": _array(reading.input.variance),
            **_by_channel("gap", result.own.get(name)),
            **_by_channel("eval_gap", result.carried.get(name)),
            **_by_channel("shift", result.shifted.get(name)),
        }
    return entry


def _gap(gap: Gap | None) -> dict[str, Any] | None:
    if gap is None:
        return None
    return {
        "typical": _number(gap.typical),
        "largest": _number(gap.largest),
        "at_least": _number(float(gap.certain.max(initial=-np.inf))),
        "off": gap.channels,
        "worst_channel": gap.worst,
    }


def _by_channel(kind: str, gap: Gap | None) -> dict[str, Any]:
    if gap is None:
        return {}
    return {f"{kind}_in_mean": _array(gap.mean), f"{kind}_in_scale": _array(gap.scale)}


def _size(size: Size | None) -> dict[str, Any] | None:
    return None if size is None else {"rms": _number(size.rms), "largest": _number(size.largest)}


def _array(values: Any) -> list[float | None] | None:
    return None if values is None else [_number(float(value)) for value in values]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
