"""BatchNorms that a module writes out in arithmetic, as the frozen variants of detection code do.

    x * (gamma * rsqrt(var + eps)) + (beta - mean * gamma * rsqrt(var + eps)), or the same in other words

Found by what the module holds, running_mean and running_var, and by what it does: a chain of multiplications
and additions by constants per channel, from its own input, that depends on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import fx

from bnfold import graph as g
from bnfold.capture import Captured
from bnfold.fold.canonical import own_affine
from bnfold.fold.constants import Constants
from bnfold.fold.pending import Pending, compose


@dataclass(frozen=True)
class Written:
    """One call of such a module.

    Attributes:
        nodes: its operators on the data, in order; each is read by the next alone.
        position: of the data among the arguments of the first.
        pending: what they compute, as one affine; may not be finite.
    """

    nodes: tuple[fx.Node, ...]
    position: int
    pending: Pending

    @property
    def source(self) -> fx.Node:
        """What the first operator reads."""
        return cast(fx.Node, self.nodes[0].args[self.position])

    @property
    def path(self) -> str:
        """The module's qualified name; empty for the root."""
        return g.module_path(self.nodes[0])

    def stored(self, key: str) -> str:
        """The qualified name of one of the module's tensors."""
        return f"{self.path}.{key}" if self.path else key


def written_out(captured: Captured, constants: Constants) -> dict[fx.Node, Written]:
    """Every such call by the last of its operators."""
    chains: dict[fx.Node, Written] = {}
    for node in captured.body.graph.nodes:
        if node.op != "call_function" or g.module_path(node) not in captured.statistics_modules:
            continue
        found = own_affine(node, constants, finite=False)
        if found is None or found.origin is None:
            continue
        source = found.origin.source
        before = chains.get(source)
        both = compose(before.pending, found) if before is not None else None
        if before is None or both is None or len(source.users) > 1 or not _same_call(source, node):
            chains[node] = Written((node,), node.args.index(source), found)
        else:
            del chains[source]
            chains[node] = Written((*before.nodes, node), before.position, both)
    return {last: chain for last, chain in chains.items() if _is_batch_norm(chain)}


def _same_call(a: fx.Node, b: fx.Node) -> bool:
    return g.module_call(a) == g.module_call(b)


def _is_batch_norm(chain: Written) -> bool:
    """Whether it begins at the module's input, and depends on both statistics."""
    if chain.source.op != "placeholder" and _same_call(chain.source, chain.nodes[0]):
        return False
    read: set[str] = set()
    waiting = [source for node in chain.nodes for source in node.all_input_nodes]
    waiting = [node for node in waiting if node is not chain.source and node not in chain.nodes]
    while waiting:
        node = waiting.pop()
        if node.op == "get_attr":
            read.add(str(node.target))
        waiting.extend(node.all_input_nodes)
    return {chain.stored("running_mean"), chain.stored("running_var")} <= read
