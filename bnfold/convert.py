"""The pipeline: the one place that knows the order of the stages.

    capture, fold -> audit -> frames -> the reference's own checks -> the fold's parity
      -> export each target -> its parity in every interpreter at hand -> manifest, golden frame -> files

Nothing is written before every target has been exported and compared, so a failure leaves the folder as it
was. What the population statistics, the parameters or the network itself make unusable stops the conversion
without a file. A file that fails its parity is written as ``NAME.onnx.rejected``, to look into.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfold import atomic, delivery, draft
from bnfold import finding as f
from bnfold.bake import bake
from bnfold.channels_last import movable
from bnfold.conversion import Artifact, ConversionResult
from bnfold.draft import Draft
from bnfold.errors import UsageError
from bnfold.export import monitor as monitor_graph
from bnfold.export import taps
from bnfold.export.outputs import check_outputs
from bnfold.finding import Finding
from bnfold.fold import FoldResult, fold
from bnfold.fold.report import BatchNormEntry
from bnfold.fold.rules import all_rules
from bnfold.normalisation import assumed, by_input
from bnfold.quantize.calibration import few, unbounded
from bnfold.quantize.distil import distil, image_limits
from bnfold.request import Request, check_labels, check_request
from bnfold.samples import Frames
from bnfold.statistics import gate, per_frame
from bnfold.verify import kinds, load_metric, randomness
from bnfold.verify.accuracy import Metric
from bnfold.verify.candidates import TorchCandidate, single_thread
from bnfold.verify.proof import Proof

Progress = Callable[[str], None]


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
    second_moments: bool = False,
    dynamic_batch: bool = False,
    skip: Iterable[str] = (),
    allow: Iterable[str] = (),
    prune: bool = False,
    opset: int | None = None,
    source: Mapping[str, Any] | None = None,
    metric: Metric | str | None = None,
    batch_statistics: str | None = None,
    bake_normalisation: bool = False,
    min_agreement: float | None = None,
    answers: Mapping[str, str] | None = None,
    layout: str = "nchw",
    runtime: str = "tflite-2.14",
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
        precision: ``fp32``; ``fp16``: weights stored as float16, computed in float32; ``int8``: weights and
            activations, with ranges from ``samples``, or without any from the population statistics. Inputs
            and outputs are the same in each.
        monitor: write ``NAME.monitor.onnx`` beside ``NAME.onnx``: the same answers, and what the drift checks
            look at. At least 20 of ``samples`` become its baseline.
        second_moments: in the monitored file: each channel's mean square beside its mean, which takes more
            time a frame and sees changes that leave means where they are.
        dynamic_batch: keep the batch axis symbolic (ONNX only).
        skip: names of fold rules not to use.
        allow: codes of causes in the catalogue, as ``BNF-A010``: errors of the audit that this network may
            have all the same. They become warnings and stand in the manifest. What cannot be frozen stops a
            conversion still.
        prune: remove channels that are constant or that nobody reads, see :func:`bnfold.fold`.
        opset: of ONNX; None is the exporter's default.
        source: ``path``, ``sha256`` and ``format`` of the checkpoint that the module was loaded from.
        metric: ``metric(outputs, labels) -> float`` in place of top-1, or ``FILE.py:NAME``.
        batch_statistics: ``frame``: the last resort, BatchNorms that normalise each frame by its own spatial
            statistics (see :mod:`bnfold.statistics.per_frame`).
        bake_normalisation: put (pixel * scale - mean) / std into the graph, see :mod:`bnfold.bake`: the file
            takes pixels from 0 to 255 as floats, and so do samples that are floats.
        min_agreement: of a lower precision: the share of frames that must keep their best class, or of
            values that must agree, for the file to pass; 0.99, or 0.98 for ``int8`` without samples.
        answers: of a lower precision: by output name, ``scores`` (of classes: the largest must stay the same)
            or ``numbers`` (each must agree). What is not told is scores with ``labels``, behind a softmax, or
            in a row of three floats and more; then a finding says so.
        layout: ``nhwc``: the TFLite file takes float inputs of four or five axes channels last, as its
            convolutions do. Everything given here, samples too, stays as the network takes it.
        runtime: what a TFLite file is for: ``tflite-2.14`` holds it to the operators that tflite-runtime
            2.14.0 knows, and ai-edge-litert too; ``litert`` is for ai-edge-litert alone.
        progress: called with the name of each stage as it begins.

    Returns:
        What became of each BatchNorm, the parity, the findings and the files written. It has not ``passed``
        where the statistics or parameters are unusable, or the network is random, not finite or depends on
        the batch (nothing is written then), or where a file failed its parity (it is named ``*.rejected``).

    Raises:
        UsageError: options that cannot be used, or do not fit the network; BNF-U152 int8 without samples of a
            network whose population statistics tell no ranges.
        CaptureError, ExportError: the network cannot be captured, or not be expressed in a target.
        VerifyError, InputError: samples, labels or answers that do not fit.
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
        second_moments=second_moments,
        dynamic_batch=dynamic_batch,
        opset=opset,
        source=source,
        min_agreement=min_agreement,
        layout=layout,
        runtime=runtime,
    )
    allowed = gate.check_allowed(allow)
    judged_by = load_metric(metric) if isinstance(metric, str) else metric
    tell = progress or _silent
    tell("folding")
    example_inputs = _detached(example_inputs)
    exchanged: dict[str, int] = {}
    if batch_statistics is not None:
        module, exchanged = _by_frame(module, example_inputs, batch_statistics)
    baked = bake(module, example_inputs, normalisation) if bake_normalisation else None
    if baked is not None:
        module, example_inputs = baked.module, baked.example_inputs
    skipped = (skip,) if isinstance(skip, str) else tuple(skip)

    stand_ins: list[Frames] = []  # made once, however often it is folded

    def attempt(skipped: tuple[str, ...]) -> _Attempt:
        """Fold, and prove the fold and every file."""
        folded = fold(module, example_inputs, dynamic_batch=dynamic_batch, skip=skipped, prune=prune)
        check_outputs(folded.captured)
        check_labels(request.labels, folded.captured.outputs)
        if request.monitor:
            monitor_graph.check_frames(folded.captured.inputs)
        prepared = by_input(normalisation, folded.captured.inputs) if baked is None else baked.normalisation
        moved = movable(folded.captured.inputs, prepared) if request.layout == "nhwc" else frozenset()
        # random numbers would show as failures of everything that follows
        found = randomness.findings(folded.captured)
        if f.passed(found):
            found = gate.findings(module, folded.report, allowed)
            found += assumed(normalisation, prepared if baked is None else baked.before)
            found += [per_frame.marked(exchanged)] if exchanged else []
        if not f.passed(found):
            return _Attempt(folded, found)
        if request.precision == "int8" and samples is None:
            said = normalisation or baked is not None
            limits = image_limits(prepared if said else {}, folded.captured.inputs)
            if not stand_ins:
                tell("making frames out of the population statistics")
                stand_ins.append(distil(module, example_inputs, folded.captured.inputs, limits))
            found += unbounded(folded.captured.inputs, limits)
        tell("computing the reference")
        random = stand_ins[0] if stand_ins else None
        proof = Proof.of(module, example_inputs, folded, samples, prepared, judged_by, random)
        ours = folded.module
        told = kinds.of_network(ours.body, ours.outputs, request.labels, answers)
        proof.yardstick.kinds = told
        if request.gate is not None:
            judged = proof.yardstick.judge
            sure = {*told, *([judged.output] if judged is not None else [])}
            found += kinds.doubtful(ours.outputs, sure, proof.frames.size)
        found += proof.yardstick.findings
        found += few(proof.frames) if request.precision == "int8" else []
        if not f.passed(found):
            return _Attempt(folded, found)
        tell("comparing the fold")
        proof.measure(TorchCandidate("fold", ours.body, ours.inputs, ours.outputs))
        contents = _contents(module, folded, request, proof, found, per_frame.entries(exchanged))
        drafts = [
            draft.make(
                target,
                contents[role],
                request,
                folded,
                prepared,
                proof,
                tell,
                opset=opset,
                channels_last=moved,
            )
            for target, role in request.files
        ]
        found += [finding for one in drafts for finding in one.findings]
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
    artifacts = [delivery.write(request, draft, found) for draft in made.drafts]
    return ConversionResult(
        [*folded.report.batch_norms, *per_frame.entries(exchanged)],
        proof.parity,
        f.by_severity(found + proof.findings),
        artifacts,
        request.source,
        proof.yardstick.accuracy,
        folded.report.pruned,
        proof.agreement,
        [loss for one in made.drafts for loss in one.losses],
    )


@dataclass(frozen=True)
class _Attempt:
    """A fold with its proof and its files; without a proof where something stops the conversion."""

    folded: FoldResult
    found: list[Finding]
    proof: Proof | None = None
    drafts: list[Draft] = field(default_factory=list)

    def delicate(self) -> list[str]:
        """Where the parity failed: the rules used that may round more than the network itself does."""
        exact = [] if self.proof is None else [row for row in self.proof.parity if row.precision == "fp32"]
        if all(result.passed for result in exact):
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


def _contents(
    module: nn.Module,
    folded: FoldResult,
    request: Request,
    proof: Proof,
    found: list[Finding],
    exchanged: list[BatchNormEntry],
) -> dict[str, draft.Content]:
    """What each role's file holds: the folded graph, and the same with taps."""
    entries = [*folded.report.batch_norms, *exchanged]
    allowed = [{"code": one.code, "where": one.where} for one in found if one.evidence.get("allowed")]
    whole = monitor_graph.reference(module, folded)
    ours = folded.module
    recorded = whole.to_json() if whole.layers else None
    contents = {"clean": draft.Content("clean", ours.body, ours.outputs, entries, allowed, recorded)}
    if request.monitor:
        tapped = taps.tap(folded, monitor_graph.by_name(whole) if request.second_moments else None)
        seen = monitor_graph.monitored(whole, tapped, folded, proof.frames)
        contents["monitor"] = draft.Content(
            "monitor", tapped.body, tapped.outputs, entries, allowed, seen.to_json()
        )
        found += monitor_graph.unseen(tapped)
    return contents


def _stopped(request: Request, folded: FoldResult, found: list[Finding]) -> ConversionResult:
    """Nothing is written; what an earlier conversion left is pointed out."""
    for target, role in request.files:
        found += delivery.left_over(request.path(target, role))
    return ConversionResult(
        folded.report.batch_norms, [], f.by_severity(found), [], request.source, pruned=folded.report.pruned
    )


def _by_frame(module: nn.Module, example_inputs: Any, how: str) -> tuple[nn.Module, dict[str, int]]:
    """The network with BatchNorms that normalise each frame by itself.

    Raises:
        UsageError: BNF-U074 it is asked for in another way.
        StatisticsError: as :func:`bnfold.statistics.per_frame.per_frame`.
    """
    if how != "frame":
        raise UsageError(
            "BNF-U074", f"batch statistics by {how!r} are not offered", where="batch statistics", fix="frame"
        )
    return per_frame.per_frame(module, example_inputs)


def _detached(example_inputs: Any) -> Any:
    """The same without gradients: torch warns wherever one that requires them becomes a number."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, example_inputs)


def _silent(stage: str) -> None:
    return None


__all__ = ["Artifact", "ConversionResult", "convert"]
