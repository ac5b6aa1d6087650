"""The fold engine: BatchNorm as a per-channel affine that is moved until it disappears."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bnfold import graph as g
from bnfold.capture import Captured, capture
from bnfold.errors import UsageError
from bnfold.finding import Finding, by_severity
from bnfold.fold.certificate import Certificate, certify
from bnfold.fold.constants import store_made
from bnfold.fold.engine import Engine, Folded
from bnfold.fold.module import FoldedModule
from bnfold.fold.report import BatchNormEntry, FoldReport
from bnfold.fold.rules import Rule, all_rules
from bnfold.fold.site import Site, find_sites
from bnfold.numerics import max_abs
from bnfold.statistics.checks import explained
from bnfold.wording import count


@dataclass(frozen=True)
class FoldResult:
    """A folded network and the account of it.

    Attributes:
        module: a plain ``nn.Module`` in eval mode with the original's signature and output structure.
        report: what became of each BatchNorm.
        captured: the unedited graph.
    """

    module: FoldedModule
    report: FoldReport
    captured: Captured


def fold(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    *,
    dynamic_batch: bool = False,
    skip: Iterable[str] = (),
    prune: bool = False,
) -> FoldResult:
    """Freeze the population statistics of every BatchNorm and fold them into neighbouring layers.

    The algebra is in float64 and rounded once, at the end. What cannot be folded exactly is left as a
    multiplication and an addition, with the reason in the report. The module is not changed.

    Args:
        module: any module; one in training mode is folded as in eval mode.
        example_inputs: positional arguments of ``forward``; tensors of the shapes to convert for.
        dynamic_batch: keep the batch axis symbolic.
        skip: names of rules not to use.
        prune: also remove channels that are constant (dead channels, s = 0) or that nobody reads, on both
            sides, where that does not change the answer. Inputs and outputs keep their shapes.

    Returns:
        The folded module and the report. Statistics that cannot be frozen do not raise: that BatchNorm is
        ``refused`` in the report, with a finding, and stays in the module.

    Raises:
        UsageError: unusable inputs, an unknown rule name (BNF-U025), or no module (BNF-U026).
        CaptureError: torch.export cannot capture the module.

    Source: Ioffe and Szegedy (2015), section 3.1, for inference with population statistics; Jacob et al.,
    "Quantization and Training of Neural Networks" (2018), section 3.2, for folding into weights. Moving an
    affine until it disappears, with separate legality for scale and shift, is described in docs/algebra.md;
    so is pruning.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(
            "BNF-U026",
            f"{type(module).__name__} is no torch.nn.Module",
            where="module",
            fix="fold(net, (x,))",
        )
    rules = _chosen_rules((skip,) if isinstance(skip, str) else skip)
    started = time.perf_counter()
    captured = capture(module, example_inputs, dynamic_batch=dynamic_batch)
    seconds = {"capture": time.perf_counter() - started, "fold": 0.0, "certificate": 0.0}
    undone: dict[int, float] = {}
    unpruned: Certificate | None = None
    while True:
        started = time.perf_counter()
        sites = find_sites(captured)
        unusable = frozenset(site.node for site in sites if not site.reproducible)
        folded = Engine(captured, sites, rules, frozen_in_place=frozenset(undone), prune=prune).run()
        seconds["fold"] += time.perf_counter() - started
        started = time.perf_counter()
        certificate = certify(captured, folded.body, unusable, [site.cancels for site in sites])
        seconds["certificate"] += time.perf_counter() - started
        failed = [number for number in certificate.failed_sites() if number not in undone]
        if prune and (failed or certificate.network_failed):
            prune, unpruned = False, certificate
            continue
        if not failed:
            break
        undone.update((number, certificate.sites[number]) for number in failed)
    report = _report(sites, certificate, undone, seconds, finite=_has_finite_constants(captured))
    report.pruned = folded.pruned
    report.findings = by_severity(report.findings + _out_of_range(folded) + _of_pruning(folded, unpruned))
    store_made(folded.body)
    _round(folded)
    return FoldResult(FoldedModule(folded.body, captured.structure), report, captured)


def _chosen_rules(skip: Iterable[str]) -> tuple[Rule, ...]:
    rules, skipped = all_rules(), set(skip)
    unknown = skipped - {rule.name for rule in rules}
    if unknown:
        raise UsageError(
            "BNF-U025",
            f"there is no fold rule {sorted(unknown)[0]!r}",
            where="skip",
            fix="rules: " + ", ".join(rule.name for rule in rules),
        )
    return tuple(rule for rule in rules if rule.name not in skipped)


