"""One file of a conversion: exported, run in every interpreter at hand, and completed with its manifest.

Nothing is on the disk yet: :mod:`bnfold.delivery` writes drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from torch import fx

from bnfold import manifest as manifest_file
from bnfold import rounding
from bnfold._version import __version__
from bnfold.channels_last import file_specs, said, to_file, with_order
from bnfold.conversion import finite
from bnfold.errors import InternalError, UsageError
from bnfold.export import Exported
from bnfold.finding import Finding
from bnfold.fold import FoldResult
from bnfold.fold.report import BatchNormEntry
from bnfold.normalisation import Normalisation
from bnfold.numerics import max_abs
from bnfold.quantize.gate import Gate
from bnfold.quantize.losses import Loss
from bnfold.request import Request
from bnfold.runtime import Model, golden
from bnfold.signature import TensorSpec
from bnfold.verify.candidates import ArtifactCandidate
from bnfold.verify.parity import is_exact
from bnfold.verify.proof import Proof
from bnfold.verify.sides import open_all

Progress = Callable[[str], None]
Manifest = dict[str, Any]

_TAP_TOLERANCE = 1e-4
"""Of a tap's largest value: how far its golden value may be off on a device."""


@dataclass(frozen=True)
class Draft:
    """A finished file that is not on the disk yet.

    Attributes:
        target, role: ``onnx`` or ``tflite``; ``clean`` or ``monitor``.
        data: the file, manifest included.
        passed: whether it computes what the network computes.
        findings: what its export has to say.
        precision: ``fp32``, ``fp16`` or ``int8``.
        losses: the layers where a lower precision loses most.
    """

    target: str
    role: str
    data: bytes
    passed: bool
    findings: list[Finding] = field(default_factory=list)
    precision: str = "fp32"
    losses: list[Loss] = field(default_factory=list)


@dataclass(frozen=True)
class Content:
    """What goes into a file besides the network: the same for every target.

    Attributes:
        role: ``clean`` or ``monitor``.
        body: flat tensors in, a flat tuple of tensors out.
        outputs: of ``body``; a monitored file has more than the network.
        batch_norms: what became of each.
        allowed: code and place of every error of the audit that was allowed.
        drift_reference: the manifest's; None where the network has no statistics to refer to.
    """

    role: str
    body: fx.GraphModule
    outputs: tuple[TensorSpec, ...]
    batch_norms: list[BatchNormEntry]
    allowed: list[dict[str, str]]
    drift_reference: Mapping[str, Any] | None


def make(
    target: str,
    content: Content,
    request: Request,
    folded: FoldResult,
    normalisation: dict[str, Normalisation | None],
    proof: Proof,
    tell: Progress,
    *,
    opset: int | None,
    channels_last: frozenset[str] = frozenset(),
) -> Draft:
    """Export, compare in every interpreter at hand, complete with the manifest.

    ``channels_last``: names of the inputs that the file takes so; ``normalisation`` is the network's.

    Raises:
        ExportError, PlatformError, InternalError: as the exporters; BNF-X050 the finished file answers
            otherwise than it did before it had a manifest.
    """
    label = target if content.role == "clean" else f"the monitored {target}"
    tell(f"writing {label}")
    even: list[str] = []
    if request.gate is not None:
        body, even = rounding.equalised(content.body, request.gate, proof)
        content = replace(content, body=body)
    exported = _export(
        target, content, folded, opset=opset, channels_last=channels_last, runtime=request.runtime
    )
    losses: list[Loss] = []
    quantisation = None
    if request.gate is not None:
        tell(f"rounding {label} to {request.precision}")
        exported, quantisation, losses = rounding.lower(
            target, exported, request.gate, proof, request.runtime
        )
        quantisation["equalised"] = even
    draft = _manifest(target, content, exported, request, folded, normalisation)
    if quantisation is not None:
        draft["quantisation"] = quantisation
    candidates = open_all(exported.data, draft)
    passed = all(result.passed for result in proof.parity if result.candidate == "fold")
    for candidate in candidates:
        tell(f"comparing {label} in {candidate.runtime}")
        passed = proof.measure(candidate) and passed
        _note_run(draft["runs_on"], candidate)
    draft["parity"] = proof.rows(target, content.role)
    if quantisation is not None:
        quantisation["agreement"] = proof.agreement_rows(target, content.role)
    draft["noise_floor"] = {name: bound.noise_floor for name, bound in proof.yardstick.bounds.items()}
    draft["golden"] = _golden(candidates[0].model, exported.channels_last, proof, request.gate)
    data = manifest_file.embed(exported.data, finite(draft))
    if passed:
        _replay(data, candidates)
    return Draft(target, content.role, data, passed, list(exported.findings), request.precision, losses)


