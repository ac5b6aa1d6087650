"""What the worst channels saw, and what the frames look like: here against training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import Evidence
from bnfold.drift.taps import columns
from bnfold.report.html import plots
from bnfold.report.html.histograms import Series, draw_histograms
from bnfold.report.html.page import Plot

Document = Mapping[str, Any]
Array = NDArray[np.float64]

_MOST, _OF_THE_FIRST, _OF_OTHERS = 6, 3, 1
_BINS = 24
_TAIL = 0.5  # percent on either side that the outermost bins take in

_SERIES: list[Series] = [
    ("training", plots.MAIN, lambda one: one["before"]),
    ("these frames", plots.SECOND, lambda one: one["now"]),
]


def worst_channels(tier: Document, evidence: Evidence) -> list[tuple[str, int, int]]:
    """Layer, channel, and the column of its taps: three of the layer to blame, then one of each other.

    Where no layer drifted, the channels that moved furthest, one of a layer.
    """
    center, deviation = evidence.spread
    moved = np.abs((evidence.taps.values.mean(axis=0) - center) / deviation)
    origin = next((layer["name"] for layer in tier["layers"] if layer["significant"]), None)
    first, others = [], []
    parts = columns(evidence.taps.sizes)
    for place, layer in enumerate(evidence.reference.layers):
        part = parts[place]
        # of how second moments vary the population statistics tell nothing
        if part.stop == part.start or (layer.moment == 2 and evidence.held_out is None):
            continue
        most = _OF_THE_FIRST if layer.name == origin else _OF_OTHERS
        order = np.argsort(-moved[part], kind="stable")[:most]
        found = [
            (layer.name, int(evidence.taps.channels[place][at]), part.start + int(at))
            for at in order.tolist()
        ]
        if layer.name == origin:
            first = found
        else:
            others += found
    others.sort(key=lambda one: -moved[one[2]])
    return [*first, *others][:_MOST]


def channel_plot(tier: Document, evidence: Evidence) -> Plot | None:
    """Histograms of the channel means of frames; None where no channel is alive."""
    chosen = worst_channels(tier, evidence)
    if not chosen:
        return None
    parts = []
    for layer, channel, column in chosen:
        now = evidence.taps.values[:, column].astype(np.float64)
        held = None if evidence.held_out is None else evidence.held_out[:, column].astype(np.float64)
        parts.append((f"{plots.label(layer)} [{channel}]", _counted(now, held), ""))
    svg = draw_histograms(
        parts,
        _SERIES,
        unit="mean of the channel over a frame, in deviations of training",
        each="frames",
        alt="Histograms of channel means in training and here: "
        + ", ".join(
            f"channel {channel} of {plots.label(layer)} is at {evidence.taps.values[:, column].mean():+.1f}"
            for layer, channel, column in chosen
        ),
    )
    basis = (
        "Training: the bell curve of the population statistics, which is at least as wide as the truth, "
        "because a mean over positions varies less than a value."
        if evidence.held_out is None
        else f"Training: {len(evidence.held_out)} held-out frames."
    )
    return Plot(
        "The worst channels",
        f"{basis} The first are of the layer to blame, where there is one; 0 is the population mean. The "
        "outermost bars hold what is beyond them.",
        svg,
    )


def statistics_plot(evidence: Evidence, changes: Sequence[Document]) -> Plot:
    """Brightness, contrast and the like of each frame."""
    words = {change["name"]: change["words"] for change in changes}
    parts = []
    for key, now in evidence.images.items():
        parts.append((key, _counted(now, evidence.held_out_images.get(key), bell=False), words.get(key, "")))
    both = bool(evidence.held_out_images)
    svg = draw_histograms(
        parts,
        _SERIES if both else _SERIES[1:],
        unit="in units of the input",
        each="frames",
        alt="Histograms of the frames' "
        + ", ".join(f"{key} ({float(now.mean()):.3g} on average)" for key, now in evidence.images.items()),
    )
    return Plot(
        "What the frames look like",
        "Of each frame as the network is given it: mean, standard deviation, noise (Immerkaer), Laplacian "
        "against gradient, colour, and the share of pixels at the ends of the range."
        + ("" if both else " Training is shown where its frames are given: --baseline."),
        svg,
    )


def _counted(now: Array, held: Array | None, *, bell: bool = True) -> dict[str, Any]:
    """Edges and counts; without held-out frames the standard normal stands for training, where it can."""
    values = now if held is None else np.concatenate([now, held])
    low, high = (float(edge) for edge in np.percentile(values, [_TAIL, 100 - _TAIL]))
    if held is None and bell:
        low, high = min(low, -3.0), max(high, 3.0)
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        pad = max(abs(low), 1e-6) / 2
        low, high = low - pad, high + pad
    edges = np.linspace(low, high, _BINS + 1)

    def counts(of: Array) -> list[int]:
        return [int(count) for count in np.histogram(np.clip(of, low, high), edges)[0]]

    before: Sequence[float] = []
    if held is not None:
        before = counts(held)
    elif bell:
        before = _normal(edges)
    return {"edges": edges.tolist(), "now": counts(now), "before": before}


def _normal(edges: Array) -> list[float]:
    below = [0.5 * (1 + math.erf(float(edge) / math.sqrt(2))) for edge in edges]
    return [high - low for low, high in pairwise(below)]
