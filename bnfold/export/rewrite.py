"""Rewriting operators that a target lacks into ones that it has, by exact algebra.

A rewrite looks at one call (its arguments, the shapes of its tensors) and answers with nothing (the call is
fine as it is), with a :class:`Replacement` (a function in torch operators, traced into the graph in place of
the call), or with a :class:`Refusal`. The engine below changes the graph, until no rewrite has an answer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from bnfold.errors import ExportError, InternalError
from bnfold.export.source import line_of, operator_name

_MAX_ROUNDS = 100_000


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        node: the call.
        arguments: by the names of the operator's schema, defaults filled in; tensors are fake ones.
        result: the fake tensor (or tuple of them) that it returns.
    """

    node: fx.Node
    arguments: dict[str, Any]
    result: Any

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass(frozen=True)
class Replacement:
    """What to compute instead.

    Attributes:
        function: takes the call's tensor arguments in schema order (None where absent), then ``constants``;
            returns the call's (first) result.
        constants: tensors that the function needs.
    """

    function: Callable[..., torch.Tensor]
    constants: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why the call cannot be expressed in the target."""

    reason: str


@dataclass(frozen=True)
class Rewrite:
    """A rewrite of the operators ``targets``."""

    name: str
    targets: tuple[Any, ...]
    plan: Callable[[Call], Replacement | Refusal | None]


def apply(module: fx.GraphModule, rewrites: Iterable[Rewrite], target: str) -> list[str]:
    """Rewrite the calls of ``module`` in place.

    Returns:
        names of the rewrites used, in order of the calls.

    Raises:
        ExportError: a call is refused (BNF-E010), by its operator and the user's line.
    """
    table = {overload: rewrite for rewrite in rewrites for overload in rewrite.targets}
    used: list[str] = []
    pending = list(module.graph.nodes)
    for _ in range(_MAX_ROUNDS):
        if not pending:
            break
        node = pending.pop(0)
        rewrite = table.get(node.target) if node.op == "call_function" else None
        if rewrite is None or not node.users:
            continue
        answer = rewrite.plan(_call(node))
        if isinstance(answer, Replacement):
            answer = _later_results(node) or answer
        if isinstance(answer, Refusal):
            raise ExportError(
                "BNF-E010",
                f"{operator_name(node.target)} cannot be written as {target}: {answer.reason}",
                where=line_of(node) or operator_name(node.target),
                fix=f"replace it in the model, or use --to {'tflite' if target == 'ONNX' else 'onnx'}",
            )
        if answer is not None:
            pending = _inline(module, node, answer) + pending
            used.append(rewrite.name)
    else:
        raise InternalError("BNF-X040", "the rewrites before the export do not come to an end")
    _compute_constants(module)
    module.graph.lint()
    module.recompile()
    return used


def _call(node: fx.Node) -> Call:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(node.args):
            value = node.args[position]
        elif argument.name in node.kwargs:
            value = node.kwargs[argument.name]
        else:
            value = argument.default_value
        arguments[argument.name] = value.meta["val"] if isinstance(value, fx.Node) else value
    return Call(node, arguments, node.meta["val"])


def constant(call: Call, position: int) -> torch.Tensor | None:
    """The tensor that an operand is, where it is a constant of the graph."""
    node = call.node.args[position]
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    assert call.node.graph.owning_module is not None
    return _attribute(call.node.graph.owning_module, str(node.target))


def _later_results(node: fx.Node) -> Refusal | None:
    """Indices of a pooling, and whatever else stands behind the first result, are not rewritten."""
    if isinstance(node.meta["val"], tuple | list):
        for user in node.users:
            if user.target is not operator.getitem or user.args[1] != 0:
                return Refusal("its indices are used, not only its values")
    return None


def _inline(module: fx.GraphModule, node: fx.Node, replacement: Replacement) -> list[fx.Node]:
    """Trace the replacement and put it in the place of ``node``; the new nodes."""
    graph = module.graph
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    tensors: list[fx.Node | None] = []
    for position, argument in enumerate(target._schema.arguments):
        if "Tensor" in str(argument.type):
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            tensors.append(given if isinstance(given, fx.Node) else None)
    sources: list[fx.Node | None] = list(tensors)
    fakes: list[Any] = [None if source is None else source.meta["val"] for source in tensors]
    mode = next(fake.fake_mode for fake in fakes if fake is not None)
    for constant in replacement.constants:
        name = _free_name(module)
        module.register_buffer(name, constant)
        first = next(iter(graph.nodes))
        with graph.inserting_before(first):
            source = graph.get_attr(name)
        source.meta["val"] = mode.from_tensor(constant)
        sources.append(source)
        fakes.append(source.meta["val"])

    given_nodes = [source for source in sources if source is not None]
    given_fakes = [fake for fake in fakes if fake is not None]

    def function(*present: torch.Tensor) -> torch.Tensor:
        rest = iter(present)
        return replacement.function(*(None if source is None else next(rest) for source in sources))

    with torch.no_grad(), mode:
        traced = make_fx(function)(*given_fakes)
    env: dict[fx.Node, fx.Node] = {}
    placeholders = iter(given_nodes)
    result: Any = None
    with graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op == "placeholder":
                env[inner] = next(placeholders)
            elif inner.op == "output":
                result = env[inner.args[0]]
            else:
                new = graph.node_copy(inner, lambda old: env[old])
                for key in ("stack_trace", "nn_module_stack"):
                    if key in node.meta:
                        new.meta[key] = node.meta[key]
                env[inner] = new
    wanted = node.meta["val"]
    replaced = [node]
    if isinstance(wanted, tuple | list):
        wanted, replaced = wanted[0], list(node.users)
    if result.meta["val"].shape != wanted.shape or result.meta["val"].dtype != wanted.dtype:
        raise InternalError(
            "BNF-X041",
            f"a rewrite of {operator_name(node.target)} gives {result.meta['val'].shape}, not {wanted.shape}",
            where=line_of(node),
        )
    for old in replaced:
        old.replace_all_uses_with(result)
        graph.erase_node(old)
    if node not in replaced:
        graph.erase_node(node)
    return [new for new in env.values() if new.op == "call_function"]


def _free_name(module: fx.GraphModule) -> str:
    number = 0
    while hasattr(module, f"rewrite_constant_{number}"):
        number += 1
    return f"rewrite_constant_{number}"


def _compute_constants(module: fx.GraphModule) -> None:
    """Evaluate what depends on weights alone (slices of kernels), so that no converter has to.

    Only results that are no larger than what they are made of: an expanded constant stays an operator.
    """
    graph = module.graph
    for node in list(graph.nodes):
        sources = node.all_input_nodes
        value = node.meta.get("val")
        if node.op != "call_function" or not sources or not isinstance(value, torch.Tensor):
            continue
        if any(source.op != "get_attr" for source in sources) or node.kwargs.get("out") is not None:
            continue
        if value.numel() > max(source.meta["val"].numel() for source in sources):
            continue
        tensors = {source: _attribute(module, str(source.target)) for source in sources}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), tensors.__getitem__)
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        name = _free_name(module)
        module.register_buffer(name, result.detach().clone(memory_format=torch.contiguous_format))
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()


def _attribute(module: torch.nn.Module, path: str) -> torch.Tensor:
    owner, _, name = path.rpartition(".")
    tensor = getattr(module.get_submodule(owner), name)
    assert isinstance(tensor, torch.Tensor)
    return tensor