def _export(
    target: str,
    content: Content,
    folded: FoldResult,
    *,
    opset: int | None,
    channels_last: frozenset[str],
    runtime: str,
) -> Exported:
    inputs, example = folded.captured.inputs, folded.captured.example
    if target == "onnx":
        from bnfold.export import onnx

        return onnx.export(
            content.body,
            inputs,
            content.outputs,
            example,
            opset=opset,
            dynamic_batch=folded.captured.dynamic_batch,
            taps=len(content.outputs) - len(folded.module.outputs),
        )
    if target == "tflite":
        from bnfold.export import tflite

        return tflite.export(content.body, inputs, content.outputs, example, channels_last, runtime)
    raise UsageError("BNF-U070", f"there is no target {target!r}", where="to")


def _manifest(
    target: str,
    content: Content,
    exported: Exported,
    request: Request,
    folded: FoldResult,
    normalisation: dict[str, Normalisation | None],
) -> Manifest:
    """The manifest, but for what the comparison adds. Nothing in it depends on time, host or folder."""
    path = request.source.get("path")
    moved = exported.channels_last
    prepared = with_order(normalisation, moved, "NHWC")

    def tensor(spec: TensorSpec, names: Mapping[str, str]) -> dict[str, Any]:
        return {
            "name": spec.name,
            "tensor": names[spec.name],
            "shape": list(spec.shape),
            "dtype": spec.dtype,
        }

    return {
        "schema": manifest_file.SCHEMA,
        "bnfold": __version__,
        "name": request.name,
        "target": target,
        "role": content.role,
        "precision": request.precision,
        "source": {
            "name": PurePath(path).name if path else None,
            "sha256": request.source.get("sha256"),
            "format": request.source.get("format"),
        },
        "libraries": dict(sorted(exported.libraries.items())),
        "inputs": [
            {
                **tensor(file_spec, exported.inputs),
                **said(spec, moved),
                "normalisation": prepared[spec.name],
            }
            for spec, file_spec in zip(
                folded.captured.inputs, file_specs(folded.captured.inputs, moved), strict=True
            )
        ],
        "outputs": [tensor(spec, exported.outputs) for spec in content.outputs],
        "labels": request.labels,
        "batch_norms": [entry.to_json() for entry in content.batch_norms],
        "allowed": content.allowed,
        "parity": [],
        "noise_floor": {},
        "runs_on": [dict(entry) for entry in exported.runs_on],
        "drift_reference": content.drift_reference,
        "golden": None,
    }


def _note_run(runs_on: list[dict[str, Any]], candidate: ArtifactCandidate) -> None:
    """The interpreter that the file has just been run in, in place of a mere expectation."""
    runtime, _, version = candidate.runtime.rpartition(" ")
    entry = {"runtime": runtime, "version": version, "basis": "ran"}
    for known in runs_on:
        if (known["runtime"], known["version"]) == (runtime, version):
            known.update(entry)
            return
    runs_on.append(entry)


def _golden(model: Model, moved: frozenset[str], proof: Proof, gate: Gate | None) -> dict[str, Any]:
    """The first frame, cut short, and what the file made of it here.

    A file of a lower precision may be off elsewhere by what a value may be that agrees: other interpreters
    round halves otherwise, and that goes on through the layers.
    """
    inputs = {name: golden.short(array) for name, array in to_file(proof.frames.first(), moved).items()}
    outputs = model.predict_raw(inputs)
    exact = {spec.name: is_exact(spec.dtype) for spec in proof.captured.outputs}
    tolerances = {name: _TAP_TOLERANCE * max_abs(values) for name, values in outputs.items()}
    # Of integers it is a share of the elements that may be others: of a map a few places, of one answer none.
    for name, bound in proof.yardstick.bounds.items():
        wider = gate.agreeing if gate is not None else 0.0
        tolerances[name] = wider if exact[name] else max(bound.tolerance, wider * bound.spread)
    return golden.record(inputs, outputs, tolerances)


def _replay(data: bytes, candidates: list[ArtifactCandidate]) -> None:
    """The finished file once more, as a device will see it: manifest, names and golden frame belong together.

    Raises:
        InternalError: BNF-X050.
    """
    runtime = candidates[0].runtime
    model = Model(data, manifest_file.parse(data), runtime=runtime.rpartition(" ")[0])
    for check in model.self_test():
        if not check.passed:
            raise InternalError(
                "BNF-X050",
                f"the finished file gives {check.max_abs_error:.3g} off in output {check.output!r} "
                f"where it was recorded (tolerance {check.tolerance:.3g})",
                where=runtime,
                fix="report it with the model",
            )
