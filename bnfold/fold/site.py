"""From BatchNorm calls in a graph to affines, or to the reason why a call cannot be frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.capture import Captured
from bnfold.finding import Finding
from bnfold.fold.constants import Constants
from bnfold.fold.report import BatchNormEntry
from bnfold.fold.written import Written, written_out
from bnfold.statistics.checks import among, batch_dependent, channel_list, evidence, judge_layer
from bnfold.statistics.layers import Layer

aten = torch.ops.aten

BATCH_NORMS = frozenset(
    {
        aten.batch_norm.default,
        aten.cudnn_batch_norm.default,
        aten.native_batch_norm.default,
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
        aten._native_batch_norm_legit_no_training.default,
        aten._batch_norm_impl_index.default,
    }
)


@dataclass
class Site:
    """One BatchNorm call.

    Attributes:
        node: the call in the captured graph, by name; the last operator of one that is written out.
        entry: its line in the report.
        affine: the frozen statistics; None when refused.
        findings: what its statistics show.
        cancels: the largest |mean * s|: what the shift has to cancel, absolute.
        axis: of the channels.
        written: of one that is written out in arithmetic: its operators, and what the first of them reads.
        reproducible: whether the call gives finite values, so that what follows it can be certified.
    """

    node: str
    entry: BatchNormEntry
    affine: Affine | None
    findings: list[Finding]
    reproducible: bool = True
    cancels: float = 0.0
    axis: int = 1
    written: Written | None = None


def find_sites(captured: Captured) -> list[Site]:
    """Every BatchNorm call, in execution order, frozen where that is possible."""
    constants = Constants(captured.body)
    written = written_out(captured, constants)
    seen: Counter[str] = Counter()
    sites = []
    for node in captured.body.graph.nodes:
        if node in written:
            name = written[node].path or "batch_norm"
        elif node.op == "call_function" and node.target in BATCH_NORMS:
            name = _name(node, captured)
        else:
            continue
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        if node in written:
            sites.append(_take(written[node], name, captured))
        else:
            sites.append(_freeze(node, name, constants))
    return sites


def batch_norm_calls(
    captured: Captured, entries: Sequence[BatchNormEntry]
) -> list[tuple[BatchNormEntry, fx.Node]]:
    """The entries of a report with their BatchNorm operators; without those that are written out."""
    calls = {
        node.name: node
        for node in captured.body.graph.nodes
        if node.op == "call_function" and node.target in BATCH_NORMS
    }
    sites = find_sites(captured)
    return [
        (entry, calls[site.node]) for entry, site in zip(entries, sites, strict=True) if site.node in calls
    ]


def _take(written: Written, name: str, captured: Captured) -> Site:
    """The site of a BatchNorm that is written out: its affine is what its operators compute."""
    node, affine = written.nodes[-1].name, written.pending.affine
    entry = BatchNormEntry(name, affine.channels)
    mean, variance, weight, bias = (
        _stored(captured, written.stored(key)) for key in ("running_mean", "running_var", "weight", "bias")
    )
    layer = Layer(name, mean, variance, weight, bias)
    if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        # by what it stores; as if it had no eps; by what comes out
        own = replace(layer, weight=affine.scale, bias=affine.shift)
        findings = judge_layer(layer) or judge_layer(replace(layer, eps=0.0)) or judge_layer(own)
        entry.status, entry.reason = "refused", findings[0].message
        return Site(node, entry, None, findings)
    entry.gain = float(np.abs(affine.scale).max(initial=0.0))
    cancels = float(np.abs(affine.shift).max(initial=0.0))
    dead = _dead_channels(layer, affine)
    return Site(node, entry, affine, dead, cancels=cancels, axis=written.pending.axis, written=written)


def _stored(captured: Captured, name: str) -> Array | None:
    """A stored tensor, one number per channel; None where the network does not read it."""
    if not g.has(captured.body, name):
        return None
    values: Array = g.double(g.fetch(captured.body, name)).numpy().ravel()
    return values


def _name(node: fx.Node, captured: Captured) -> str:
    path = g.module_path(node)
    if path and path in captured.batch_norm_modules:
        return path
    return f"{path}.batch_norm" if path else "batch_norm"


def _freeze(node: fx.Node, name: str, constants: Constants) -> Site:
    arguments = g.arguments(node)
    channels = g.value(node.args[0]).shape[1]  # type: ignore[arg-type]
    entry = BatchNormEntry(name, int(channels))

    def refuse(findings: list[Finding], reproducible: bool) -> Site:
        entry.status, entry.reason = "refused", findings[0].message
        return Site(node.name, entry, None, findings, reproducible)

    mean, variance = arguments.get("running_mean"), arguments.get("running_var")
    training = arguments.get("training", arguments.get("train", False))
    values: dict[str, Array | None] = {}
    for key in ("running_mean", "running_var", "weight", "bias"):
        if arguments.get(key) is None:
            values[key] = None
            continue
        values[key] = constants.value(arguments[key])
        if values[key] is None and not training:
            return refuse([_computed(name, key)], reproducible=True)
    dtype = "float32" if variance is None else g.dtype_name(g.dtype(variance))
    layer = Layer(
        name, values["running_mean"], values["running_var"], values["weight"], values["bias"],
        dtype=dtype, eps=float(arguments["eps"]),
    )  # fmt: skip
    if training or mean is None or variance is None:
        return refuse([batch_dependent(layer)], reproducible=True)
    findings, affine = judge_layer(layer), layer.affine
    if affine is None:
        return refuse(findings, reproducible=False)
    entry.gain = float(np.abs(affine.scale).max(initial=0.0))
    assert layer.mean is not None
    cancels = float(np.abs(layer.mean * affine.scale).max(initial=0.0))
    return Site(node.name, entry, affine, findings + _dead_channels(layer, affine), cancels=cancels)


def _computed(name: str, key: str) -> Finding:
    return Finding(
        "BNF-A022",
        "error",
        f"{name}.{key}",
        f"{key} is computed from the network's input, so it cannot be frozen",
        {"layer": name},
        "make it a parameter, or write the layer as a normalisation of its own",
    )


def _dead_channels(layer: Layer, affine: Affine) -> list[Finding]:
    dead = np.flatnonzero(affine.scale == 0)
    if len(dead) == 0:
        return []
    return [
        Finding(
            "BNF-A020",
            "info",
            layer.key("weight") + channel_list(dead),
            f"{among(dead, layer)} are dead: gamma is 0, their output is constant",
            evidence(layer, dead),
            "nothing to do; --prune (prune=True) removes those that nothing else needs",
        )
    ]
