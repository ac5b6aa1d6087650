"""Small, general helpers on ATen graphs: arguments by name, constants, the float64 twin."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate, map_arg

getitem = operator.getitem

_SWITCHES = ("train", "training", "dropout_p")
_SPLITS = frozenset(
    {
        torch.ops.aten.split.Tensor,
        torch.ops.aten.split.sizes,
        torch.ops.aten.split_with_sizes.default,
        torch.ops.aten.chunk.default,
        torch.ops.aten.tensor_split.sections,
        torch.ops.aten.tensor_split.indices,
    }
)


def arguments(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by the name in the operator's schema, defaults filled in."""
    bound: dict[str, Any] = {}
    if not hasattr(node.target, "_schema"):
        return bound
    for i, argument in enumerate(node.target._schema.arguments):
        if i < len(node.args):
            bound[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
    return bound


def data_input(node: fx.Node) -> fx.Node:
    """The tensor that an operator works on: its first argument, whatever the schema calls it."""
    return cast(fx.Node, node.args[0])


def argument_at(node: fx.Node, path: str) -> Any:
    """One argument by its name in the schema; ``params.0`` is the first of a list."""
    name, _, position = path.partition(".")
    argument = arguments(node)[name]
    return argument[int(position)] if position else argument


def times_read(reader: fx.Node, source: fx.Node) -> int:
    """How often ``source`` stands among the arguments of ``reader``."""
    count = 0

    def look(node: fx.Node) -> fx.Node:
        nonlocal count
        count += node is source
        return node

    map_arg((reader.args, reader.kwargs), look)
    return count


def shape(node: fx.Node) -> tuple[int, ...]:
    """A value's shape; a symbolic axis has the size it was captured with."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in value(node).shape)


def set_argument(node: fx.Node, path: str, new: Any) -> None:
    """Set one argument by its name in the schema; ``params.0`` is the first of a list."""
    name, _, index = path.partition(".")
    if index:
        entries = list(arguments(node)[name])
        entries[int(index)] = new
        new = entries
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    position = next(i for i, argument in enumerate(schema) if argument.name == name)
    if position < len(node.args):
        node.update_arg(position, new)
    elif position == len(node.args):
        node.args = (*node.args, new)
    else:
        node.update_kwarg(name, new)


def value(node: fx.Node) -> torch.Tensor:
    """The fake tensor that tells a node's shape and dtype."""
    return cast(torch.Tensor, node.meta["val"])


def makes_several(node: fx.Node) -> bool:
    """Whether a call's result is several values, as an LSTM's."""
    return isinstance(node.meta["val"], tuple | list)


def pieces(node: fx.Node) -> tuple[int, list[int]] | None:
    """The axis that a ``split`` or its like cuts, and the sizes of its pieces; None where one is open."""
    if node.op != "call_function" or node.target not in _SPLITS:
        return None
    axis = arguments(node)["dim"] % value(data_input(node)).ndim
    sizes = [piece.shape[axis] for piece in node.meta["val"]]
    return (axis, sizes) if all(isinstance(size, int) for size in sizes) else None


def dtype(node: fx.Node) -> torch.dtype:
    """The dtype of a value, or of the first of several (an LSTM's)."""
    made = node.meta["val"]
    return cast(torch.Tensor, made[0] if makes_several(node) else made).dtype


def dtype_name(kind: torch.dtype) -> str:
    """numpy's name of a dtype."""
    return str(kind).removeprefix("torch.")


def fetch(root: nn.Module, target: str) -> Any:
    """The attribute at a dotted path."""
    found: Any = root
    for part in target.split("."):
        found = getattr(found, part)
    return found


def has(root: nn.Module, target: str) -> bool:
    """Whether something is at a dotted path."""
    try:
        fetch(root, target)
    except AttributeError:
        return False
    return True


def leads_through_modules(root: nn.Module, target: str) -> bool:
    """Whether what is on the way to a dotted path are modules, or nothing yet."""
    parts = target.split(".")
    prefixes = (".".join(parts[:count]) for count in range(1, len(parts)))
    return all(isinstance(fetch(root, path), nn.Module) for path in prefixes if has(root, path))


def fill(root: nn.Module, target: str, tensor: torch.Tensor) -> None:
    """Put a tensor at a dotted path, as a buffer, making the modules on the way."""
    *path, name = target.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if hasattr(root, name):
        delattr(root, name)
    root.register_buffer(name, tensor)


def drop_dead_code(graph: fx.Graph) -> None:
    """Drop nodes that nothing reads; the graph's inputs stay."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def clean(body: fx.GraphModule) -> None:
    """Drop nodes and attributes that nothing reads, and regenerate the code."""
    drop_dead_code(body.graph)
    body.delete_all_unused_submodules()
    used = {str(node.target) for node in body.graph.nodes if node.op == "get_attr"}
    for path, owner in list(body.named_modules()):
        for table in (owner._parameters, owner._buffers):
            for name in list(table):
                if (f"{path}.{name}" if path else name) not in used:
                    del table[name]
    body.graph.lint()
    body.recompile()


def float64_twin(body: fx.GraphModule) -> fx.GraphModule:
    """A copy in float64: floating parameters, buffers and dtype constants are rewritten.

    A plain ``.double()`` fails where a graph hard-codes float32, as an LSTM's zero state and casts do.
    """
    graph = float64_graph(body)
    attributes = {
        str(node.target): double(fetch(body, str(node.target)))
        for node in body.graph.nodes
        if node.op == "get_attr"
    }
    return fx.GraphModule(attributes, graph, "Twin")


def float64_graph(body: fx.GraphModule) -> fx.Graph:
    """The graph of the float64 twin, with as many nodes in the same order."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in body.graph.nodes:
        new = graph.node_copy(node, lambda n: env[n])
        new.args, new.kwargs = widened_arguments(node, new.args, new.kwargs)
        env[node] = new
    return graph


def widened_arguments(
    node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with which a node's call computes in float64."""
    wide = dict(widen(kwargs))
    if _makes_floats(node):
        wide["dtype"] = torch.float64
    return tuple(widen(args)), wide


def _makes_floats(node: fx.Node) -> bool:
    """Whether it is torch.ones and its like, whose dtype may be the unwritten default."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or node.all_input_nodes:
        return False
    made = node.meta.get("val")
    return (
        isinstance(made, torch.Tensor)
        and made.is_floating_point()
        and any(argument.name == "dtype" for argument in schema.arguments)
    )


def widen(arguments: Any) -> Any:
    """Nested arguments with every floating dtype replaced by float64."""

    def one(argument: Any) -> Any:
        is_float = isinstance(argument, torch.dtype) and argument.is_floating_point
        return torch.float64 if is_float else argument

    return map_aggregate(arguments, one)


def double(tensor: Any) -> Any:
    """A floating tensor in float64, detached; anything else unchanged."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach()
        return tensor.double() if tensor.is_floating_point() else tensor
    return tensor


def module_path(node: fx.Node) -> str:
    """The qualified name of the module whose forward called this operator; empty for the root."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    # torch.export numbers repeated calls of one module: "block@1.bn"
    return ".".join(part.split("@")[0] for part in path.split("."))


def module_call(node: fx.Node) -> tuple[str, ...]:
    """The call of that module: another for each time that it, or one around it, is called."""
    return tuple(node.meta.get("nn_module_stack") or ())


def draws(node: fx.Node) -> bool:
    """Whether an operator draws random numbers.

    torch tags those that do. Some of them draw on request only (dropout in eval mode, inside an LSTM, in
    attention): a tagged operator counts unless its own arguments turn the drawing off.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = arguments(node)
    return all(given[name] for name in _SWITCHES if name in given)  # without a switch it always draws


def operator_name(node: fx.Node) -> str:
    """``conv2d`` for aten.conv2d.default."""
    target = node.target
    if target is operator.getitem:
        return "getitem"
    return str(getattr(target, "_opname", getattr(target, "__name__", target)))


def layer_name(node: fx.Node) -> str:
    """The layer that this operator is, or ``<calling module>.<operator>`` for a call between layers."""
    return str(node.meta.get("layer") or operator_name(node))


def copy_body(body: fx.GraphModule) -> fx.GraphModule:
    """A copy that shares the tensors but not the graph."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in body.graph.nodes:
        env[node] = graph.node_copy(node, lambda n: env[n])
        env[node].meta = copy.copy(node.meta)
    attributes = {str(n.target): fetch(body, str(n.target)) for n in body.graph.nodes if n.op == "get_attr"}
    return fx.GraphModule(attributes, graph, "Body")
