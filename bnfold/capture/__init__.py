"""Module -> ATen graph, by torch.export, in a form that every later stage can rely on.

The captured body takes flat tensors and returns a flat tuple of tensors. It has no guards, no assertions, no
operators that do nothing in eval mode, and no mutation: an operator writes to nothing but its own result.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfold import graph as g
from bnfold.capture.failures import explain, first_line, silent, user_line_of
from bnfold.capture.structure import Structure, input_name, output_names
from bnfold.capture.tidy import tidy
from bnfold.errors import CaptureError, UsageError
from bnfold.signature import TensorSpec


@dataclass(frozen=True)
class Captured:
    """A module in eval mode as a graph.

    Attributes:
        body: flat tensors in, flat tuple of tensors out. Placeholders are in the order of ``inputs``.
        structure: how the module's own arguments and results map to the flat ones.
        example: the flat example inputs.
        batch_norm_modules: qualified names of the BatchNorm modules (a functional call is named otherwise).
        dynamic_batch: whether the batch axis is symbolic.
    """

    body: fx.GraphModule
    structure: Structure
    example: tuple[torch.Tensor, ...]
    batch_norm_modules: frozenset[str] = field(default_factory=frozenset)
    dynamic_batch: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.structure.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.structure.outputs

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> list[torch.Tensor]:
        """The module's own arguments as flat tensors (see :meth:`Structure.flatten`)."""
        return self.structure.flatten(args, kwargs or {})

    def unflatten(self, tensors: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> Any:
        """The module's own result from the flat outputs."""
        return self.structure.unflatten(tensors)

    def twin(self) -> fx.GraphModule:
        """The unedited graph in float64: the oracle. Floating inputs must be float64."""
        return g.float64_twin(self.body)


def capture(module: nn.Module, example_inputs: tuple[Any, ...], *, dynamic_batch: bool = False) -> Captured:
    """Capture ``module`` in eval mode; its mode is left as it was.

    Args:
        module: any module; one in training mode is captured as in eval mode.
        example_inputs: positional arguments of ``forward``: tensors, or nests of tensors. The first axis of
            each tensor is the batch.
        dynamic_batch: keep the batch axis symbolic. Every tensor input must have one.

    Raises:
        UsageError: no tensor among the inputs (BNF-U022).
        CaptureError: control flow that depends on values (BNF-C001), a batch axis that the model fixes
            (BNF-C002), an operator that torch.export does not know (BNF-C003), a forward that fails by
            itself (BNF-C004), state written by forward (BNF-C005), writing through a view (BNF-C006), any
            other failure (BNF-C009).
    """
    if not isinstance(example_inputs, tuple):
        raise UsageError(
            "BNF-U022", "example_inputs must be a tuple of forward's arguments", fix="fold(module, (x,))"
        )
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*example_inputs)
    except TypeError as error:
        raise UsageError("BNF-U020", f"forward{signature}: {error}", where="example inputs") from error
    example_inputs = bound.args
    paths, in_spec = pytree.tree_flatten_with_path((example_inputs, {}))
    example = tuple(leaf for _, leaf in paths if isinstance(leaf, torch.Tensor))
    if not example:
        raise UsageError("BNF-U022", "there is no tensor among the example inputs", where="example_inputs")
    if dynamic_batch:
        example_inputs, example = _at_least_two_frames(example_inputs, example)
    with _eval_mode(module), torch.no_grad():
        _require_it_runs(module, example_inputs)
        exported = _export(module, example_inputs, dynamic_batch)
    body = exported.module(check_guards=False)
    in_names = [input_name(path, signature) for path, leaf in paths if isinstance(leaf, torch.Tensor)]
    _name_layers(body, module)
    body, structure = _flat(body, exported, signature, in_spec, in_names, example, dynamic_batch)
    modules = frozenset(
        name
        for name, child in module.named_modules(remove_duplicate=False)
        if isinstance(child, nn.modules.batchnorm._NormBase)
    )
    return Captured(body, structure, example, modules, dynamic_batch)


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def _at_least_two_frames(args: tuple[Any, ...], example: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """torch.export takes a batch of one for a constant, so a symbolic batch is captured with two."""
    if any(tensor.ndim == 0 for tensor in example):
        raise UsageError(
            "BNF-U023", "an input without axes cannot have a dynamic batch", where="example_inputs"
        )

    def widen(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and len(leaf) == 1 else leaf

    return pytree.tree_map(widen, args), tuple(widen(tensor) for tensor in example)


def _require_it_runs(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Tell a forward that fails by itself from one that only cannot be captured."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a model warns of is its owner's business, not a failure
            module(*args)
    except Exception as error:
        where = user_line_of(error)
        raise CaptureError(
            "BNF-C004",
            f"forward failed on the example inputs: {type(error).__name__}: {first_line(str(error))}",
            where=where or type(module).__name__,
            fix="check the input shapes; the model itself does not run on them",
        ) from error


def _export(module: nn.Module, args: tuple[Any, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    shapes: Any = None
    if dynamic_batch:
        shapes = pytree.tree_map(
            lambda leaf: {0: torch.export.Dim.DYNAMIC} if isinstance(leaf, torch.Tensor) else None, args
        )
    try:
        with warnings.catch_warnings(), silent():
            # torch.export warns of attributes assigned while tracing (every LSTM); nothing is lost by it
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, args, dynamic_shapes=shapes)
    except Exception as error:
        raise explain(error, module.forward) from error
    if dynamic_batch:
        _require_symbolic_batch(exported)
    return exported


def _require_symbolic_batch(exported: torch.export.ExportedProgram) -> None:
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        is_input = node.op == "placeholder" and node.name in exported.graph_signature.user_inputs
        if is_input and isinstance(value, torch.Tensor) and isinstance(value.shape[0], int):
            raise CaptureError(
                "BNF-C002",
                f"the model fixes the batch of input {node.name!r} at {value.shape[0]}",
                where=node.name,
                fix="convert without a dynamic batch, or compute shapes from x.shape[0] in forward",
            )


def _flat(
    body: fx.GraphModule,
    exported: torch.export.ExportedProgram,
    signature: inspect.Signature,
    in_spec: pytree.TreeSpec,
    in_names: list[str],
    example: tuple[torch.Tensor, ...],
    dynamic_batch: bool,
) -> tuple[fx.GraphModule, Structure]:
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    names = iter(in_names)
    results: list[Any] = []
    for node in body.graph.nodes:
        if node.op == "placeholder":
            if not isinstance(node.meta.get("val"), torch.Tensor):
                continue  # a number or None among the arguments: its value is in the graph already
            env[node] = graph.placeholder(_identifier(next(names)))
            env[node].meta = dict(node.meta)
        elif node.op == "output":
            results = pytree.tree_leaves(node.args[0], is_leaf=lambda leaf: leaf is None)
        else:
            env[node] = graph.node_copy(node, lambda n: env[n])
    out_spec = exported.call_spec.out_spec
    assert out_spec is not None
    out_names = output_names(out_spec)
    constants = {i: leaf for i, leaf in enumerate(results) if not isinstance(leaf, fx.Node)}
    tensors = [(out_names[i], env[leaf]) for i, leaf in enumerate(results) if isinstance(leaf, fx.Node)]
    graph.output(tuple(node for _, node in tensors))
    attributes = {
        str(node.target): g.fetch(body, str(node.target)) for node in graph.nodes if node.op == "get_attr"
    }
    flat = fx.GraphModule(attributes, graph, "Body")
    tidy(flat)
    outputs = flat.graph.output_node().args[0]
    assert isinstance(outputs, tuple)
    structure = Structure(
        signature=signature,
        in_spec=in_spec,
        out_spec=out_spec,
        constants=constants,
        inputs=tuple(
            TensorSpec(name, _shape(tensor.shape, dynamic_batch), g.dtype_name(tensor.dtype))
            for name, tensor in zip(in_names, example, strict=True)
        ),
        outputs=tuple(
            TensorSpec(name, _shape(g.value(node).shape), g.dtype_name(g.value(node).dtype))
            for (name, _), node in zip(tensors, outputs, strict=True)
        ),
        constant_names=tuple(out_names[i] for i in constants),
    )
    return flat, structure


def _name_layers(body: fx.GraphModule, module: nn.Module) -> None:
    """Note at each operator the layer it is: a module without children, or a call between layers."""
    layers = {
        name
        for name, child in module.named_modules(remove_duplicate=False)
        if name and not any(part != "parametrizations" for part, _ in child.named_children())
    }
    for node in body.graph.nodes:
        if node.op == "call_function":
            path, kind = g.module_path(node), g.operator_name(node)
            node.meta["layer"] = path if path in layers else f"{path}.{kind}" if path else kind


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _shape(shape: torch.Size, dynamic_batch: bool = False) -> tuple[int | None, ...]:
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return (None, *sizes[1:]) if dynamic_batch else sizes


__all__ = ["Captured", "Structure", "capture"]
