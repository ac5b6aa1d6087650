"""Writing in place made functional: ``relu_(x)`` becomes ``relu(x)``, and later readers of x read that.

So do later readers of whatever shares memory with x: ``y[:, 0:2] = z`` makes another y, of z's channels and
the rest of y's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bnfold import graph as g
from bnfold.capture.aliases import Aliases, is_mutable, written_arguments
from bnfold.capture.failures import user_line
from bnfold.capture.places import Places
from bnfold.capture.views import Make
from bnfold.errors import CaptureError

aten = torch.ops.aten

_DROPOUT = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.feature_alpha_dropout.default,
    aten.feature_alpha_dropout_.default,
}
_SAME_TENSOR = {aten.alias.default, aten.detach.default, aten.detach_.default, aten.lift_fresh.default}
_CASTS = {
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten.type_as.default,
}
# these change what a tensor looks at in a way that has no functional form
_RESHAPING = {"resize_", "resize_as_", "set_", "as_strided_", "swap_"}


def make_functional(graph: fx.Graph) -> None:
    """Remove every write, exactly or not at all.

    A write is exact to remove when every other value that shares memory with the target, existed before the
    write and is read after it is a view that can be followed to the same tensor: it is made again from what
    that tensor has become. A write to the module's own state may go when the result depends on nothing that
    is in that memory: a counter.

    Raises:
        CaptureError: the result depends on state that forward writes (BNF-C005), a write into memory that a
            value shares that cannot be followed (BNF-C006), a write without a functional form (BNF-C007), one
            of what it reads itself (BNF-C013).
    """
    _drop_unread(graph)
    for node in list(graph.nodes):
        if _is_view_change(node):
            _replace(graph, node, {n: i for i, n in enumerate(graph.nodes)})
    for node in list(graph.nodes):
        if is_same_tensor(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    aliases = Aliases(graph, traced=True)
    order = {node: i for i, node in enumerate(graph.nodes)}
    places = Places()
    state = [node for node in graph.nodes if node.op == "get_attr"]
    kept: list[tuple[fx.Node, fx.Node]] = []
    for node in list(graph.nodes):
        if not is_mutable(node):
            continue
        targets = written_arguments(node)
        kept_here = [t for t in targets if any(aliases.overlap(t, attribute) for attribute in state)]
        kept.extend((node, target) for target in kept_here)
        if kept_here:
            continue
        if len(targets) != 1 or targets[0] is not node.args[0]:
            raise _no_functional_form(node)
        target = targets[0]
        if _copies_what_is_there(node, target, places):
            node.replace_all_uses_with(target)
            graph.erase_node(node)
            continue
        stale = _read_later(node, target, aliases, order)
        for value in stale:
            if not places.same_tensor(value, target):
                raise _unknown_view(node, value)
        for source in node.all_input_nodes:
            if source is not target and places.reads_what_it_writes(source, target):
                raise _reads_what_it_writes(node)
        make = _maker(graph, node, order)
        new = _replace(graph, node, order)
        aliases.take_place(new, target)
        for old, renewed in places.write(target, new, stale, make).items():
            _read_instead(old, renewed, order)
            aliases.take_place(renewed, old)
    _forget_state(graph, kept, aliases)


def is_same_tensor(node: fx.Node) -> bool:
    """Whether an operator gives its own input back, whatever its memory layout: not a copy of it."""
    if node.op != "call_function":
        return False
    if node.target in _SAME_TENSOR:
        return True
    if node.target in _DROPOUT:
        arguments = g.arguments(node)
        return not arguments["train"] or arguments["p"] == 0
    if node.target in _CASTS:
        arguments = g.arguments(node)
        layout = arguments.get("memory_format")
        plain = not arguments.get("copy") and layout in (None, torch.preserve_format)
        return plain and is_same_type(node)
    return False


def is_same_type(node: fx.Node) -> bool:
    """Whether a cast's result has its input's dtype and device."""
    source = node.args[0]
    return (
        isinstance(source, fx.Node)
        and g.value(node).dtype == g.value(source).dtype
        and g.value(node).device == g.value(source).device
    )


def _drop_unread(graph: fx.Graph) -> None:
    """A value that nothing reads cannot see a write."""
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in ("placeholder", "output") or is_mutable(node)
    )


def _is_view_change(node: fx.Node) -> bool:
    """``squeeze_`` and its like: the target looks at its memory in another way, and no value changes."""
    return (
        is_mutable(node)
        and torch.Tag.inplace_view in node.target.tags  # type: ignore[union-attr]
        and node.target is not aten.detach_.default
    )


def _copies_what_is_there(node: fx.Node, target: fx.Node, places: Places) -> bool:
    """``y[0] += 1`` adds in place, and then copies y[0] to y[0]."""
    source = node.args[1] if node.target is aten.copy_.default else None
    return isinstance(source, fx.Node) and places.same(source, target)


def _read_later(
    node: fx.Node, target: fx.Node, aliases: Aliases, order: dict[fx.Node, int]
) -> list[fx.Node]:
    """The other values that a write shows in: what is cut from the target later is cut from the result."""
    position = order[node]
    return [
        other
        for other in node.graph.nodes
        if other is not target
        and other is not node
        and order[other] < position
        and any(order[user] > position for user in other.users)
        and aliases.overlap(other, target)
    ]


def _unknown_view(node: fx.Node, other: fx.Node) -> CaptureError:
    return CaptureError(
        "BNF-C006",
        f"{g.operator_name(node)} writes into memory that {g.operator_name(other)!r} shares and "
        "that is read again after it",
        where=_line(node),
        fix="write the result into a new tensor: torch.cat, torch.where, inplace=False, or the form "
        "without the trailing underscore",
    )


def _reads_what_it_writes(node: fx.Node) -> CaptureError:
    return CaptureError(
        "BNF-C013",
        f"{g.operator_name(node)} reads memory that it writes to, and torch leaves open what it finds there",
        where=_line(node),
        fix="copy what is read before: y[1:] = y[:-1].clone()",
    )


def _maker(graph: fx.Graph, node: fx.Node, order: dict[fx.Node, int]) -> Make:
    """Makes operators in the place of ``node``."""
    meta, position, after = dict(node.meta), order[node], node.next

    def make(target: Any, *args: Any) -> fx.Node:
        with graph.inserting_before(after):
            new = call(graph, meta, target, args)
        order[new] = position
        return new

    return make


def _read_instead(old: fx.Node, new: fx.Node, order: dict[fx.Node, int]) -> None:
    """Who reads ``old`` behind the place where ``new`` was made reads ``new``."""
    for user in [user for user in old.users if order[user] > order[new]]:
        user.replace_input_with(old, new)


def _replace(graph: fx.Graph, node: fx.Node, order: dict[fx.Node, int]) -> fx.Node:
    """Put the functional form in the place of ``node``, and of its target from there on."""
    target = node.args[0]
    assert isinstance(target, fx.Node)
    functional = _functional_overload(node)
    with graph.inserting_before(node):
        new = call(graph, node.meta, functional, node.args, node.kwargs)
        order[new] = order[node]
        kept = g.value(target).dtype
        if g.value(new).dtype != kept:  # in place, the target's dtype holds; else the wider one does
            new = call(graph, node.meta, aten.to.dtype, (new, kept))
            order[new] = order[node]
    _read_instead(target, new, order)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def call(
    graph: fx.Graph, meta: dict[str, Any], target: Any, args: tuple[Any, ...], kwargs: Any = None
) -> fx.Node:
    """An operator with its fake tensor, where the graph inserts; what else is known of it is ``meta``."""
    new = graph.call_function(target, args, kwargs)
    given, named = fx.node.map_arg((new.args, dict(new.kwargs)), lambda n: n.meta["val"])
    fake = next(g.value(n).fake_mode for n in new.all_input_nodes)  # type: ignore[attr-defined]
    with fake, torch.no_grad():
        new.meta = {**meta, "val": target(*given, **named)}
    return new


def _forget_state(graph: fx.Graph, kept: list[tuple[fx.Node, fx.Node]], aliases: Aliases) -> None:
    """Drop the writes to the module's state; refuse where the result depends on that state."""
    live: set[fx.Node] = set()
    open_ = [graph.output_node()]
    while open_:
        node = open_.pop()
        if node not in live:
            live.add(node)
            open_.extend(node.all_input_nodes)
    read = [node for node in graph.nodes if node in live and node.op != "output"]
    for node, target in kept:
        if any(aliases.overlap(value, target) for value in read):
            state = next(n for n in graph.nodes if n.op == "get_attr" and aliases.overlap(n, target))
            raise CaptureError(
                "BNF-C005",
                f"forward writes to the module's own {str(state.target)!r} in eval mode, and reads it",
                where=_line(node),
                fix="a converted network keeps no state: return the value, or take it as an input",
            )
    for node in reversed(list(graph.nodes)):
        if kept and node.op == "call_function" and node not in live:
            graph.erase_node(node)


def _functional_overload(node: fx.Node) -> Any:
    target = node.target
    name, overload = target._opname, target._overloadname  # type: ignore[union-attr]
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    functional = getattr(packet, overload, None) if packet is not None else None
    if functional is None or functional._schema.is_mutable or name in _RESHAPING:
        raise _no_functional_form(node)
    return functional


def _no_functional_form(node: fx.Node) -> CaptureError:
    return CaptureError(
        "BNF-C007",
        f"{node.target} writes in place and has no functional form",
        where=_line(node),
        fix="use the form without the trailing underscore, and without out=",
    )


def _line(node: fx.Node) -> str:
    return user_line(node.meta.get("stack_trace") or "") or node.name
