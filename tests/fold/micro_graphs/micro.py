"""One micro-graph: a network around a BatchNorm, and exactly what must become of it.

Every graph is folded four times: with sizes that are pairwise distinct and with equal ones (where a wrong
axis hides), with gammas of both signs and with zeros among them; a variance near 0 is in all. Two of the four
are in float64, where the folded module must give the network's own answer to the last digits, and two in
float32, where it may be off by what float32 costs the network itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfold import graph as g
from bnfold.fold import FoldResult, fold
from bnfold.fold.site import BATCH_NORMS
from bnfold.numerics import float32_ulps, max_abs, max_abs_error
from tests.fold.networks import RUN_TIME_FREE, draw_statistics


@dataclass(frozen=True)
class Sizes:
    """Batch ``n``, channels ``c`` of the input, ``k`` of the layer behind it, height and width."""

    n: int
    c: int
    k: int
    h: int
    w: int

    @property
    def image(self) -> tuple[int, ...]:
        """(batch, channels, height, width)."""
        return self.n, self.c, self.h, self.w

    @property
    def tokens(self) -> tuple[int, ...]:
        """(batch, length, features)."""
        return self.n, self.h, self.c

    @property
    def sequence(self) -> tuple[int, ...]:
        """(batch, channels, length)."""
        return self.n, self.c, self.h

    @property
    def features(self) -> tuple[int, ...]:
        """(batch, features)."""
        return self.n, self.c

    @property
    def volume(self) -> tuple[int, ...]:
        """(batch, channels, depth, height, width)."""
        return self.n, self.c, self.h, self.w, self.h


DISTINCT, EQUAL = Sizes(2, 4, 6, 5, 7), Sizes(6, 6, 6, 6, 6)
_LEFT = {"folded": 0, "reduced": 1, "kept": 2, "refused": 0}


@dataclass(frozen=True)
class Micro:
    """What a graph is and what becomes of its BatchNorms.

    Attributes:
        name: says what is special.
        build: the network for given sizes.
        status: of each BatchNorm, in execution order, separated by blanks.
        why: no further: a sentence wherever a status is not ``folded``.
        dead: the statuses with zeros among the gammas, where they differ, and why.
        shape: which of the shapes of :class:`Sizes` the input has.
        saves: operators of the network's own that vanish as well.
        prepare: changes the drawn network: its statistics, its types.
        dtypes: of the network in the four runs.
    """

    name: str
    build: Callable[[Sizes], nn.Module]
    status: str = "folded"
    why: str = ""
    dead: tuple[str, str] | None = None
    shape: str = "image"
    saves: int = 0
    prepare: Callable[[nn.Module], None] | None = None
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float64)


RUNS = {
    "distinct sizes": (DISTINCT, False, 0),
    "distinct sizes, dead channels": (DISTINCT, True, 1),
    "equal sizes": (EQUAL, False, 1),
    "equal sizes, dead channels": (EQUAL, True, 0),
}


def check(micro: Micro, run: str) -> FoldResult:
    """Fold one graph in one of the RUNS and compare everything with what is written of it."""
    sizes, dead, dtype = RUNS[run]
    torch.manual_seed(0)
    module = drawn(micro.build(sizes), dead=dead).to(micro.dtypes[dtype])
    if micro.prepare is not None:
        micro.prepare(module)
    generator = torch.Generator().manual_seed(1)
    shape = getattr(sizes, micro.shape)
    frames = [torch.randn(shape, generator=generator).to(micro.dtypes[dtype]) for _ in range(4)]
    result = fold(module, (frames[0],))
    expected, why = micro.dead if dead and micro.dead else (micro.status, micro.why)
    assert [entry.status for entry in result.report.batch_norms] == expected.split()
    assert bool(why) == (set(expected.split()) != {"folded"}), "say why, where it is not folded"
    _require_certificate(result)
    _require_operators(result, sum(_LEFT[status] for status in expected.split()) - micro.saves)
    _require_values(module, result, frames)
    return result


def drawn(module: nn.Module, *, dead: bool) -> nn.Module:
    """Statistics of every kind: gammas of both signs, one variance near 0, and zeros among the gammas."""
    draw_statistics(module, seed=3)
    with torch.no_grad():
        for child in module.modules():
            if not isinstance(child, nn.modules.batchnorm._NormBase) or child.running_mean is None:
                continue
            assert child.running_var is not None
            child.running_mean[-1] *= 0.01
            child.running_var[-1] = 1e-12
            if child.affine and child.num_features > 2:
                child.weight[1] = child.weight[1].abs() + 0.1
                child.weight[2] = 0.0 if dead else child.weight[2]
    return module


def operators(body: fx.GraphModule) -> tuple[int, int]:
    """Run-time operators that depend on the input, and those on constants alone.

    Without BatchNorms, and without what only moves values.
    """
    depends: set[fx.Node] = set()
    counts = [0, 0]
    for node in body.graph.nodes:
        if node.op == "placeholder" or not depends.isdisjoint(node.all_input_nodes):
            depends.add(node)
        counted = node.op == "call_function" and g.operator_name(node) not in RUN_TIME_FREE
        counts[node not in depends] += counted and node.target not in BATCH_NORMS
    return counts[0], counts[1]


def _require_certificate(result: FoldResult) -> None:
    report = result.report
    assert not [finding for finding in report.findings if finding.code.startswith("BNF-X")]
    for entry in report.batch_norms:
        assert (entry.reason is None) == (entry.status == "folded")
        if entry.status != "refused":
            assert entry.max_rel_error is not None
            assert entry.max_rel_error <= 1e-12
    if all(entry.status != "refused" for entry in report.batch_norms):
        assert report.max_rel_error is not None
        assert report.max_rel_error <= 1e-10


def _require_operators(result: FoldResult, more: int) -> None:
    """Exactly so many more than without the BatchNorms; nothing is computed from constants in their place."""
    before, after = operators(result.captured.body), operators(result.module.body)
    assert after[0] - before[0] == more
    assert after[1] <= before[1]
    refused = sum(entry.status == "refused" for entry in result.report.batch_norms)
    assert sum(node.target in BATCH_NORMS for node in result.module.body.graph.nodes) == refused


def _require_values(module: nn.Module, result: FoldResult, frames: list[torch.Tensor]) -> None:
    """Against the network in float64: the digits of float64, or 8 times what the type costs the network."""
    oracle = copy.deepcopy(module).double()
    floor, error, largest = np.zeros(3)
    with torch.no_grad():
        for frame in frames:
            exact = _arrays(oracle(frame.double()))
            own, ours = _arrays(module(frame)), _arrays(result.module(frame))
            assert [a.dtype for a in ours] == [a.dtype for a in own]
            floor = max(floor, *(max_abs_error(a, e) for a, e in zip(own, exact, strict=True)))
            error = max(error, *(max_abs_error(a, e) for a, e in zip(ours, exact, strict=True)))
            largest = max(largest, *(max_abs(e) for e in exact))
    assert largest > 0.1, "an answer that is nearly 0 would show nothing"
    if frames[0].dtype == torch.float64:
        assert error <= 1e-11 * largest
    else:
        assert error <= max(8 * floor, float32_ulps(largest, 4))


def _arrays(output: Any) -> list[np.ndarray]:
    leaves = pytree.tree_leaves(output)
    return [leaf.detach().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
