"""One file of a conversion brought to a lower precision: its ranges, the quantizer, and where it loses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from bnfold.export import Exported
from bnfold.quantize import equalise, losses, make, ranges, tail
from bnfold.quantize.calibration import LOOKED_INTO, MOST, Calls, described
from bnfold.quantize.gate import Gate
from bnfold.quantize.inside import steps
from bnfold.quantize.losses import Loss
from bnfold.quantize.ranges import Ranges
from bnfold.verify.parity import is_exact
from bnfold.verify.proof import Proof

_ROOM = 1.1
"""Of every range: a frame that goes a little further than all that were seen is clipped, and the rest of the
network has to do without what was cut off. On the sample models 1.1 is better than 1, and 1.2 no better."""

_OUTPUT_ROOM = 2.0
"""Of an output's range, where no frame told it: nothing after the last BatchNorm says how far it goes."""


_LOOKED_AT = 64
"""Frames whose values are compared from channel to channel."""


def equalised(body: fx.GraphModule, gate: Gate, proof: Proof) -> tuple[fx.GraphModule, list[str]]:
    """The graph to export for a precision, and the layers whose channels were brought together for it."""
    if gate.precision != "int8":
        return body, []
    names = [spec.name for spec in proof.captured.inputs]
    calls = Calls(proof.frames, {name: name for name in names}, _LOOKED_AT)
    return equalise.equalised(body, ([torch.from_numpy(call[name]) for name in names] for call in calls))


def lower(
    target: str, exported: Exported, gate: Gate, proof: Proof, runtime: str
) -> tuple[Exported, dict[str, Any], list[Loss]]:
    """The same export in another precision, what the manifest says of it, and the layers that lose most.

    Args:
        target: ``onnx`` or ``tflite``.
        exported: in float32.
        gate: the precision, and what it is held to.
        proof: its frames are calibrated on.
        runtime: what a TFLite file is for, as in :func:`bnfold.export.tflite.export`.

    Raises:
        ExportError, PlatformError: as :func:`bnfold.quantize.make.lower`.
    """
    limits, calibration = None, None
    if gate.precision == "int8":
        calls = Calls(proof.frames, exported.inputs, MOST, exported.channels_last)
        limits, source = _ranges(target, exported, calls, told=proof.frames.source == "samples")
        calibration = described(source, calls)
    untold = _untold(target, exported, proof) if limits is not None else {}
    left = [tensor for tensors in untold.values() for tensor in tensors]
    lowered = make.lower(target, gate.precision, exported.data, limits, runtime, left)
    few = Calls(proof.frames, exported.inputs, LOOKED_INTO, exported.channels_last)
    _, outputs = _borders(target, exported)
    layers = {
        **{tensor: f"output {name!r}" for tensor, name in zip(outputs, exported.outputs, strict=True)},
        **exported.layers,
    }
    lost = losses.of_files(target, exported.data, lowered.data, lowered.tensors, layers, list(few))
    made = replace(
        exported,
        data=lowered.data,
        libraries={**exported.libraries, **lowered.libraries},
        findings=[*exported.findings, *lowered.findings, *tail.findings(target, list(untold))],
        log=exported.log + lowered.log,
    )
    said = {
        **lowered.to_json(),
        "calibration": calibration,
        **gate.to_json(),
        "losses": [loss.to_json() for loss in lost],
    }
    return made, said, lost


def _ranges(target: str, exported: Exported, calls: Calls, *, told: bool) -> tuple[Ranges, str]:
    """The range of every tensor, and where it is from. ``told``: by frames of the user's."""
    inputs, outputs = _borders(target, exported)
    limits = ranges.of_frames(target, exported.data, calls)
    if not told:
        limits = ranges.stretched(limits, outputs, _OUTPUT_ROOM / _ROOM)
    # what is clipped goes no further, and onnxruntime's quantizer leaves the clipping to the range
    clips = [step for step in steps(target, exported.data) if step.operator == "Clip"]
    bounded = [name for step in clips for name in step.outputs]
    limits = ranges.with_room(limits, _ROOM, but=[*inputs, *bounded])
    return limits, "samples" if told else "population statistics"


def _untold(target: str, exported: Exported, proof: Proof) -> dict[str, list[str]]:
    """By output, the tensors that no statistics tell the range of, where that decides how good answers are.

    Which score is the largest hardly depends on it; what a number is, does.
    """
    if proof.frames.source == "samples":
        return {}
    _, outputs = _borders(target, exported)
    specs = {spec.name: spec for spec in proof.captured.outputs}
    found = steps(target, exported.data)
    return {
        name: tail.floating(found, tensor)
        for tensor, name in zip(outputs, exported.outputs, strict=True)
        if not is_exact(specs[name].dtype) and proof.yardstick.kind(specs[name]) == "values"
    }


def _borders(target: str, exported: Exported) -> tuple[list[str], list[str]]:
    """The file's names of the tensors that are its inputs and its outputs."""
    if target == "onnx":
        return list(exported.inputs.values()), list(exported.outputs.values())
    from bnfold.export.tflite_inspect import describe

    named = describe(exported.data)
    return (
        [named.inputs[key] for key in exported.inputs.values()],
        [named.outputs[key] for key in exported.outputs.values()],
    )
