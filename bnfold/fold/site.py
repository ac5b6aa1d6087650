"""From BatchNorm calls in a graph to affines, or to the reason why a call cannot be frozen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from bnfold import graph as g
from bnfold.affine import Affine, Array
from bnfold.capture import Captured
from bnfold.finding import Finding
from bnfold.fold.constants import Constants
from bnfold.fold.report import BatchNormEntry

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
        node: the call in the captured graph, by name.
        entry: its line in the report.
        affine: the frozen statistics; None when refused.
        findings: what its statistics show.
        cancels: the largest |mean * s|: what the shift has to cancel, absolute.
        reproducible: whether the call gives finite values, so that what follows it can be certified.
    """

    node: str
    entry: BatchNormEntry
    affine: Affine | None
    findings: list[Finding]
    reproducible: bool = True
    cancels: float = 0.0


def find_sites(captured: Captured) -> list[Site]:
    """Every BatchNorm call, in execution order, frozen where that is possible."""
    constants = Constants(captured.body)
    seen: Counter[str] = Counter()
    sites = []
    for node in captured.body.graph.nodes:
        if node.op != "call_function" or node.target not in BATCH_NORMS:
            continue
        name = _name(node, captured)
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name}#{seen[name]}"
        sites.append(_freeze(node, name, constants))
    return sites


def _name(node: fx.Node, captured: Captured) -> str:
    path = g.module_path(node)
    if path and path in captured.batch_norm_modules:
        return path
    return f"{path}.batch_norm" if path else "batch_norm"


def _freeze(node: fx.Node, name: str, constants: Constants) -> Site:
    arguments = g.arguments(node)
    channels = g.value(node.args[0]).shape[1]  # type: ignore[arg-type]
    entry = BatchNormEntry(name, int(channels))

    def refuse(finding: Finding, reproducible: bool) -> Site:
        entry.status, entry.reason = "refused", finding.message
        return Site(node.name, entry, None, [finding], reproducible)

    mean, variance = arguments.get("running_mean"), arguments.get("running_var")
    training = arguments.get("training", arguments.get("train", False))
    if training or mean is None or variance is None:
        return refuse(
            Finding(
                "BNF-A015",
                "error",
                name,
                "batch statistics are used in eval mode: the answer for a frame depends on its batch",
                {"stored_statistics": mean is not None},
                "give the layer population statistics: track_running_stats=True, then recalibrate",
            ),
            reproducible=True,
        )
    values: dict[str, Array | None] = {}
    for key in ("running_mean", "running_var", "weight", "bias"):
        if arguments.get(key) is None:
            values[key] = None
            continue
        values[key] = constants.value(arguments[key])
        if values[key] is None:
            return refuse(
                Finding(
                    "BNF-A022",
                    "error",
                    f"{name}.{key}",
                    f"{key} is computed from the network's input, so it cannot be frozen",
                    {},
                    "make it a parameter, or write the layer as a normalisation of its own",
                ),
                reproducible=True,
            )
    unusable = _unusable(name, values, float(arguments["eps"]))
    if unusable is not None:
        return refuse(unusable, reproducible=False)
    mu, var = values["running_mean"], values["running_var"]
    assert mu is not None
    assert var is not None
    affine = Affine.from_batch_norm(mu, var, float(arguments["eps"]), values["weight"], values["bias"])
    entry.gain = float(np.abs(affine.scale).max(initial=0.0))
    cancels = float(np.abs(mu * affine.scale).max(initial=0.0))
    return Site(node.name, entry, affine, _dead_channels(name, affine), cancels=cancels)


def _unusable(name: str, values: dict[str, Array | None], eps: float) -> Finding | None:
    """The finding for statistics that give no number: not finite, or variance + eps <= 0."""
    mean, variance = values["running_mean"], values["running_var"]
    assert mean is not None
    assert variance is not None
    for key, array in (("running_mean", mean), ("running_var", variance)):
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad) == 0:
            continue
        only_variance = key == "running_var"
        return Finding(
            "BNF-A003" if only_variance else "BNF-A001",
            "error",
            f"{name}.{key}{_channel_list(bad)}",
            f"{len(bad)} of {len(array)} channels have a {key} that is not finite"
            + (" while running_mean is: one value per channel in a training batch" if only_variance else ""),
            {"channels": bad.tolist(), "count": len(array)},
            "reset and recalibrate the statistics with finite frames; averaging never heals them",
        )
    bad = np.flatnonzero(variance + eps <= 0)
    if len(bad):
        return Finding(
            "BNF-A007",
            "error",
            f"{name}.running_var{_channel_list(bad)}",
            f"{len(bad)} of {len(variance)} channels have running_var + eps <= 0 "
            f"(lowest {variance.min():.3g}, eps {eps:.3g}): its square root is NaN",
            {"channels": bad.tolist(), "lowest": float(variance.min()), "eps": eps},
            "a variance is never negative: load an intact file, or recalibrate in float64",
        )
    for key in ("weight", "bias"):
        parameter = values[key]
        if parameter is not None and not np.isfinite(parameter).all():
            bad = np.flatnonzero(~np.isfinite(parameter))
            return Finding(
                "BNF-A021",
                "error",
                f"{name}.{key}{_channel_list(bad)}",
                f"{len(bad)} of {len(parameter)} channels have a {key} that is not finite",
                {"channels": bad.tolist(), "count": len(parameter)},
                "training diverged: take an earlier checkpoint",
            )
    return None


def _dead_channels(name: str, affine: Affine) -> list[Finding]:
    dead = np.flatnonzero(affine.scale == 0)
    if len(dead) == 0:
        return []
    return [
        Finding(
            "BNF-A020",
            "info",
            f"{name}.weight{_channel_list(dead)}",
            f"{len(dead)} of {affine.channels} channels are dead: gamma is 0, their output is constant",
            {"channels": dead.tolist(), "count": affine.channels},
            "nothing to do; --prune (prune=True) removes those that nothing else needs",
        )
    ]


def _channel_list(channels: np.ndarray, most: int = 6) -> str:
    shown = ", ".join(str(channel) for channel in channels[:most])
    return f"[{shown}{', ...' if len(channels) > most else ''}]"
