"""Which values of a graph an interpreter holds in the layout of its convolutions."""

from __future__ import annotations

import torch
from torch import fx

from bnfold import graph as g
from bnfold.fold.constants import Constants

aten = torch.ops.aten

_CONVOLUTIONS = frozenset({aten.conv2d.default, aten.conv2d.padding, aten.convolution.default})
_TRANSPOSED = frozenset({aten.conv_transpose2d.input})
_KEEP = frozenset(
    {
        aten.avg_pool2d.default,
        aten.clamp.default,
        aten.clamp_max.default,
        aten.clamp_min.default,
        aten.constant_pad_nd.default,
        aten.gelu.default,
        aten.hardsigmoid.default,
        aten.hardswish.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.max_pool2d.default,
        aten.pad.default,
        aten.relu.default,
        aten.relu6.default,
        aten.sigmoid.default,
        aten.silu.default,
        aten.tanh.default,
    }
)
_JOIN = frozenset({aten.add.Tensor, aten.mul.Tensor})


def is_map(node: fx.Node) -> bool:
    """Whether a node computes a float32 value of shape (N, C, H, W)."""
    made = node.meta.get("val")
    if node.op != "call_function" or not isinstance(made, torch.Tensor):
        return False
    return made.ndim == 4 and made.dtype == torch.float32


class Layout:
    """Asked for the values of a graph in execution order, each when all before it have their final form.

    onnxruntime works in blocks of 8 or 16 channels, as the processor has it (NCHWc). A convolution enters the
    layout when its input is in it, or fits it, or is too narrow for it; activations, pooling, and sums and
    products of two values stay in it; anything else leaves it. With blocks of one channel, as in TFLite
    (NHWC), all values fit, and constants as well.

    Args:
        block: channels in a block.
        constants: of the graph.
    """

    def __init__(self, block: int, constants: Constants) -> None:
        self._block = block
        self._constants = constants
        self._known: dict[fx.Node, bool] = {}

    def holds(self, node: fx.Node) -> bool:
        """Whether a value is held in the layout."""
        waiting = [node]
        while waiting:  # not by recursion: networks are deeper than Python's stack
            here = waiting[-1]
            sources = self._sources(here)
            unknown = [source for source in sources if source not in self._known]
            if here in self._known:
                waiting.pop()
            elif unknown:
                waiting.extend(unknown)
            else:
                self._known[waiting.pop()] = self._decide(here, [self._known[source] for source in sources])
        return self._known[node]

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The values that decide; none where they do not matter."""
        if not is_map(node) or node.target not in (_CONVOLUTIONS | _KEEP | _JOIN | {aten.cat.default}):
            return []
        return [source for source in node.all_input_nodes if not self._constants.is_constant(source)]

    def _decide(self, node: fx.Node, inside: list[bool]) -> bool:
        if not is_map(node):
            return False
        if node.target in _CONVOLUTIONS:
            transposed = g.arguments(node).get("transposed", False)
            return self._block == 1 or (
                not transposed and len(inside) == 1 and (inside[0] or self._fits(node))
            )
        if node.target in _TRANSPOSED:
            return self._block == 1
        if node.target in _KEEP:
            return all(inside)
        if node.target in _JOIN:
            return all(inside) and (self._block == 1 or len(inside) == 2)
        if node.target is aten.cat.default:
            whole = all(g.shape(source)[1] % self._block == 0 for source in self._sources(node))
            return all(inside) and whole and g.arguments(node)["dim"] in (1, -3)
        return False

    def _fits(self, node: fx.Node) -> bool:
        channels = g.shape(g.data_input(node))[1]
        return channels % self._block == 0 or channels <= self._block // 2
