"""Work that litert-torch repeats, done once or not at all while it writes one file. The file stays the same.

Some things cost more than the conversion of a small network itself. litert-torch calls ``run_decompositions``
two or three times, and each time that

- asks the dispatcher for every operator of every namespace, to learn which have a composite kernel, and for
  all composite kernels once per namespace;
- gives each of these operators, about 500, a kernel of its own on every device that torch knows;
- writes and compiles the Python code of each graph that it makes on the way, though most are never run.

And a permutation, a copy or a view, of which the change of layouts makes two to four per convolution, is
lowered by tracing, compiling and parsing a JAX program, though litert-torch has a line of MLIR for each.

All these are internals, of torch (2.13) and of litert-torch (0.10.0, which the package requires exactly).
What is not found where it was is left as it is: nothing is faster then, and nothing breaks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

Lowering = Callable[..., Any]

_DIRECT = {
    torch.ops.aten.permute.default: "_aten_permute",
    torch.ops.aten.clone.default: "_aten_clone",
    torch.ops.aten.view.default: "_aten_view",
}


@contextlib.contextmanager
def swift(module: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> Iterator[None]:
    """Let litert-torch convert ``module`` faster in this block.

    All is put back on leaving, on exceptions too. Like :func:`~bnfold.export.quiet.quiet` it holds for the
    whole process.
    """
    with contextlib.ExitStack() as stack:
        _collect_once(stack)
        _override_on(_devices(module, example), stack)
        _compile_when_run(stack)
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
        with contextlib.ExitStack() as stack:
            _find_once(stack)
            known[registered] = collect()
    return known[registered]


def _find_once(stack: contextlib.ExitStack) -> None:
    """Let one collection find the composite operators once, not once per namespace."""
    from torch._export import utils

    name = "_materialize_cpp_cia_ops"
    find: Callable[[], None] | None = getattr(utils, name, None)
    if find is not None:
        stack.callback(setattr, utils, name, find)
        setattr(utils, name, functools.cache(find))


def _devices(module: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> set[str]:
    """The types of the devices that a tensor can be on while ``module`` is traced."""
    written = pytree.tree_leaves([(node.args, node.kwargs) for node in module.graph.nodes])
    devices = [leaf for leaf in written if isinstance(leaf, torch.device)]
    devices += [tensor.device for tensor in (*module.parameters(), *module.buffers(), *example)]
    return {"cpu", "meta", *(device.type for device in devices)}


def _override_on(devices: set[str], stack: contextlib.ExitStack) -> None:
    """Give composite operators their kernels for these devices alone."""
    from torch.export import exported_program

    wanted = {torch._C._dispatch_key_for_device(device) for device in devices}
    for name, prefix in (
        ("_AUTOGRAD_ALIAS_BACKEND_KEYS_TO_OVERRIDE", "Autograd"),
        ("_BACKEND_KEYS_TO_OVERRIDE", ""),
    ):
        keys: list[Any] | None = getattr(exported_program, name, None)
        if keys is not None:
            stack.callback(setattr, exported_program, name, keys)
            fewer = [key for key in keys if key.name.removeprefix(prefix) in wanted]
            setattr(exported_program, name, fewer)


def _compile_when_run(stack: contextlib.ExitStack) -> None:
    """Compile a traced graph when it is first run, as torch.compile does."""
    from torch.fx import _lazy_graph_module

    lazily: Callable[[bool], Any] | None = getattr(_lazy_graph_module, "_use_lazy_graph_module", None)
    if lazily is not None:
        stack.enter_context(lazily(True))


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
