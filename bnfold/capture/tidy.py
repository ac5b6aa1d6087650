"""The captured graph without what does nothing: assertions, aliases, dropout, writing in place."""

from __future__ import annotations

import torch
from torch import fx

from bnfold import graph as g
from bnfold.capture.functional import call, is_same_tensor, is_same_type, make_functional
from bnfold.capture.outputs import separate_outputs, shared_outputs

aten = torch.ops.aten

_COPIES = {aten.lift_fresh_copy.default, aten.contiguous.default, aten.clone.default}
_CASTS = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default}
_VIEWS = {aten.view.default, aten._unsafe_view.default}
_OVERWRITING = {aten.copy.default, aten.fill.Scalar, aten.fill.Tensor}
_ASSERTIONS = {
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}


def tidy(body: fx.GraphModule) -> frozenset[tuple[int, str]]:
    """Remove assertions and operators that do nothing in eval mode; make every operator functional.

    A copy is nothing where nobody writes. Only the caller may: outputs with memory of their own keep it.

    Returns:
        which outputs share memory, with what (see :func:`bnfold.capture.outputs.shared_outputs`).

    Raises:
        CaptureError: see :func:`bnfold.capture.functional.make_functional`.
    """
    for node in list(body.graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or (
            node.op == "call_function" and node.target in _ASSERTIONS
        ):
            body.graph.erase_node(node)
    shared = shared_outputs(body.graph, traced=True)
    make_functional(body.graph)
    _forget_overwritten(body.graph)
    for node in list(body.graph.nodes):
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            body.graph.erase_node(node)
        elif node.target in _VIEWS:
            # without the copies a value's memory may be in another order, in which there is no such view
            node.target = aten.reshape.default
    separate_outputs(body.graph, shared)
    g.clean(body)
    return shared


def _forget_overwritten(graph: fx.Graph) -> None:
    """What is written over a whole tensor is that tensor: none of what was there is read."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _OVERWRITING:
            continue
        made = g.value(node)
        shape = [size if isinstance(size, int) else -1 for size in made.shape]
        new = node.args[1]
        fits = isinstance(new, fx.Node) and g.value(new).shape == made.shape
        if not fits and -1 in shape:
            continue
        if not isinstance(new, fx.Node):
            node.target = aten.full.default
            node.args, node.kwargs = (shape, new), {"dtype": made.dtype, "device": made.device}
            continue
        with graph.inserting_before(node):
            if g.value(new).dtype != made.dtype:
                new = call(graph, node.meta, aten.to.dtype, (new, made.dtype))
            if not fits:
                new = call(graph, node.meta, aten.expand.default, (new, shape))
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _does_nothing(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target in _COPIES or is_same_tensor(node):
        return True
    return node.target in _CASTS and is_same_type(node)
