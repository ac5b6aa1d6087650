"""Regions of a graph that torch.export wraps in an operator of their own, put back in their place."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._higher_order_ops.wrap import tag_activation_checkpoint
from torch._ops import HigherOrderOperator
from torch.fx.node import map_arg

from bnfold import graph as g
from bnfold.capture.failures import user_line
from bnfold.errors import CaptureError

_CONTROL_FLOW = ("cond", "while_loop", "scan", "map", "associative_scan")


def inline_regions(body: fx.GraphModule, where: str) -> None:
    """Inline the regions under another grad mode, under autocast switched off, or recomputed in training.

    None of these changes a value in use. Every other operator that holds graphs is refused.

    Args:
        body: the exported graph, changed in place.
        where: the place to name where the graph tells none.

    Raises:
        CaptureError: control flow inside the graph (BNF-C001), autocast switched on (BNF-C008), any other
            operator of this kind (BNF-C003).
    """
    for node in list(body.graph.nodes):
        if node.op == "call_function" and isinstance(node.target, HigherOrderOperator):
            _inline(body, node, where)
    body.graph.eliminate_dead_code(is_impure_node=lambda node: not _is_unused_attribute(node))
    body.recompile()


def _is_unused_attribute(node: fx.Node) -> bool:
    return node.op == "get_attr" and not node.users


def _inline(body: fx.GraphModule, node: fx.Node, where: str) -> None:
    region, args = _region(body, node, where)
    env: dict[fx.Node, Any] = {}
    given = iter(args)
    result: Any = ()
    with body.graph.inserting_before(node):
        for inner in region.graph.nodes:
            if inner.op == "placeholder":
                env[inner] = next(given)
            elif inner.op == "output":
                result = map_arg(inner.args[0], lambda n: env[n])
            elif inner.op == "get_attr":
                # the region's own attributes: other regions, constants
                name = _free_name(body, str(inner.target).replace(".", "_"))
                setattr(body, name, g.fetch(region, str(inner.target)))
                env[inner] = body.graph.get_attr(name)
                env[inner].meta = dict(inner.meta)
            else:
                env[inner] = body.graph.node_copy(inner, lambda n: env[n])
    for user in list(node.users):
        assert user.target is g.getitem
        replacement = result[user.args[1]]
        user.replace_all_uses_with(replacement)
        body.graph.erase_node(user)
    body.graph.erase_node(node)
    for copied in env.values():
        if isinstance(copied, fx.Node) and isinstance(copied.target, HigherOrderOperator):
            _inline(body, copied, where)


def _region(body: fx.GraphModule, node: fx.Node, where: str) -> tuple[fx.GraphModule, tuple[Any, ...]]:
    """The wrapped graph and its arguments.

    Raises:
        CaptureError: see :func:`inline_regions`.
    """
    name = str(getattr(node.target, "_name", node.target))
    line = user_line(node.meta.get("stack_trace") or "")
    if name == "wrap_with_set_grad_enabled":
        return _fetch(body, node.args[1]), node.args[2:]
    if name == "wrap_with_autocast":
        _, dtype, enabled, _, reference, *args = node.args
        region = _fetch(body, reference)
        operators = [inner for inner in region.graph.nodes if inner.op == "call_function"]
        if enabled and operators:
            inside = user_line(operators[0].meta.get("stack_trace") or "")
            raise CaptureError(
                "BNF-C008",
                f"forward switches autocast on ({dtype}): each layer's precision is then torch's choice, "
                "and no part of the graph",
                where=line or inside or where,
                fix="take autocast out of forward, and choose the precision at conversion",
            )
        return region, tuple(args)
    if node.target is tag_activation_checkpoint:
        return _fetch(body, node.args[0]), node.args[1:]
    if name in _CONTROL_FLOW:
        raise CaptureError(
            "BNF-C001",
            f"forward chooses by tensor values (torch.{name}): a converted network has no control flow",
            where=line or where,
            fix="use torch.where, or make the choice before the export",
        )
    raise CaptureError(
        "BNF-C003",
        f"bnfold cannot see into the operator {name!r}",
        where=line or where,
        fix="replace the operator by one that computes on tensors alone",
    )


def _fetch(body: fx.GraphModule, reference: Any) -> fx.GraphModule:
    region = g.fetch(body, str(reference.target))
    assert isinstance(region, fx.GraphModule)
    return region


def _free_name(body: fx.GraphModule, name: str) -> str:
    while hasattr(body, name):
        name += "_"
    return name
