"""The captured graph without what does nothing: assertions, aliases, dropout, writing in place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from bnfold import graph as g
from bnfold.capture.failures import user_line
from bnfold.errors import CaptureError

aten = torch.ops.aten

_NO_OPERATION = {
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
    aten.clone.default,
}
_DROPOUT = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.feature_alpha_dropout.default,
}
_VIEWS = {aten.view.default, aten._unsafe_view.default}
_ASSERTIONS = {
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}


def tidy(body: fx.GraphModule) -> None:
    """Remove assertions and operators that do nothing in eval mode; make every operator functional.

    Raises:
        CaptureError: forward writes to the module's state (BNF-C005), or through a view (BNF-C006).
    """
    for node in list(body.graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or (
            node.op == "call_function" and node.target in _ASSERTIONS
        ):
            body.graph.erase_node(node)
    _make_functional(body.graph)
    for node in list(body.graph.nodes):
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            body.graph.erase_node(node)
        elif node.target in _VIEWS:
            node.target = aten.reshape.default  # without the copy before it, its input may not be contiguous
    g.clean(body)


def _does_nothing(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target in _NO_OPERATION:
        return True
    if node.target in _DROPOUT:
        arguments = g.arguments(node)
        return not arguments["train"] or arguments["p"] == 0
    if node.target in (aten.to.dtype, aten._to_copy.default, aten.to.device, aten.to.dtype_layout):
        source = node.args[0]
        return (
            isinstance(source, fx.Node)
            and g.value(node).dtype == g.value(source).dtype
            and g.value(node).device == g.value(source).device
        )
    return False


def _make_functional(graph: fx.Graph) -> None:
    """Replace ``relu_(x)`` by ``relu(x)``, and every later reading of x by the result."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        target = node.args[0]
        line = user_line(node.meta.get("stack_trace") or "") or node.name
        if not isinstance(target, fx.Node) or target.op == "get_attr":
            name = target.target if isinstance(target, fx.Node) else schema.name
            if isinstance(target, fx.Node) and _is_bookkeeping(target, node):
                graph.erase_node(node)
                continue
            raise CaptureError(
                "BNF-C005",
                f"forward writes to the module's own {name!r} in eval mode",
                where=line,
                fix="a converted network keeps no state: return the value, or take it as an input",
            )
        later = [user for user in target.users if order.get(user, -1) > order[node]]
        if _shares_storage(target, order[node], order):
            raise CaptureError(
                "BNF-C006",
                f"{schema.name} writes through a view that is read elsewhere",
                where=line,
                fix="write the result into a new tensor (torch.cat, torch.where), not into a slice",
            )
        functional = _functional_overload(node, line)
        with graph.inserting_before(node):
            new = graph.call_function(functional, node.args, node.kwargs)
        new.meta = dict(node.meta)
        order[new] = order[node]
        for user in later:
            if user is not node:
                user.replace_input_with(target, new)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _is_bookkeeping(state: fx.Node, writer: fx.Node) -> bool:
    """A counter that is written and never read, such as num_batches_tracked."""
    return not writer.users and all(user is writer for user in state.users)


def _shares_storage(target: fx.Node, position: int, order: dict[fx.Node, int]) -> bool:
    """Whether a view links ``target`` to another value that is read after ``position``."""

    def is_view(node: fx.Node) -> bool:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or schema.is_mutable:
            return False
        return any(argument.alias_info is not None for argument in schema.arguments)

    def read_later(node: fx.Node) -> bool:
        return any(order.get(user, position + 1) > position for user in node.users)

    def derived(node: fx.Node) -> Iterator[fx.Node]:
        for user in node.users:
            if is_view(user):
                yield user
                yield from derived(user)

    if target.op == "placeholder":
        return read_later(target) and len(target.users) > 1 and any(derived(target))
    if any(order.get(view, position) < position and read_later(view) for view in derived(target)):
        return True
    if is_view(target):
        base = target.args[0]
        if isinstance(base, fx.Node):
            return any(order.get(user, position + 1) > position for user in base.users)
    return False


def _functional_overload(node: fx.Node, line: str) -> Any:
    target = node.target
    name, overload = target._opname, target._overloadname  # type: ignore[union-attr]
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    functional = getattr(packet, overload, None) if packet is not None else None
    if functional is None or functional._schema.is_mutable:
        raise CaptureError(
            "BNF-C007",
            f"{target} writes in place and has no functional form",
            where=line,
            fix="use the form without the trailing underscore",
        )
    return functional
