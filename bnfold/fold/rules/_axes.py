"""Where the channels of an axis are on the other side of an operator that pools or reduces."""

from __future__ import annotations

from bnfold.fold.rules._base import Operator


def output_axis(operator: Operator, axis: int) -> int | None:
    """Where the channels on an input's axis come out; None where the operator reduces over them.

    A reduction names its axes; a pooling or an interpolation works on the last ones, as many as its name
    says; anything else is elementwise.
    """
    rank, arguments = len(operator.input_shape), operator.arguments
    if "dim" in arguments:
        reduced = {dim % rank for dim in arguments["dim"] or range(rank)}
        if axis in reduced:
            return None
        return axis if arguments["keepdim"] else axis - sum(dim < axis for dim in reduced)
    name: str = operator.node.target._opname  # type: ignore[union-attr]
    spatial = next((int(letter) for letter in name if letter.isdigit()), 0)
    return axis if axis < rank - spatial else None


def input_axis(operator: Operator, axis: int) -> int | None:
    """Where the channels on an output's axis come from; None where several positions are reduced."""
    axes = range(len(operator.input_shape))
    return next((candidate for candidate in axes if output_axis(operator, candidate) == axis), None)
