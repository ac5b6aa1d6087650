"""The converters' exceptions in the user's terms: which operator, which line of the model, what to do."""

from __future__ import annotations

import re
import traceback

from torch import fx

from bnfold.errors import BnfoldError, ExportError
from bnfold.export.source import line_of, operator_name, user_line

_OPERATOR = re.compile(r"\b((?:aten|prims|torchvision|higher_order)[.:]{1,2}\w+)")
_STATEMENT = re.compile(r'File "<eval_with_key>[^"]*", line \d+, in \w+\n\s+(\w+)\s*=')
_LOCATION = re.compile(r"<eval_with_key>[^:\"]*:(\d+)")
_FX_NODE = re.compile(r"%(\w+) : (?:\[num_users|.*call_function)")
_SELECT_OPS = re.compile(r"TF Select ops: ([\w, ]+)")
_ILLEGAL = re.compile(r"failed to legalize operation '([\w.]+)'")
_NOISE = re.compile(
    r"^(traceback|file |use tlparse|while executing|original traceback|\(refer|from user code)", re.I
)


def explain(error: Exception, module: fx.GraphModule, target: str) -> BnfoldError:
    """An ExportError for whatever the exporter of ``target`` (``onnx`` or ``tflite``) raised.

    BNF-E004 where an operator of the model can be named, else BNF-E005.
    """
    if isinstance(error, BnfoldError):
        return error
    chain = _chain(error)
    text = "\n".join(chain)
    node = _handled_node(error, module) or _node(text, module)
    operator = _operator(text, node)
    fix = "replace the operator in the model" + ("" if target == "onnx" else ", or use --to onnx")
    result: ExportError
    if operator:
        result = ExportError(
            "BNF-E004",
            f"{operator} cannot be written as {target}: {_first_line(text)}",
            where=(line_of(node) if node is not None else user_line(text)) or operator,
            fix=fix,
        )
    else:
        result = ExportError(
            "BNF-E005",
            f"the {target} exporter failed: {type(error).__name__}: {_first_line(text)}",
            where=line_of(node) if node is not None else user_line(text),
            fix="the whole message is shown with --traceback"
            + ("" if target == "onnx" else "; try --to onnx"),
        )
    for note in getattr(error, "__notes__", []):
        result.add_note(note)
    return result


def _chain(error: BaseException | None) -> list[str]:
    """Messages of the error and of what caused it, the cause first: it is the one that names the operator."""
    texts: list[str] = []
    while error is not None and len(texts) < 6:
        texts.insert(0, str(error))
        error = error.__cause__ or error.__context__
    return texts


def _handled_node(error: BaseException | None, module: fx.GraphModule) -> fx.Node | None:
    """The node of our graph that the exporter was translating when it failed.

    The exporters work on copies whose operators are taken apart further, and their messages name the parts.
    The frames that the exception came through hold the part, and torch notes what each part was made of.
    """
    by_name: dict[str, fx.Node] = {node.name: node for node in module.graph.nodes}
    found: fx.Node | None = None
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, fx.Node) and value.op == "call_function":
                    found = by_name.get(_origin(value)) or found
        error = error.__cause__ or error.__context__
    return found


def _origin(part: fx.Node) -> str:
    """Name of the node that a part was made of; of the oldest that is known."""
    name, sources = part.name, part.meta.get("from_node") or []
    while sources:
        name, sources = sources[-1].name, sources[-1].from_node or []
    return name


def _node(text: str, module: fx.GraphModule) -> fx.Node | None:
    """The node of our graph that the message speaks of.

    The exporters capture the graph again, so they report the line of its generated code, or an operator.
    """
    nodes: list[fx.Node] = list(module.graph.nodes)
    by_name = {node.name: node for node in nodes}
    for match in (*_STATEMENT.finditer(text), *_FX_NODE.finditer(text)):
        if match.group(1) in by_name:
            return by_name[match.group(1)]
    for match in _LOCATION.finditer(text):
        lines = module.code.splitlines()
        statement = lines[int(match.group(1)) - 1] if int(match.group(1)) <= len(lines) else ""
        name = statement.split("=")[0].strip()
        if name in by_name:
            return by_name[name]
    for match in _OPERATOR.finditer(text):
        wanted = match.group(1).replace("::", ".")
        for node in nodes:
            if node.op == "call_function" and operator_name(node.target) == wanted:
                return node
    return None


def _operator(text: str, node: fx.Node | None) -> str:
    if node is not None and node.op == "call_function":
        return operator_name(node.target)
    for pattern in (_SELECT_OPS, _ILLEGAL, _OPERATOR):
        match = pattern.search(text)
        if match:
            return match.group(1).strip().replace("::", ".")
    return ""


def _first_line(text: str) -> str:
    """The first line that says something."""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not _NOISE.match(stripped):
            return _without_path(stripped)[:200]
    return "no message"


def _without_path(line: str) -> str:
    """MLIR puts the source location of the lowering before its messages."""
    return re.sub(r"^(.*?)\S+:\d+(?::\d+)?: error: ", r"\1", line)
