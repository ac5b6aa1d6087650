"""What the files of a conversion say of the network's population statistics, and the monitored graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from bnfold import graph as g
from bnfold.drift.baseline import Baseline
from bnfold.drift.labels import histogram
from bnfold.drift.layout import joined, layout_of
from bnfold.drift.reference import LayerReference, Reference
from bnfold.drift.taps import Taps
from bnfold.errors import UsageError
from bnfold.export.taps import Tapped
from bnfold.finding import Finding
from bnfold.fold import FoldResult
from bnfold.fold.constants import Constants
from bnfold.fold.site import batch_norm_calls
from bnfold.samples import Frames
from bnfold.signature import TensorSpec
from bnfold.verify.candidates import TorchCandidate

_MOST_FRAMES = 200
_LEAST_FRAMES = 20
"""Held-out frames for a baseline: with fewer there is none, and more would only make the file larger."""


def reference(module: nn.Module, folded: FoldResult) -> Reference:
    """Every BatchNorm call in population terms, whether or not anything taps it.

    Args:
        module: the caller's; it tells the momentum and the batches that the statistics have seen.
        folded: its fold.
    """
    constants = Constants(folded.captured.body)
    owners = dict(module.named_modules(remove_duplicate=False))
    frames = int(folded.captured.example[0].shape[0])
    layers = []
    for entry, node in batch_norm_calls(folded.captured, folded.report.batch_norms):
        rows, _, *spatial = g.shape(node)
        if entry.status != "refused" and rows % frames == 0:
            positions = rows // frames * math.prod(spatial)
            layers.append(_layer(entry.name, node, positions, constants, owners))
    return Reference(tuple(layers))


def by_name(reference: Reference) -> dict[str, LayerReference]:
    """The layers of a reference."""
    return {layer.name: layer for layer in reference.layers}


def check_frames(inputs: Sequence[TensorSpec]) -> None:
    """Refuse a monitored file that takes several frames per call: nothing that looks at it gives it so many.

    Raises:
        UsageError: BNF-U148.
    """
    for spec in inputs:
        if spec.shape and spec.shape[0] not in (None, 1):
            raise UsageError(
                "BNF-U148",
                f"the network is converted for {spec.shape[0]} frames per call, and bnfold drift and monitor "
                "give a monitored file one at a time",
                where=f"input {spec.name!r}, monitor",
                fix="convert with --input 1x..., or to ONNX with --dynamic-batch",
            )


def _layer(
    name: str, node: fx.Node, positions: int, constants: Constants, owners: dict[str, nn.Module]
) -> LayerReference:
    arguments = g.arguments(node)
    values = {
        key: None if arguments.get(key) is None else constants.value(arguments[key])
        for key in ("running_var", "weight", "bias")
    }
    variance = values["running_var"]
    assert variance is not None, "a call without statistics is refused"
    ones = np.ones_like(variance)
    gamma = ones if values["weight"] is None else values["weight"]
    beta = 0 * ones if values["bias"] is None else values["bias"]
    deviation = np.abs(gamma) * np.sqrt(np.maximum(variance, 0) / (variance + float(arguments["eps"])))
    owner: Any = owners.get(name.partition("#")[0])
    tracked = getattr(owner, "num_batches_tracked", None)
    batches = int(tracked.item()) if isinstance(tracked, torch.Tensor) else None
    momentum = getattr(owner, "momentum", 0.1)
    usable = isinstance(momentum, float | int) and 0 < momentum <= 1
    return LayerReference(
        name, beta, deviation, positions, float(momentum) if usable else None, batches or None
    )


def monitored(whole: Reference, tapped: Tapped, folded: FoldResult, frames: Frames) -> Reference:
    """The part of a reference that the monitored graph shows, with a baseline where there are frames for one.

    Args:
        whole: from `reference`.
        tapped: the monitored graph.
        folded: the fold that it was made from.
        frames: the user's frames become the baseline; random ones do not.

    Raises:
        UsageError: BNF-U092 nothing can be seen.
    """
    of_layer = by_name(whole)
    names = [f"tap.{number}" for number in range(len(tapped.taps))]
    seen = [
        of_layer[place.layer] if place.moment == 1 else of_layer[place.layer].squares()
        for place in tapped.taps
    ]
    layers = tuple(replace(layer, tap=name) for layer, name in zip(seen, names, strict=True))
    if not layers:
        raise UsageError(
            "BNF-U092",
            "there is nothing to monitor: no BatchNorm's values can be seen after folding",
            where="monitor",
            fix="leave --monitor out",
        )
    made = Reference(layers, tapped.left_out)
    return replace(made, baseline=_baseline(made, tapped, folded, frames, names))


def _baseline(
    reference: Reference, tapped: Tapped, folded: FoldResult, frames: Frames, names: Sequence[str]
) -> Baseline | None:
    given = min(frames.given, _MOST_FRAMES) if frames.source == "samples" else 0
    if given < _LEAST_FRAMES:
        return None
    run = TorchCandidate("monitor", tapped.body, folded.captured.inputs, tapped.outputs)
    rows: dict[str, list[np.ndarray[Any, Any]]] = {spec.name: [] for spec in tapped.outputs}
    pictures = []
    done = 0
    for inputs in frames:
        pictures.append(layout_of(inputs))
        for name, values in run.run(inputs).items():
            rows[name].append(values)
        done += frames.size
        if done >= given:
            break
    means = [np.concatenate(rows[name])[:given] for name in names]
    answers = [name for name in rows if name not in names]
    scores = np.concatenate(rows[answers[0]])[:given] if len(answers) == 1 else None
    taps = Taps.of(means, reference, scores if scores is not None and scores.ndim == 2 else None)
    if not np.isfinite(taps.values).all():
        return None
    layout = joined(pictures)
    return Baseline.of(
        taps.values,
        None if taps.scores is None else histogram(taps.scores),
        None if layout is None else layout[:given],
    )


def unseen(tapped: Tapped) -> list[Finding]:
    """The BatchNorms that the monitored file cannot see."""
    if not tapped.left_out:
        return []
    name, why = next(iter(tapped.left_out.items()))
    count = len(tapped.left_out)
    total = count + sum(place.moment == 1 for place in tapped.taps)
    return [
        Finding(
            "BNF-E040",
            "info",
            name,
            f"{count} of {total} BatchNorms cannot be seen in the monitored file: {why}",
            {"layers": dict(tapped.left_out)},
            "drift is still seen in the others",
        )
    ]
