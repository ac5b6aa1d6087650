"""The pipeline: the one place that knows the order of the stages.

    capture, fold -> audit -> frames -> the reference's own checks -> the fold's parity
      -> export each target -> its parity in every interpreter at hand -> manifest, golden frame -> files

Nothing is written before every target has been exported and compared, so a failure leaves the folder as it
was. What the population statistics, the parameters or the network itself make unusable stops the conversion
without a file. A file that fails its parity is written as ``NAME.onnx.rejected``, to look into.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfold import atomic
from bnfold import finding as f
from bnfold import manifest as manifest_file
from bnfold._version import __version__
from bnfold.conversion import Artifact, ConversionResult, finite
from bnfold.errors import InternalError, UsageError
from bnfold.export import Exported
from bnfold.export.outputs import check_outputs
from bnfold.finding import Finding
from bnfold.fold import FoldResult, fold
from bnfold.fold.rules import all_rules
from bnfold.normalisation import Normalisation, assumed, by_input
from bnfold.request import Request, check_labels, check_request
from bnfold.runtime import Model, golden
from bnfold.signature import TensorSpec
from bnfold.statistics import gate
from bnfold.verify import load_metric, randomness
from bnfold.verify.accuracy import Metric
from bnfold.verify.candidates import ArtifactCandidate, TorchCandidate, single_thread
from bnfold.verify.parity import is_exact
from bnfold.verify.proof import Proof
from bnfold.verify.sides import open_all

Progress = Callable[[str], None]
Manifest = dict[str, Any]


def convert(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    to: str | Iterable[str] = ("onnx",),
    output: str | os.PathLike[str],
    name: str | None = None,
    samples: Any = None,
    normalisation: Mapping[str, Any] | None = None,
    labels: list[str] | None = None,
    precision: str = "fp32",
    monitor: bool = False,
    dynamic_batch: bool = False,
    skip: Iterable[str] = (),
    opset: int | None = None,
    source: Mapping[str, Any] | None = None,
    metric: Metric | str | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Fold a network, write it as ONNX and TFLite, and prove that the files compute what it computes.

    Args:
        module: any module; one in training mode is converted as in eval mode. It is not changed.
        example_inputs: positional arguments of ``forward``, batch axis first: the shapes to convert for.
        to: ``onnx``, ``tflite``, or both.
        output: the folder; made where it is not there yet.
        name: of the files: ``NAME.onnx`` (a suffix of a target is left out of it); the default is the
            source's, or else the module's class.
        samples: frames to compare on, as for :func:`bnfold.verify`; with labels they give accuracy. None:
            16 seeded random inputs, and a finding says that the parity is unproven on real frames.
        normalisation: how a uint8 frame is prepared, (pixel * scale - mean) / std: some of ``layout``,
            ``color``, ``resize``, ``scale``, ``mean`` and ``std`` for the one image input, or a dictionary of
            these by input name. What is left out is gray or RGB by the number of channels, stretched, pixels
            divided by 255; a finding tells where nothing was given.
        labels: of the classes, in order.
        precision: ``fp32``.
        monitor: not built yet.
        dynamic_batch: keep the batch axis symbolic (ONNX only).
        skip: names of fold rules not to use.
        opset: of ONNX; None is the exporter's default.
        source: ``path``, ``sha256`` and ``format`` of the checkpoint that the module was loaded from.
        metric: ``metric(outputs, labels) -> float`` in place of top-1, or ``FILE.py:NAME``.
        progress: called with the name of each stage as it begins.

    Returns:
        What became of each BatchNorm, the parity, the findings and the files written. It has not ``passed``
        where the statistics or parameters are unusable, or the network is random, not finite or depends on
        the batch (nothing is written then), or where a file failed its parity (it is named ``*.rejected``).

    Raises:
        UsageError: options that cannot be used, or do not fit the network.
        CaptureError, ExportError: the network cannot be captured, or not be expressed in a target.
        VerifyError, InputError: samples or labels that do not fit.
        PlatformError: a package, an interpreter, a permission or the space on the disk is missing.
    """
    if name is None:
        path = (source or {}).get("path")
        name = PurePath(str(path)).stem if path else type(module).__name__
    request = check_request(
        to=to,
        output=output,
        name=name,
        samples=samples,
        labels=labels,
        precision=precision,
        monitor=monitor,
        dynamic_batch=dynamic_batch,
        opset=opset,
        source=source,
    )
    judged_by = load_metric(metric) if isinstance(metric, str) else metric
    tell = progress or _silent
    tell("folding")
    example_inputs = _detached(example_inputs)
    skipped = (skip,) if isinstance(skip, str) else tuple(skip)

    def attempt(skipped: tuple[str, ...]) -> _Attempt:
        """Fold, and prove the fold and every file."""
        folded = fold(module, example_inputs, dynamic_batch=dynamic_batch, skip=skipped)
        check_outputs(folded.captured)
        check_labels(request.labels, folded.captured.outputs)
        prepared = by_input(normalisation, folded.captured.inputs)
        # random numbers would show as failures of everything that follows
        found = randomness.findings(folded.captured)
        if f.passed(found):
            found = gate.findings(module, folded.report) + assumed(normalisation, prepared)
        if not f.passed(found):
            return _Attempt(folded, found)
        tell("computing the reference")
        proof = Proof.of(module, example_inputs, folded, samples, prepared, judged_by)
        found += proof.yardstick.findings
        if not f.passed(found):
            return _Attempt(folded, found)
        tell("comparing the fold")
        ours = folded.module
        proof.measure(TorchCandidate("fold", ours.body, ours.inputs, ours.outputs))
        drafts = []
        for target in request.targets:
            tell(f"writing {target}")
            exported = _export(target, folded, opset=opset, dynamic_batch=dynamic_batch)
            found += exported.findings
            drafts.append(_prove(target, exported, request, folded, prepared, proof, tell))
        return _Attempt(folded, found, proof, drafts)

    with single_thread():
        made = attempt(skipped)
        delicate = made.delicate()
        if delicate:
            tell("folding again, with less rounding")
            made = attempt((*skipped, *delicate))
            made.found.append(_with_less_rounding(delicate))
    folded, found, proof = made.folded, made.found, made.proof
    if proof is None:
        return _stopped(request, folded, found)
    tell("writing the files")
    atomic.ensure_folder(request.folder)
    artifacts = [_write(request, draft, found) for draft in made.drafts]
    return ConversionResult(
        folded.report.batch_norms,
        proof.parity,
        f.by_severity(found + proof.findings),
        artifacts,
        request.source,
        proof.yardstick.accuracy,
    )


