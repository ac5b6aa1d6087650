"""Naming the tensors of an ONNX graph, without two of them ending up with one name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def maker(node: onnx.NodeProto) -> str:
    """The qualified name of the module that an exported node comes from, before metadata are stripped.

    Empty where the exporter tells none: an operator that it made itself, or one of the outermost module.
    """
    told = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    scopes = ast.literal_eval(told)  # ['', 'stem', 'stem.0', 'conv2d']
    return str(scopes[-2]) if len(scopes) > 1 else ""


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names in order; the second and later of equal ones with ``.1``, ``.2``, ... behind."""
    chosen: list[str] = []
    for name in names:
        chosen.append(_free(name, {*chosen, *names}) if name in chosen else name)
    return chosen


def _free(name: str, taken: Iterable[str]) -> str:
    used = set(taken)
    number = 1
    while f"{name}.{number}" in used:
        number += 1
    return f"{name}.{number}"


def rename_tensors(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename the graph's inputs and outputs, in order, in place.

    A weight or an intermediate value that already has one of these names gets another. An output that is an
    input or another output as it is gets an Identity of its own.
    """
    import onnx

    wanted = [*inputs, *outputs]
    taken = _all_names(graph) | set(wanted)
    public = {value.name for value in graph.input}
    for value in graph.output:
        if value.name in public:
            source, value.name = value.name, _free(value.name, taken)
            taken.add(value.name)
            graph.node.append(
                onnx.helper.make_node("Identity", [source], [value.name], name=f"node_{value.name}")
            )
        public.add(value.name)
    new: dict[str, str] = {}
    for value, name in zip([*graph.input, *graph.output], wanted, strict=True):
        new[value.name] = name
    for name in sorted(_all_names(graph)):
        if name in wanted and name not in new:
            new[name] = _free(name, taken)
            taken.add(new[name])
    _rename(graph, lambda name: new.get(name, name))


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for field in (graph.input, graph.output, graph.value_info) for value in field}
    names.update(tensor.name for tensor in graph.initializer)
    for node in graph.node:
        names.update(node.input)
        names.update(node.output)
        for inner in _subgraphs(node):
            names |= _all_names(inner)
    return names - {""}


def _rename(graph: onnx.GraphProto, new: Callable[[str], str]) -> None:
    for field in (graph.input, graph.output, graph.value_info, graph.initializer):
        for item in field:
            item.name = new(item.name)
    for node in graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for inner in _subgraphs(node):  # they see the outer graph's names
            _rename(inner, new)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found = []
    for attribute in node.attribute:
        found += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    return found
