"""What a model file cannot hold among its outputs: whatever is no tensor, or the same on every frame."""

from __future__ import annotations

from torch import fx

from bnfold.capture import Captured
from bnfold.errors import ExportError
from bnfold.export.source import depends_on_input, line_of
from bnfold.wording import clip


def check_outputs(captured: Captured) -> None:
    """Refuse a network with outputs that a file cannot hold; every one is named.

    Raises:
        ExportError: an output that is no tensor, such as None or a number, or no output at all (BNF-E006);
            only tensors, and one of them depends on no input (BNF-E007).
    """
    structure = captured.structure
    others = {
        name: clip(repr(value), 40)
        for name, value in zip(structure.constant_names, structure.constants.values(), strict=True)
    }
    results = captured.body.graph.output_node().args[0]
    assert isinstance(results, tuple)
    alive = depends_on_input(captured.body.graph)
    constants = {
        spec.name: node
        for spec, node in zip(structure.outputs, results, strict=True)
        if isinstance(node, fx.Node) and node not in alive
    }
    if others:
        told = [f"{name!r} is {value}" for name, value in others.items()]
        told += [f"{name!r} is a constant tensor" for name in constants]
        raise ExportError(
            "BNF-E006",
            f"a file holds only tensors that depend on an input; of forward's outputs, {', '.join(told)}",
            where=f"outputs {', '.join([*others, *constants])}",
            fix="leave them out of forward's result (a module around this one can)",
        )
    if not structure.outputs:
        raise ExportError(
            "BNF-E006",
            "forward returns no tensor at all",
            where="outputs",
            fix="return at least one tensor from forward",
        )
    if constants:
        named = ", ".join(map(repr, constants))
        raise ExportError(
            "BNF-E007",
            f"of forward's outputs, constant on every input: {named}",
            where=next(filter(None, map(line_of, constants.values())), f"output {named}"),
            fix="leave it out of forward's result (a module around this one can); keep it next to the model",
        )
