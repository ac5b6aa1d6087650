"""Module -> ATen graph, by torch.export, in a form that every later stage can rely on.

The captured body takes flat tensors and returns a flat tuple of tensors. It has no guards, no assertions, no
operators that do nothing in eval mode, and no mutation: an operator writes to nothing but its own result.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfold import graph as g
from bnfold.errors import CaptureError, UsageError
from bnfold.signature import TensorSpec

aten = torch.ops.aten


@dataclass(frozen=True)
class Structure:
    """How a module's own arguments and results map to flat tensors.

    Attributes:
        signature: of the module's forward.
        in_spec: pytree of ``(args, kwargs)`` as they were at capture.
        out_spec: pytree of the result.
        constants: leaves of the result that are no tensors (None, numbers), by position.
        inputs, outputs: the tensors.
    """

    signature: inspect.Signature
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    constants: dict[int, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constant_names: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # a TreeSpec cannot be pickled without a warning from torch
        return {**self.__dict__, "in_spec": _encode(self.in_spec), "out_spec": _encode(self.out_spec)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        decoded = {key: _decode(state[key]) for key in ("in_spec", "out_spec")}
        self.__dict__.update({**state, **decoded})

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors among the arguments, checked against what was captured.

        Raises:
            UsageError: another structure (BNF-U020) or shape (BNF-U021).
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError("BNF-U020", f"forward{self.signature}: {error}", where="inputs") from error
        leaves, spec = pytree.tree_flatten((bound.args, bound.kwargs))
        if spec != self.in_spec:
            names = ", ".join(spec.name for spec in self.inputs)
            raise UsageError(
                "BNF-U020",
                "the arguments have another structure than at capture",
                where=f"inputs captured: {names}",
                fix="pass the same arguments, in the same nesting, or convert again with these",
            )
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        for spec_, tensor in zip(self.inputs, tensors, strict=True):
            if not spec_.accepts(tuple(tensor.shape)):
                raise UsageError(
                    "BNF-U021",
                    f"input {spec_.name!r} has shape {tuple(tensor.shape)}; the graph was captured for "
                    f"{spec_.describe()}",
                    where=f"input {spec_.name!r}",
                    fix="convert again with example inputs of this shape, or with a dynamic batch",
                )
        return tensors

    def unflatten(self, tensors: list[torch.Tensor] | tuple[torch.Tensor, ...]) -> Any:
        """The module's own result from the flat outputs."""
        rest = iter(tensors)
        count = len(self.constants) + len(tensors)
        leaves = [self.constants[i] if i in self.constants else next(rest) for i in range(count)]
        return pytree.tree_unflatten(leaves, self.out_spec)


def _encode(spec: pytree.TreeSpec) -> Any:
    if spec.is_leaf():
        return None
    return spec.type, spec.context, [_encode(child) for child in spec.children()]


def _decode(encoded: Any) -> pytree.TreeSpec:
    if encoded is None:
        return pytree.treespec_leaf()
    kind, context, children = encoded
    return pytree.TreeSpec(kind, context, [_decode(child) for child in children])


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
    in_names = [_input_name(path, signature) for path, leaf in paths if isinstance(leaf, torch.Tensor)]
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
        where = _user_line_of(error)
        raise CaptureError(
            "BNF-C004",
            f"forward failed on the example inputs: {type(error).__name__}: {_first_line(str(error))}",
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
        with warnings.catch_warnings(), _silent_logs(), _silent_streams():
            # torch.export warns of attributes assigned while tracing (every LSTM); nothing is lost by it
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, args, dynamic_shapes=shapes)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        raise _explain(error) from error
    if dynamic_batch:
        _require_symbolic_batch(exported)
    return exported


@contextlib.contextmanager
def _silent_logs() -> Iterator[None]:
    """torch logs whole graphs before it raises; what matters of them is in the exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _silent_streams() -> Iterator[None]:
    """The same for what torch prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


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


def _explain(error: Exception) -> CaptureError:
    """The failure of torch.export in the user's terms."""
    text = str(error)
    where = _user_line(text) or _user_line_of(error) or "forward"
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in text or "Dynamic control flow" in text:
        return CaptureError(
            "BNF-C001",
            "a branch depends on tensor values; torch.export cannot capture it",
            where=where,
            fix="use torch.where or torch.cond, or make the choice before the export",
        )
    if "Constraints violated" in text or "specialized" in text:
        return CaptureError(
            "BNF-C002",
            "the model fixes the size of its batch",
            where=where,
            fix="convert without a dynamic batch, or compute shapes from x.shape[0] in forward",
        )
    if "UnsupportedOperator" in kind or "fake impl" in text or "not supported" in text.lower():
        return CaptureError(
            "BNF-C003",
            f"torch.export does not know an operator: {_first_line(text)}",
            where=where,
            fix="replace the operator by one that torch.export knows",
        )
    return CaptureError(
        "BNF-C009",
        f"torch.export failed: {kind}: {_first_line(text)}",
        where=where,
        fix="the whole message is shown with --traceback",
    )


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else "no message"


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)(?:\n\s+(.+))?')


def _is_library(path: str) -> bool:
    return "/torch/" in path or "/contextlib.py" in path or "/bnfold/" in path or path.startswith("<")


def _user_line(text: str) -> str:
    """The innermost frame outside torch of a stack trace in a message."""
    frames = [match for match in _FRAME.finditer(text) if not _is_library(match.group(1))]
    if not frames:
        return ""
    path, line, function, code = frames[-1].groups()
    return f"{path}:{line}" + (f"  `{code.strip()}`" if code else "") + f"  in {function}"


