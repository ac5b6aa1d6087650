"""The graph that is exported: a private flat copy, and the user's own line for each of its nodes."""

from __future__ import annotations

import re
import warnings
from importlib import metadata
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bnfold.errors import ExportError, InternalError
from bnfold.export import SIZE_LIMIT
from bnfold.signature import TensorSpec

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)(?:\n[ \t]+(.+))?')


class _Flat(nn.Module):
    """A module with a tuple of tensors as its result."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.body(*tensors)
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def private_copy(
    body: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    example: tuple[torch.Tensor, ...],
    dynamic_shapes: tuple[dict[int, Any], ...] | None = None,
) -> fx.GraphModule:
    """A copy of ``body`` as a graph of ATen operators. Weights are shared.

    A graph is copied as it is, so that its nodes keep the user's lines; another module is captured, with the
    ``dynamic_shapes`` of torch.export, one per input.

    Raises:
        ExportError: the arguments do not fit together (BNF-E011); an output that is no tensor (BNF-E006) or
            that depends on no input (BNF-E007).
    """
    if isinstance(body, fx.GraphModule):
        module = body
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns of every LSTM; nothing is lost by it
            shapes = None if dynamic_shapes is None else (dynamic_shapes,)  # for _Flat's one *tensors
            exported = torch.export.export(_Flat(body).eval(), example, dynamic_shapes=shapes)
        module = exported.module(check_guards=False)
    module = _plain(module)
    _check(module.graph, inputs, outputs, example)
    return module


def _plain(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with a flat tuple as its result and positional arguments, whatever its calling convention."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    nodes = module.graph.nodes
    for node in [n for n in nodes if n.op == "placeholder"] + [n for n in nodes if n.op != "placeholder"]:
        if node.op == "placeholder":
            env[node] = graph.placeholder(node.name)
            env[node].meta = dict(node.meta)
        elif node.op == "output":
            result = node.args[0]
            leaves = result if isinstance(result, tuple | list) else (result,)
            graph.output(tuple(env[leaf] if isinstance(leaf, fx.Node) else leaf for leaf in leaves))
        else:
            env[node] = graph.node_copy(node, lambda old: env[old])
    return fx.GraphModule(module, graph)


def without_user_names(module: fx.GraphModule) -> fx.GraphModule:
    """A copy, in eval mode, whose nodes know neither the user's files nor the names of the user's classes.

    The TFLite converter makes tensor names of them, which depend on how the model's code was imported. It is
    given the paths of the modules (``layer1.0.conv2``) in their place.
    """
    copy = _plain(module)
    for node in copy.graph.nodes:
        path = module_of(node) or "network"
        for key in ("source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
        node.meta["stack_trace"] = path  # without one, every tracing would walk the stack for each node
        if node.op == "call_function":
            node.meta["nn_module_stack"] = {path: (path, path)}
    copy.eval()
    return copy


class _Shapes(fx.Interpreter):
    """Runs a graph on fake tensors and leaves each node's result in ``meta["val"]``."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode) -> None:
        super().__init__(module)
        self.mode = mode

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, torch.Tensor) and not isinstance(result, FakeTensor):
            result = self.mode.from_tensor(result)
        if node.op != "output":
            node.meta["val"] = result
        return result


def propagate(module: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> None:
    """Give every node its ``meta["val"]``: shape and dtype, no values."""
    mode = FakeTensorMode()
    with torch.no_grad(), mode:
        _Shapes(module, mode).run(*(mode.from_tensor(tensor) for tensor in example))


def _check(
    graph: fx.Graph,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    example: tuple[torch.Tensor, ...],
) -> None:
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    results = graph.output_node().args[0]
    assert isinstance(results, tuple)
    counts = (len(placeholders), len(inputs), len(example)), (len(results), len(outputs))
    if len(set(counts[0])) != 1 or len(set(counts[1])) != 1:
        raise ExportError(
            "BNF-E011",
            f"the graph has {counts[0][0]} inputs and {counts[1][0]} outputs; named are {counts[0][1]} and "
            f"{counts[1][1]}, and there are {counts[0][2]} example tensors",
        )
    for specs in (inputs, outputs):
        names = [spec.name for spec in specs]
        for name in names:
            if names.count(name) > 1:
                raise ExportError("BNF-E011", f"two tensors are named {name!r}", where=name)
    alive = depends_on_input(graph)
    for spec, result in zip(outputs, results, strict=True):
        if not isinstance(result, fx.Node):
            raise ExportError(
                "BNF-E006",
                f"output {spec.name!r} is {result!r}, which is no tensor",
                where=f"output {spec.name!r}",
                fix="return tensors only from forward",
            )
        if result not in alive:
            raise ExportError(
                "BNF-E007",
                f"output {spec.name!r} is a constant: it depends on no input",
                where=line_of(result) or f"output {spec.name!r}",
                fix="leave it out of forward's result and keep it next to the model",
            )


def depends_on_input(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value changes with an input."""
    alive: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in alive for source in node.all_input_nodes):
            alive.add(node)
    return alive


def line_of(node: fx.Node) -> str:
    """The user's file and line that made this node, and the module's path; empty where nothing is known."""
    line = user_line(str(node.meta.get("stack_trace") or ""))
    module = module_of(node)
    return ", ".join(part for part in (f"module {module!r}" if module else "", line) if part)


def user_line(trace: str) -> str:
    """The innermost frame of a printed stack trace that is the user's own; empty if there is none."""
    frames = [frame for frame in _FRAME.findall(trace) if not _is_library(frame[0])]
    if not frames:
        return ""
    path, number, function, code = frames[-1]
    return f"{path}:{number}" + (f"  `{code.strip()}`" if code else "") + f"  in {function}"


def module_of(node: fx.Node) -> str:
    """The qualified name of the module that made this node; empty for the outermost."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
    return str(paths[-1]) if paths else ""


def _is_library(path: str) -> bool:
    return "/torch/" in path or "/bnfold/" in path or path.startswith("<")


def operator_name(target: Any) -> str:
    """``aten.grid_sampler_2d`` for ``torch.ops.aten.grid_sampler_2d.default``."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket)
    return str(getattr(target, "__name__", target))


def check_size(body: nn.Module, target: str) -> None:
    """Refuse before the work what cannot be one file.

    Raises:
        ExportError: the weights alone are larger than a file of the format can be (BNF-E002).
    """
    tensors = {id(tensor): tensor for tensor in (*body.parameters(), *body.buffers())}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > SIZE_LIMIT:
        raise ExportError(
            "BNF-E002",
            f"the weights are {size:,} bytes, and one {target} file holds at most 2 GB",
            where="the network",
            fix="a smaller network, or one in parts",
        )


def require_no_batch_norm(module: fx.GraphModule) -> None:
    """Refuse a graph that was not folded.

    Raises:
        InternalError: a BatchNorm is left in it (BNF-X042).
    """
    for node in module.graph.nodes:
        if node.op == "call_function" and "batch_norm" in operator_name(node.target):
            raise InternalError(
                "BNF-X042", "a BatchNorm is left in the graph to export", where=line_of(node) or node.name
            )


def library_versions(*distributions: str) -> dict[str, str]:
    """Installed versions, by name of the distribution; which build it is (``+cpu``) is left out."""
    return {name: metadata.version(name).partition("+")[0] for name in distributions}
