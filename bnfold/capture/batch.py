"""A symbolic batch: capturing it, and refusing a forward that decides by its size."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.fx.experimental.sym_node import SymNode
from torch.utils import _pytree as pytree

from bnfold.capture.failures import is_library, location
from bnfold.errors import CaptureError, UsageError

_FIX = "convert without a dynamic batch, or write forward so that it does the same for every batch"
_SIZES = (*range(1, 130), 255, 256, 257, 512, 1000, 1009, 1024, 4096, 65536, 1_000_003)


@dataclass(frozen=True)
class Decision:
    """A condition on sizes that Python code asked for, and where."""

    condition: Any
    where: str


def at_least_two_frames(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch.export takes a batch of one for a constant, so a symbolic batch is captured with two.

    Raises:
        UsageError: an input without axes (BNF-U023).
    """
    if any(leaf.ndim == 0 for leaf in _tensors(args)):
        raise UsageError(
            "BNF-U023", "an input without axes cannot have a dynamic batch", where="example_inputs"
        )

    def widen(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and len(leaf) == 1 else leaf

    return pytree.tree_map(widen, args)  # type: ignore[no-any-return]


def one_frame(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with the first frame alone."""
    return pytree.tree_map(  # type: ignore[no-any-return]
        lambda leaf: leaf[:1] if isinstance(leaf, torch.Tensor) else leaf, args
    )


def symbolic_shapes(signature: inspect.Signature, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What torch.export wants to be told: which axes are symbolic, one entry for a whole ``*args``."""
    shapes = pytree.tree_map(
        lambda leaf: {0: torch.export.Dim.DYNAMIC} if isinstance(leaf, torch.Tensor) else None, args
    )
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        if len(args) > first:
            shapes = (*shapes[:first], tuple(shapes[first:]))
    return tuple(shapes)


@contextlib.contextmanager
def decisions() -> Iterator[list[Decision]]:
    """Note every condition on a symbolic size that Python code branches on.

    torch.export records a guard only where it does not know the answer, and it takes for granted that a
    symbolic size is not 1: of a branch on ``x.shape[0] == 1`` nothing would be left.
    """
    found: list[Decision] = []
    evaluate = SymNode.bool_

    def noted(node: SymNode) -> bool:
        where = _asker()
        if where:
            found.append(Decision(node.expr, where))
        return evaluate(node)

    SymNode.bool_ = noted  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        SymNode.bool_ = evaluate  # type: ignore[method-assign]


def require_any_batch(
    exported: torch.export.ExportedProgram, asked: Iterable[Decision], where: str, names: list[str]
) -> None:
    """Refuse a graph that holds for some batch sizes only.

    Raises:
        CaptureError: the model fixes its batch, or decides by its size (BNF-C002).
    """
    values = {n.name: n.meta.get("val") for n in exported.graph.nodes if n.op == "placeholder"}
    given = [values[str(name)] for name in exported.graph_signature.user_inputs if str(name) in values]
    inputs = [value for value in given if isinstance(value, torch.Tensor)]
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value.shape[0], int):
            raise CaptureError(
                "BNF-C002",
                f"the model fixes the batch of input {name!r} at {value.shape[0]}",
                where=where,
                fix="convert without a dynamic batch, or compute shapes from x.shape[0] in forward",
            )
    for decision in asked:
        # a plain answer for every size from 1 up is no decision
        answers = {_holds(decision.condition, size) for size in _SIZES}
        if {True, False} <= answers:
            raise _decides(str(decision.condition), decision.where)
    guards = [guard for value in inputs for guard in _shape_env(value).guards]
    for guard in guards:
        # torch's own decisions may differ at 1, which it never looks at: the replay does
        if not all(_holds(guard.expr, size) for size in _SIZES if size > 1):
            raise _decides(str(guard.expr), _user_location(guard) or where)
    for symbol, span in exported.range_constraints.items():
        if not _is_unbacked(symbol) and not (span.lower <= 2 and span.upper > _SIZES[-1]):
            raise _decides(f"{span.lower} <= {symbol} <= {span.upper}", where)


def _decides(condition: str, where: str) -> CaptureError:
    return CaptureError(
        "BNF-C002",
        f"forward decides by the size of its batch: the graph would hold only where {condition}",
        where=where,
        fix=_FIX,
    )


def _holds(condition: Any, size: int) -> bool | None:
    """The condition at a batch of ``size`` for every input; None where it depends on anything else."""
    condition = sympy.sympify(condition)
    known = [symbol for symbol in condition.free_symbols if not _is_unbacked(symbol)]
    answer = condition.xreplace({symbol: sympy.Integer(size) for symbol in known})
    if answer in (sympy.true, sympy.false):
        return bool(answer)
    return None


def _is_unbacked(symbol: Any) -> bool:
    """Whether a symbol stands for a size that depends on values, and not for a batch."""
    return str(symbol.name).startswith(("u", "zu", "zf"))


def _shape_env(value: torch.Tensor) -> Any:
    return value.fake_mode.shape_env  # type: ignore[attr-defined]


def _user_location(guard: Any) -> str:
    """The user's line that made torch guard, as far as torch tells."""
    place = str(guard.sloc.maybe_user_loc or "")
    match = re.search(r"(\S+\.py):(\d+) in (\S+)", place)
    if match is None or is_library(match.group(1)):
        return ""
    return location(match.group(1), int(match.group(2)), match.group(3))


def _asker() -> str:
    """The user's line that asked, itself or in torch.nn; empty for torch's own reckoning of shapes."""
    frame = sys._getframe(2)
    while frame.f_back is not None and _is_symbolic_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    asker = frame.f_code.co_filename
    if "/torch/" in asker and "/torch/nn/" not in asker:
        return ""
    while frame.f_back is not None and is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _is_symbolic_machinery(path: str) -> bool:
    return path.endswith("/torch/__init__.py") or "/torch/fx/experimental/" in path


def _tensors(args: tuple[Any, ...]) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