@dataclass(frozen=True)
class _Attempt:
    """A fold with its proof and its files; without a proof where something stops the conversion."""

    folded: FoldResult
    found: list[Finding]
    proof: Proof | None = None
    drafts: list[_Draft] = field(default_factory=list)

    def delicate(self) -> list[str]:
        """Where the parity failed: the rules used that may round more than the network itself does."""
        if self.proof is None or all(result.passed for result in self.proof.parity):
            return []
        used = {name for entry in self.folded.report.batch_norms for name in entry.rules}
        return [rule.name for rule in all_rules() if rule.rounds_more and rule.name in used]


def _with_less_rounding(rules: list[str]) -> Finding:
    return Finding(
        "BNF-V017",
        "info",
        "fold",
        f"folded without {', '.join(rules)}: with them, float32 rounded more than in the network itself",
        {"rules": rules},
        "nothing to do: where a layer's statistics are far from its values, large numbers would cancel",
    )


# --- what stops a conversion -----------------------------------------------------------------------------


def _stopped(request: Request, folded: FoldResult, found: list[Finding]) -> ConversionResult:
    """Nothing is written; what an earlier conversion left is pointed out."""
    for target in request.targets:
        found += _left_over(request.path(target))
    return ConversionResult(
        folded.report.batch_norms, [], f.by_severity(found), [], request.source, accuracy=None
    )


def _left_over(path: Path) -> list[Finding]:
    if not path.exists():
        return []
    return [
        Finding(
            "BNF-V014",
            "warning",
            path.name,
            f"{path.name} was there before and is left as it was: it is not from this conversion",
            {},
            "delete it, or do not ship it as the result of this conversion",
        )
    ]


