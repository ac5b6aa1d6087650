"""The captured graph next to the module itself, on the example inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfold import graph as g
from bnfold.capture.failures import definition
from bnfold.capture.isolation import private_copy, run, run_stateless
from bnfold.errors import CaptureError

if TYPE_CHECKING:
    from bnfold.capture import Captured

# The graph calls the module's own kernels in its own dtypes: what differs by more is another function.
_TOLERANCE = 0.02


def require_same_answer(
    captured: Captured, module: nn.Module, args: tuple[Any, ...], *, alone: bool = False
) -> None:
    """Refuse a graph that gives another answer than forward does.

    Args:
        captured: the graph.
        module: a private copy of the module; copies of it run.
        args: the module's own arguments.
        alone: they are a single frame, where the graph was captured with more; forward may fail on it.

    Raises:
        CaptureError: forward fails (BNF-C004), keeps state (BNF-C005), decides by the size of its batch
            (BNF-C002), or computes something else than the graph (BNF-C011).
    """
    if alone:
        try:
            expected = run(private_copy(module), args)
        except CaptureError:
            return  # then so may the graph
    else:
        expected = run_stateless(module, args)
    if any(g.draws(node) for node in captured.body.graph.nodes):
        return
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    wanted = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)]
    failure = _failure(captured, tensors, wanted)
    if failure and alone:
        raise CaptureError(
            "BNF-C002",
            f"forward does something else for a batch of one than for more: {failure}",
            where=definition(module.forward),
            fix="convert without a dynamic batch, or write forward so that it does the same for every batch",
        )
    if failure:
        raise CaptureError(
            "BNF-C011",
            f"the captured graph does not compute what forward computes: {failure}",
            where=definition(module.forward),
            fix="forward depends on more than its inputs and its state (NumPy, a global, the export itself), "
            "or this is a bug in bnfold: please report it with the model",
        )


def refuse_fixed_batch(module: nn.Module, given: tuple[Any, ...], failure: CaptureError) -> None:
    """Refuse a forward that takes one frame, as it was given, and not the two that it is captured with.

    Args:
        module: a private copy of the module; a copy of it runs.
        given: the user's own arguments.
        failure: how forward failed on two frames.

    Raises:
        CaptureError: forward runs on what was given (BNF-C002).
    """
    try:
        run(private_copy(module, share_parameters=False), given)
    except CaptureError:
        return
    raise CaptureError(
        "BNF-C002",
        f"the model fixes the size of its batch: {failure.what.replace('the example inputs', 'two frames')}",
        where=failure.where,
        fix="convert without a dynamic batch, or compute shapes from x.shape[0] in forward",
    ) from failure


def _failure(captured: Captured, tensors: list[torch.Tensor], wanted: list[torch.Tensor]) -> str:
    try:
        with torch.no_grad():
            answers = captured.body(*(tensor.clone() for tensor in tensors))
    except Exception as error:
        return f"the graph fails with {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    for spec, answer, want in zip(captured.outputs, answers, wanted, strict=True):
        if answer.shape != want.shape or answer.dtype != want.dtype:
            return f"output {spec.name!r} is {_kind(answer)}, and forward's is {_kind(want)}"
        difference = _relative_error(answer, want)
        if difference > _TOLERANCE:
            return f"output {spec.name!r} differs by {difference:.3g} of its largest value"
    return ""


def _relative_error(answer: torch.Tensor, want: torch.Tensor) -> float:
    """max|answer - want| / max|want| where both are finite: an overflow may be on the edge."""
    if want.is_complex():
        answer, want = torch.view_as_real(answer), torch.view_as_real(want)
    answer, want = answer.double(), want.double()
    finite = answer.isfinite() & want.isfinite()
    if not finite.any():
        return 0.0
    largest = want[finite].abs().max().item()
    difference = (answer - want)[finite].abs().max().item()
    return difference / largest if largest else difference


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