def _report(
    sites: list[Site],
    certificate: Certificate,
    undone: dict[int, float],
    seconds: dict[str, float],
    *,
    finite: bool,
) -> FoldReport:
    findings = explained(finding for site in sites for finding in site.findings)
    for number, site in enumerate(sites):
        if site.affine is not None:
            site.entry.max_rel_error = certificate.sites.get(number)
    for number, error in undone.items():
        findings.append(
            Finding(
                "BNF-X002",
                "error",
                sites[number].entry.name,
                f"folding it failed its replay in float64 (relative error {error:.3g}) and was undone",
                {"max_rel_error": error},
                "this is a bug in bnfold: please report it with the model",
            )
        )
    if certificate.network is None and finite and all(site.reproducible for site in sites):
        findings.append(
            Finding(
                "BNF-A026",
                "warning",
                "",
                "the fold has no certificate for the whole network: on drawn inputs the original's own "
                "output is not finite in float64",
                {},
                "compare on real frames: bnfold verify --samples",
            )
        )
    if certificate.network_failed:
        findings.append(
            Finding(
                "BNF-X003",
                "error",
                "",
                f"the folded network differs from the original in float64 by {certificate.network:.3g} "
                f"(tolerance {certificate.tolerance:.3g})",
                {"max_rel_error": certificate.network, "tolerance": certificate.tolerance},
                "this is a bug in bnfold: please report it with the model",
            )
        )
    return FoldReport(
        [site.entry for site in sites],
        by_severity(findings),
        certificate.network,
        certificate.tolerance,
        seconds,
    )


def _has_finite_constants(captured: Captured) -> bool:
    constants = [
        g.fetch(captured.body, str(n.target)) for n in captured.body.graph.nodes if n.op == "get_attr"
    ]
    return all(bool(torch.isfinite(c).all()) for c in constants if c.is_floating_point())


def _out_of_range(folded: Folded) -> list[Finding]:
    """New constants that their type cannot hold; only what a rule could not avoid comes this far."""
    findings = []
    names = {str(node.target) for node in folded.body.graph.nodes if node.op == "get_attr"}
    for name, dtype in folded.rounding.items():
        if name not in names:
            continue  # superseded by a later fold
        values = g.fetch(folded.body, name).numpy()
        largest = max_abs(values[~np.isinf(values)])  # a clamp without a bound has an infinite one
        if largest > torch.finfo(dtype).max:
            findings.append(
                Finding(
                    "BNF-A008",
                    "error",
                    name,
                    f"a constant of {largest:.3g} is beyond {g.dtype_name(dtype)} "
                    f"({torch.finfo(dtype).max:.6g})",
                    {"largest": largest, "dtype": g.dtype_name(dtype)},
                    "keep this layer in float32, or recalibrate its statistics",
                )
            )
    return findings


def _of_pruning(folded: Folded, unpruned: Certificate | None) -> list[Finding]:
    """What pruning removed, or that it failed its replay."""
    if unpruned is not None:
        error = max([*unpruned.sites.values(), unpruned.network or 0.0])
        return [
            Finding(
                "BNF-X004",
                "error",
                "",
                f"pruning failed its replay in float64 (relative error {error:.3g}) and was undone",
                {"max_rel_error": error},
                "this is a bug in bnfold: please report it with the model; without pruning it is right",
            )
        ]
    if folded.pruned is None or not folded.pruned.removed:
        return []
    layers = [layer for layer in folded.pruned.layers if layer.removed]
    return [
        Finding(
            "BNF-A034",
            "info",
            layers[0].name,
            f"{count(folded.pruned.removed, 'channel')} of {count(len(layers), 'layer')} pruned, constant or "
            f"read by nobody: the weights are {count(folded.pruned.weight_bytes, 'byte')} smaller",
            {"channels_removed": folded.pruned.removed, "weight_bytes_saved": folded.pruned.weight_bytes},
            "nothing to do: the answers are the same",
        )
    ]


def _round(folded: Folded) -> None:
    """Round the new constants, once, and make all others the module's own.

    In the order of their axes: litert-torch may read other ones after their memory has been given back.
    """
    for node in folded.body.graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        tensor = g.fetch(folded.body, name).detach()
        dtype = folded.rounding.get(name)
        own = tensor.to(tensor.dtype if dtype is None else dtype, copy=True)
        g.fill(folded.body, name, own.contiguous())
    for node in folded.body.graph.nodes:
        for key in ("reference", "sites", "left_by"):
            node.meta.pop(key, None)
    folded.body.recompile()


__all__ = ["BatchNormEntry", "FoldReport", "FoldResult", "FoldedModule", "fold"]