def _user_line_of(error: BaseException) -> str:
    import traceback

    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    if not frames:
        return ""
    frame = frames[-1]
    return f"{frame.filename}:{frame.lineno}  `{(frame.line or '').strip()}`  in {frame.name}"


def _input_name(path: tuple[Any, ...], signature: inspect.Signature) -> str:
    """The name of forward's parameter, with the key path behind it: ``x``, ``batch.image``, ``xs.0``."""
    position = path[1].idx
    parameters = list(signature.parameters.values())
    variadic = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_POSITIONAL), None)
    if variadic is not None and position >= variadic:
        head = [parameters[variadic].name, str(position - variadic)]
    else:
        head = [parameters[position].name]
    return ".".join(head + [_key(part) for part in path[2:]])


def _key(part: Any) -> str:
    if isinstance(part, pytree.SequenceKey):
        return str(part.idx)
    if isinstance(part, pytree.MappingKey):
        return str(part.key)
    return str(getattr(part, "name", part))


def _output_names(spec: pytree.TreeSpec) -> list[str]:
    template = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = pytree.tree_flatten_with_path(template)[0]
    names = [".".join(_key(part) for part in path) for path, _ in paths]
    return [name or "output" for name in names] if len(names) == 1 else names


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
    out_names = _output_names(out_spec)
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


_NO_OPERATION = {
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
    aten.clone.default,
}
_DROPOUT = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.feature_alpha_dropout.default,
}
_ASSERTIONS = {
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}


def tidy(body: fx.GraphModule) -> None:
    """Remove assertions and operators that do nothing in eval mode; make every operator functional.

    Raises:
        CaptureError: forward writes to the module's state (BNF-C005), or through a view (BNF-C006).
    """
    for node in list(body.graph.nodes):
        if (node.op == "call_module" and node.target == "_guards_fn") or (
            node.op == "call_function" and node.target in _ASSERTIONS
        ):
            body.graph.erase_node(node)
    _make_functional(body.graph)
    for node in list(body.graph.nodes):
        if _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
            body.graph.erase_node(node)
    g.clean(body)


def _does_nothing(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target in _NO_OPERATION:
        return True
    if node.target in _DROPOUT:
        arguments = g.arguments(node)
        return not arguments["train"] or arguments["p"] == 0
    if node.target in (aten.to.dtype, aten._to_copy.default, aten.to.device, aten.to.dtype_layout):
        source = node.args[0]
        return (
            isinstance(source, fx.Node)
            and g.value(node).dtype == g.value(source).dtype
            and g.value(node).device == g.value(source).device
        )
    return False


def _make_functional(graph: fx.Graph) -> None:
    """Replace ``relu_(x)`` by ``relu(x)``, and every later reading of x by the result."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        target = node.args[0]
        line = _user_line(node.meta.get("stack_trace") or "") or node.name
        if not isinstance(target, fx.Node) or target.op == "get_attr":
            name = target.target if isinstance(target, fx.Node) else schema.name
            if isinstance(target, fx.Node) and _is_bookkeeping(target, node):
                graph.erase_node(node)
                continue
            raise CaptureError(
                "BNF-C005",
                f"forward writes to the module's own {name!r} in eval mode",
                where=line,
                fix="a converted network keeps no state: return the value, or take it as an input",
            )
        later = [user for user in target.users if order.get(user, -1) > order[node]]
        if _shares_storage(target, order[node], order):
            raise CaptureError(
                "BNF-C006",
                f"{schema.name} writes through a view that is read elsewhere",
                where=line,
                fix="write the result into a new tensor (torch.cat, torch.where), not into a slice",
            )
        functional = _functional_overload(node, line)
        with graph.inserting_before(node):
            new = graph.call_function(functional, node.args, node.kwargs)
        new.meta = dict(node.meta)
        order[new] = order[node]
        for user in later:
            if user is not node:
                user.replace_input_with(target, new)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _is_bookkeeping(state: fx.Node, writer: fx.Node) -> bool:
    """A counter that is written and never read, such as num_batches_tracked."""
    return not writer.users and all(user is writer for user in state.users)


def _shares_storage(target: fx.Node, position: int, order: dict[fx.Node, int]) -> bool:
    """Whether a view links ``target`` to another value that is read after ``position``."""

    def is_view(node: fx.Node) -> bool:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or schema.is_mutable:
            return False
        return any(argument.alias_info is not None for argument in schema.arguments)

    def read_later(node: fx.Node) -> bool:
        return any(order.get(user, position + 1) > position for user in node.users)

    def derived(node: fx.Node) -> Iterator[fx.Node]:
        for user in node.users:
            if is_view(user):
                yield user
                yield from derived(user)

    if target.op == "placeholder":
        return read_later(target) and len(target.users) > 1 and any(derived(target))
    if any(order.get(view, position) < position and read_later(view) for view in derived(target)):
        return True
    if is_view(target):
        base = target.args[0]
        if isinstance(base, fx.Node):
            return any(order.get(user, position + 1) > position for user in base.users)
    return False


def _functional_overload(node: fx.Node, line: str) -> Any:
    target = node.target
    name, overload = target._opname, target._overloadname  # type: ignore[union-attr]
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    functional = getattr(packet, overload, None) if packet is not None else None
    if functional is None or functional._schema.is_mutable:
        raise CaptureError(
            "BNF-C007",
            f"{target} writes in place and has no functional form",
            where=line,
            fix="use the form without the trailing underscore",
        )
    return functional


__all__ = ["Captured", "Structure", "capture"]