# --- one target ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draft:
    """A finished file that is not on the disk yet."""

    target: str
    data: bytes
    passed: bool


def _export(target: str, folded: FoldResult, *, opset: int | None, dynamic_batch: bool) -> Exported:
    ours = folded.module
    example = folded.captured.example
    if target == "onnx":
        from bnfold.export import onnx

        return onnx.export(
            ours.body, ours.inputs, ours.outputs, example, opset=opset, dynamic_batch=dynamic_batch
        )
    if target == "tflite":
        from bnfold.export import tflite

        return tflite.export(ours.body, ours.inputs, ours.outputs, example)
    raise UsageError("BNF-U070", f"there is no target {target!r}", where="to")


def _prove(
    target: str,
    exported: Exported,
    request: Request,
    folded: FoldResult,
    normalisation: dict[str, Normalisation | None],
    proof: Proof,
    tell: Progress,
) -> _Draft:
    """Compare the exported file in every interpreter at hand, and complete it with its manifest."""
    draft = _manifest(target, exported, request, folded, normalisation)
    candidates = open_all(exported.data, draft)
    passed = all(result.passed for result in proof.parity if result.candidate == "fold")
    for candidate in candidates:
        tell(f"comparing {target} in {candidate.runtime}")
        passed = proof.measure(candidate) and passed
        _note_run(draft["runs_on"], candidate)
    draft["parity"] = proof.rows(target)
    draft["noise_floor"] = {name: bound.noise_floor for name, bound in proof.yardstick.bounds.items()}
    draft["golden"] = _golden(candidates[0].model, proof)
    data = manifest_file.embed(exported.data, finite(draft))
    if passed:
        _replay(data, candidates)
    return _Draft(target, data, passed)


def _manifest(
    target: str,
    exported: Exported,
    request: Request,
    folded: FoldResult,
    normalisation: dict[str, Normalisation | None],
) -> Manifest:
    """The manifest, but for what the comparison adds. Nothing in it depends on time, host or folder."""
    path = request.source.get("path")

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
        "role": "clean",
        "precision": "fp32",
        "source": {
            "name": PurePath(path).name if path else None,
            "sha256": request.source.get("sha256"),
            "format": request.source.get("format"),
        },
        "libraries": dict(sorted(exported.libraries.items())),
        "inputs": [
            {**tensor(spec, exported.inputs), "normalisation": normalisation[spec.name]}
            for spec in folded.captured.inputs
        ],
        "outputs": [tensor(spec, exported.outputs) for spec in folded.captured.outputs],
        "labels": request.labels,
        "batch_norms": [entry.to_json() for entry in folded.report.batch_norms],
        "parity": [],
        "noise_floor": {},
        "runs_on": [dict(entry) for entry in exported.runs_on],
        "drift_reference": None,
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


def _golden(model: Model, proof: Proof) -> dict[str, Any]:
    """The first frame and what the file made of it here."""
    inputs = proof.frames.first()
    outputs = model.predict_raw(inputs)
    exact = {spec.name: is_exact(spec.dtype) for spec in proof.captured.outputs}
    # For integers the bound is a share of elements, and a golden answer is the same or another one.
    tolerances = {
        name: 0.0 if exact[name] else bound.tolerance for name, bound in proof.yardstick.bounds.items()
    }
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


def _write(request: Request, draft: _Draft, found: list[Finding]) -> Artifact:
    """One file under its final name, or as ``*.rejected``; a good one replaces an earlier rejected one."""
    good, bad = request.path(draft.target), request.path(draft.target, rejected=True)
    path = good if draft.passed else bad
    if not draft.passed:
        found += _left_over(good)
    atomic.write(path, draft.data)
    if draft.passed:
        atomic.remove(bad)
    return Artifact(
        draft.target, "clean", path, hashlib.sha256(draft.data).hexdigest(), len(draft.data), "fp32"
    )


def _detached(example_inputs: Any) -> Any:
    """The same without gradients: torch warns wherever one that requires them becomes a number."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, example_inputs)


def _silent(stage: str) -> None:
    return None


__all__ = ["Artifact", "ConversionResult", "convert"]
