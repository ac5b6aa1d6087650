"""Work that litert-torch repeats, done once or not at all while it writes one file. The file stays the same.

Two things cost more than the conversion of a small network itself. ``run_decompositions`` asks the dispatcher
for every operator of every namespace, to learn which have a composite kernel, and litert-torch calls it three
times. And a permutation, a copy or a view, of which the change of layouts makes two to four per convolution,
is lowered by tracing, compiling and parsing a JAX program, though litert-torch has a line of MLIR for each.

Both are internals, of torch (2.13) and of litert-torch (0.10.0, which the package requires exactly). What is
not found where it was is left as it is: nothing is faster then, and nothing breaks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

Lowering = Callable[..., Any]

_DIRECT = {
    torch.ops.aten.permute.default: "_aten_permute",
    torch.ops.aten.clone.default: "_aten_clone",
    torch.ops.aten.view.default: "_aten_view",
}


@contextlib.contextmanager
def swift() -> Iterator[None]:
    """Let litert-torch convert faster in this block. All is put back on leaving, on exceptions too.

    Like :func:`~bnfold.export.quiet.quiet` it holds for the whole process.
    """
    with contextlib.ExitStack() as stack:
        _collect_once(stack)
        _lower_directly(stack)
        yield


def _collect_once(stack: contextlib.ExitStack) -> None:
    """Keep the set of composite operators for as long as no operator is registered."""
    from torch.export import decomp_utils, exported_program

    name = "_collect_all_valid_cia_ops"
    known: dict[int, set[Any]] = {}
    for module in (decomp_utils, exported_program):
        collect: Callable[[], set[Any]] | None = getattr(module, name, None)
        if collect is not None:
            stack.callback(setattr, module, name, collect)
            setattr(module, name, functools.partial(_collected, known, collect))


def _collected(known: dict[int, set[Any]], collect: Callable[[], set[Any]]) -> set[Any]:
    registered = len(torch._C._dispatch_get_all_op_names())
    if registered not in known:
        known[registered] = collect()
    return known[registered]


def _lower_directly(stack: contextlib.ExitStack) -> None:
    """Lower permutations, copies and views of fixed shape by litert-torch's own functions for MLIR."""
    from litert_torch.backend.lowerings import _basic, registry

    table = registry.global_registry.registered_ops
    for operator, name in _DIRECT.items():
        lowering, replaced = getattr(_basic, name, None), table.get(operator)
        if lowering is not None and replaced is not None:
            stack.callback(table.__setitem__, operator, replaced)
            table[operator] = functools.partial(_lowered, lowering, replaced)


def _lowered(direct: Lowering, general: Lowering, *arguments: Any, **options: Any) -> Any:
    """``sizes`` are the axes of a permutation or the shape of a view."""
    _, _, *sizes = arguments  # after the context and the value
    fixed = all(isinstance(size, int) and size >= 0 for group in sizes for size in group)
    return (direct if fixed else general)(*arguments, **options)
