"""Module -> ATen graph, by torch.export, in a form that every later stage can rely on.

The captured body takes flat tensors and returns a flat tuple of tensors. It has no guards, no assertions, no
operators that do nothing in eval mode, and no mutation: an operator writes to nothing but its own result.
"""

from __future__ import annotations

import inspect
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfold import graph as g
from bnfold.capture.batch import at_least_two_frames, decisions, one_frame, require_any_batch, symbolic_shapes
from bnfold.capture.failures import definition, explain, silent, user_line
from bnfold.capture.isolation import fresh, in_eval_mode, private_copy, run
from bnfold.capture.regions import inline_regions
from bnfold.capture.replay import refuse_fixed_batch, require_same_answer
from bnfold.capture.structure import Structure, input_name, output_names
from bnfold.capture.tidy import tidy
from bnfold.errors import CaptureError, UsageError
from bnfold.signature import TensorSpec
from bnfold.statistics.layers import is_batch_norm


@dataclass(frozen=True)
class Captured:
    """A module in eval mode as a graph.

    Attributes:
        body: flat tensors in, flat tuple of tensors out. Placeholders are in the order of ``inputs``.
        structure: how the module's own arguments and results map to the flat ones.
        example: the flat example inputs.
        batch_norm_modules: qualified names of the BatchNorm modules (a functional call is named otherwise).
        statistics_modules: qualified names of modules of other classes that hold a running mean and variance.
        dynamic_batch: whether the batch axis is symbolic.
    """

    body: fx.GraphModule
    structure: Structure
    example: tuple[torch.Tensor, ...]
    batch_norm_modules: frozenset[str] = field(default_factory=frozenset)
    dynamic_batch: bool = False
    statistics_modules: frozenset[str] = field(default_factory=frozenset)

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
    """Capture ``module`` in eval mode. Neither it nor the example inputs are touched.

    Args:
        module: any module; one in training mode is captured as in eval mode.
        example_inputs: positional arguments of ``forward``: tensors, or nests of tensors. The first axis of
            each tensor is the batch.
        dynamic_batch: keep the batch axis symbolic. Every tensor input must have one.

    Raises:
        UsageError: arguments that do not fit forward (BNF-U020), no tensor among them (BNF-U022), an input
            without a batch axis (BNF-U023).
        CaptureError: control flow that depends on values (BNF-C001), a batch that the model fixes or decides
            by (BNF-C002), an operator that torch.export does not know (BNF-C003), a forward that fails by
            itself (BNF-C004), state that forward keeps (BNF-C005), writing through a view (BNF-C006), without
            a functional form (BNF-C007) or over what is being read (BNF-C013), autocast (BNF-C008), a number
            computed among the outputs (BNF-C010), a graph that does not compute what forward computes
            (BNF-C011), a module that cannot be copied (BNF-C012), any other failure (BNF-C009).
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
    args = fresh(bound.args)
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(args)):
        raise UsageError("BNF-U022", "there is no tensor among the example inputs", where="example_inputs")
    given, args = args, at_least_two_frames(args) if dynamic_batch else args
    private = in_eval_mode(module)
    arguments = Arguments(args, signature, tuple(bound.arguments))
    try:
        exported = _export(private, arguments, dynamic_batch)
    except CaptureError as error:
        if dynamic_batch and error.code == "BNF-C004":
            refuse_fixed_batch(private, given, error)
        raise
    body = exported.module(check_guards=False)
    inline_regions(body, definition(module.forward))
    _name_layers(body, module)
    body, structure = _flat(body, exported, arguments, dynamic_batch)
    modules = dict(module.named_modules(remove_duplicate=False))
    torchs = {name for name, child in modules.items() if isinstance(child, nn.modules.batchnorm._NormBase)}
    others = {name for name, child in modules.items() if is_batch_norm(child)} - torchs
    captured = Captured(
        body,
        structure,
        arguments.tensors,
        frozenset(torchs),
        dynamic_batch,
        statistics_modules=frozenset(others),
    )
    require_same_answer(captured, private, args)
    if dynamic_batch:
        require_same_answer(captured, private, one_frame(args), alone=True)
    return captured


@dataclass(frozen=True)
class Arguments:
    """The example arguments of forward, and what they are called."""

    args: tuple[Any, ...]
    signature: inspect.Signature
    given: tuple[str, ...]

    @property
    def paths(self) -> list[tuple[Any, Any]]:
        return list(pytree.tree_flatten_with_path((self.args, {}))[0])

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(leaf for _, leaf in self.paths if isinstance(leaf, torch.Tensor))

    @property
    def names(self) -> list[str]:
        return [
            input_name(path, self.signature) for path, leaf in self.paths if isinstance(leaf, torch.Tensor)
        ]


def _export(module: nn.Module, arguments: Arguments, dynamic_batch: bool) -> torch.export.ExportedProgram:
    args = fresh(arguments.args)
    shapes = symbolic_shapes(arguments.signature, args) if dynamic_batch else None
    where = definition(module.forward)
    try:
        with warnings.catch_warnings(), silent(), torch.no_grad(), decisions() as asked:
            # torch.export warns of attributes assigned while tracing (every LSTM); that nothing is lost by
            # it is seen when forward runs
            warnings.simplefilter("ignore")
            exported = torch.export.export(private_copy(module), args, dynamic_shapes=shapes)
    except Exception as error:
        # Tell a forward that fails by itself from one that only cannot be captured. Nothing of it is kept, so
        # the memory for a whole copy is there, and a forward that writes to its parameters may.
        run(private_copy(module, share_parameters=False), args)
        raise explain(error, module.forward) from error
    if dynamic_batch:
        require_any_batch(exported, asked, where, arguments.names)
    return exported


def _flat(
    body: fx.GraphModule,
    exported: torch.export.ExportedProgram,
    arguments: Arguments,
    dynamic_batch: bool,
) -> tuple[fx.GraphModule, Structure]:
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    names = iter(arguments.names)
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
    for name, leaf in zip(out_names, results, strict=True):
        _require_tensor(name, leaf)
    constants = {i: leaf for i, leaf in enumerate(results) if not isinstance(leaf, fx.Node)}
    tensors = [(out_names[i], env[leaf]) for i, leaf in enumerate(results) if isinstance(leaf, fx.Node)]
    graph.output(tuple(node for _, node in tensors))
    attributes = {
        str(node.target): g.fetch(body, str(node.target)) for node in graph.nodes if node.op == "get_attr"
    }
    flat = fx.GraphModule(attributes, graph, "Body")
    shared = tidy(flat)
    outputs = flat.graph.output_node().args[0]
    assert isinstance(outputs, tuple)
    structure = Structure(
        signature=arguments.signature,
        in_spec=pytree.tree_structure((arguments.args, {})),
        out_spec=out_spec,
        constants=constants,
        inputs=tuple(
            TensorSpec(name, _shape(tensor.shape, dynamic_batch), g.dtype_name(tensor.dtype))
            for name, tensor in zip(arguments.names, arguments.tensors, strict=True)
        ),
        outputs=tuple(
            TensorSpec(name, _shape(g.value(node).shape), g.dtype_name(g.value(node).dtype))
            for (name, _), node in zip(tensors, outputs, strict=True)
        ),
        constant_names=tuple(out_names[i] for i in constants),
        given=arguments.given,
        scalars={
            i: leaf for i, (_, leaf) in enumerate(arguments.paths) if not isinstance(leaf, torch.Tensor)
        },
        shared_outputs=shared,
    )
    return flat, structure


def _require_tensor(name: str, leaf: Any) -> None:
    if isinstance(leaf, fx.Node) and not isinstance(leaf.meta.get("val"), torch.Tensor):
        raise CaptureError(
            "BNF-C010",
            f"output {name!r} is a number that forward computes from the input or its size",
            where=user_line(leaf.meta.get("stack_trace") or "") or f"output {name!r}",
            fix="return a tensor, or leave it out: the batch is the first axis of the other outputs",
        )


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
