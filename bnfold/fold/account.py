"""The account of a fold: which rules moved each BatchNorm, where it went, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.body import Body
from bnfold.fold.pending import USER, Owners
from bnfold.fold.plan import Step
from bnfold.fold.report import WeightCopy
from bnfold.fold.site import Site


class Account:
    """Keeps the entries of the sites up to date.

    Args:
        sites: every BatchNorm call.
        own: how many multiplications and additions the network has of its own.
    """

    def __init__(self, sites: list[Site], own: int) -> None:
        self._sites = sites
        self._own = own
        self._company: dict[int, set[int]] = {}

    def moved(self, owners: frozenset[int], step: Step, body: Body) -> None:
        """A rule has moved the affine of these BatchNorms."""
        for owner in owners:
            entry = self._sites[owner].entry
            if step.rule not in entry.rules:
                entry.rules.append(step.rule)
            if step.move.weights:
                name = g.layer_name(step.move.host or step.node)
            elif step.node in body.pending and body.owners[step.node].shift != USER:
                name = self._sites[body.owners[step.node].shift].entry.name
            else:
                continue
            if name not in entry.into:
                entry.into.append(name)

    def composed(self, first: Owners, second: Owners, rule: str) -> None:
        """Affines of these owners have become one by this rule."""
        together = {first.scale, first.shift, first.map, second.scale, second.shift, second.map}
        for owner in together:
            self._company.setdefault(owner, set()).update(together - {owner})
            if USER in together - {owner}:  # it may be the network's own operator that was moved: not told
                rules = self._sites[owner].entry.rules
                if rule not in rules:
                    rules.append(rule)

    def summed(self, one: Owners, other: Owners, rule: str) -> None:
        """The sum of these two has become one affine: its multiplication stands where the sum did."""
        self.composed(one, other, rule)
        self._own += 1

    def stuck(self, owners: Iterable[int], refusals: list[str]) -> None:
        """Why the affine of these BatchNorms goes no further, as far as is known now."""
        for owner in owners:
            self._sites[owner].entry.reason = "; ".join(dict.fromkeys(refusals)) or None

    def settle(self, body: Body) -> None:
        """Count what is left in the lowered graph, by the BatchNorm that answers for it, and the copies."""
        self._count_copies(body)
        graph = body.graph
        left = dict.fromkeys([USER, *range(len(self._sites))], 0)
        for node in graph.nodes:
            if "left_by" in node.meta:
                left[node.meta["left_by"]] += 1
        self._share_out(left)
        for number, site in enumerate(self._sites):
            if site.affine is None:
                continue
            count = left[number]
            site.entry.status = "folded" if count == 0 else "reduced" if count == 1 else "kept"
            if count == 0:
                site.entry.reason = None
            elif site.entry.reason is None:
                site.entry.reason = "what is left cannot move further"

    def _share_out(self, left: dict[int, int]) -> None:
        """What affines that were composed have left belongs to all of them alike.

        The network's own operators answer for as many as there were.
        """
        for other in sorted(self._company.get(USER, ()), key=lambda number: left[number]):
            if left[USER] > self._own:
                left[other] += left[USER] - self._own
                left[USER] = self._own
        for owner in self._company.keys() - {USER}:
            for other in sorted(self._company[owner] - {USER}):
                while left[owner] > left[other] + 1:
                    left[owner] -= 1
                    left[other] += 1

    def _count_copies(self, body: Body) -> None:
        """Weights of which several versions are left; the original, or the first, is no copy."""
        versions: dict[str, dict[str, set[fx.Node]]] = {}
        for node in body.graph.nodes:
            for source in node.all_input_nodes:
                if source.op == "get_attr" and g.value(source).ndim > 1:  # a bias is too small to tell of
                    name = str(source.target)
                    original = body.made_of.get(name, name)
                    versions.setdefault(original, {}).setdefault(name, set()).add(node)
        for original, readers in versions.items():
            kept = original if original in readers else next(iter(readers))
            for name in (version for version in readers if version != kept):
                weight = g.fetch(body.module, name)
                dtype: torch.dtype = body.rounding.get(name, weight.dtype)
                copy = WeightCopy(original, weight.numel() * dtype.itemsize)
                for owner in {number for reader in readers[name] for number in reader.meta["sites"]}:
                    entry = self._sites[owner].entry
                    if any(g.layer_name(reader) in entry.into for reader in readers[name]):
                        entry.copies.append(copy)
