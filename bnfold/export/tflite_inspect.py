"""What a .tflite file needs of an interpreter and how its tensors are named; no TensorFlow needed.

The table ``tflite_operators.json`` says which operators, in which versions, ``tflite-runtime`` 2.14.0 knows.
It was measured: that interpreter was given one file per operator and version (:func:`probe`), and accepts or
refuses it when it resolves operators, before it runs anything. A test repeats the measurement.
"""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass
from importlib import resources
from typing import Any

CUSTOM = 32
"""BuiltinOperator.CUSTOM: an operator that the application must bring along."""


@dataclass(frozen=True)
class Operator:
    """An operator that a file uses.

    Attributes:
        code: BuiltinOperator of the schema.
        name: its name there, or a custom operator's own.
        version: of the operator, which grows with its features.
    """

    code: int
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


@dataclass(frozen=True)
class Description:
    """A .tflite file.

    Attributes:
        operators: distinct ones, sorted by code and version.
        inputs, outputs: key in the signature -> tensor name.
        tensors: names of all tensors.
        signature: name of the only signature; empty if there is none.
    """

    operators: tuple[Operator, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    tensors: tuple[str, ...]
    signature: str


def describe(data: bytes) -> Description:
    """Read a .tflite file (needs the package ``ai-edge-litert`` for its schema; runs nothing).

    Raises:
        ValueError: no TFLite file, or one with several signatures.
    """
    from ai_edge_litert import schema_py_generated as schema

    if not schema.Model.ModelBufferHasIdentifier(data, 0):
        raise ValueError("no TFLite file: its identifier TFL3 is missing")
    model = schema.Model.GetRootAs(data, 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    operators = set()
    for index in range(model.OperatorCodesLength()):
        entry = model.OperatorCodes(index)
        code = max(entry.BuiltinCode(), entry.DeprecatedBuiltinCode())
        custom = entry.CustomCode()
        name = custom.decode() if code == CUSTOM and custom else names.get(code, f"operator {code}")
        operators.add(Operator(code, name, entry.Version()))
    if model.SignatureDefsLength() > 1:
        raise ValueError(f"{model.SignatureDefsLength()} signatures; one was expected")
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    signature = ""
    if model.SignatureDefsLength():
        definition = model.SignatureDefs(0)
        graph = model.Subgraphs(definition.SubgraphIndex())
        signature = definition.SignatureKey().decode()
        for count, item, result in (
            (definition.InputsLength(), definition.Inputs, inputs),
            (definition.OutputsLength(), definition.Outputs, outputs),
        ):
            for index in range(count):
                pair = item(index)
                result[pair.Name().decode()] = graph.Tensors(pair.TensorIndex()).Name().decode()
    tensors = tuple(
        model.Subgraphs(g).Tensors(t).Name().decode()
        for g in range(model.SubgraphsLength())
        for t in range(model.Subgraphs(g).TensorsLength())
    )
    ordered = sorted(operators, key=lambda operator: (operator.code, operator.version, operator.name))
    return Description(tuple(ordered), inputs, outputs, tensors, signature)


def maker(tensor: str) -> str:
    """The module that a tensor's name says it comes from; empty where it says none.

    The converter names a tensor after the module's path and its last part (``stem.0_0``, ``conv1_conv1``),
    and joins the names of operators that it fuses, the last of them first: ``stem.2_2;;stem.0_0;1``. Those
    of the outermost module are of ``network``, see :func:`bnfold.export.source.without_user_names`.
    """
    for part in reversed(tensor.split(";")):
        for at in range(1, len(part)):
            path, last = part[:at], part[at + 1 :]
            if part[at] == "_" and path.rpartition(".")[2] == last and path != "network":
                return path
    return ""


@functools.cache
def operator_table() -> dict[str, Any]:
    """``{"runtime", "version", "operators": {code: {"name", "versions": [first, last]}}}``."""
    text = resources.files("bnfold.export").joinpath("tflite_operators.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    table["operators"] = {int(code): entry for code, entry in table["operators"].items()}
    return table


def unknown_operators(operators: tuple[Operator, ...]) -> list[Operator]:
    """Those that the interpreter of the table does not know, or not in this version."""
    known = operator_table()["operators"]

    def is_known(operator: Operator) -> bool:
        entry = known.get(operator.code)
        return entry is not None and entry["versions"][0] <= operator.version <= entry["versions"][1]

    return [operator for operator in operators if operator.code == CUSTOM or not is_known(operator)]


def probe(code: int, version: int) -> bytes:
    """The smallest .tflite file that names an operator in a version, without a call of it.

    An interpreter refuses it on loading exactly when it does not know the operator. Written out by hand
    (flatbuffers: tables of offsets) so that it needs nothing on a device.
    """
    builder = _Flatbuffer()
    operator_code = builder.table([(0, "b", min(code, 127)), (2, "i", version), (3, "i", code)])
    tensor = builder.table([(0, "o", builder.ints([1])), (3, "o", builder.string("x"))])
    graph = builder.table(
        [
            (0, "o", builder.offsets([tensor])),
            (1, "o", builder.ints([0])),
            (2, "o", builder.ints([0])),
            (3, "o", builder.offsets([])),
        ]
    )
    buffers = builder.offsets([builder.table([])])
    root = builder.table(
        [
            (0, "i", 3),
            (1, "o", builder.offsets([operator_code])),
            (2, "o", builder.offsets([graph])),
            (4, "o", buffers),
        ]
    )
    return builder.finish(root, b"TFL3")


class _Flatbuffer:
    """A flatbuffer written from its end to its start, as the format wants; positions count from the end."""

    def __init__(self) -> None:
        self._bytes = b""

    def _put(self, data: bytes) -> int:
        self._bytes = data + self._bytes
        return len(self._bytes)

    def _align(self, size: int, to: int = 4) -> None:
        """Pad so that what ends up ``size`` bytes further on starts on a multiple of ``to``."""
        self._put(b"\0" * (-(len(self._bytes) + size) % to))

    def ints(self, values: list[int]) -> int:
        self._align(4 * len(values) + 4)
        return self._put(struct.pack(f"<I{len(values)}i", len(values), *values))

    def string(self, text: str) -> int:
        data = text.encode() + b"\0"
        self._align(len(data) + 4)
        return self._put(struct.pack("<I", len(data) - 1) + data)

    def offsets(self, targets: list[int]) -> int:
        size = 4 * len(targets)
        self._align(size + 4)
        end = len(self._bytes)
        relative = [end + size - 4 * index - target for index, target in enumerate(targets)]
        return self._put(struct.pack(f"<I{len(targets)}I", len(targets), *relative))

    def table(self, fields: list[tuple[int, str, int]]) -> int:
        """``fields``: slot in the schema, kind (``b`` byte, ``i`` int32, ``o`` offset), value."""
        slots = max((slot for slot, _, _ in fields), default=-1) + 1
        size = 4 + 4 * len(fields)
        self._align(size)
        start = len(self._bytes) + size
        body, places = b"", [0] * slots
        for index, (slot, kind, value) in enumerate(fields):
            places[slot] = 4 + 4 * index
            here = start - places[slot]
            body += struct.pack("<I", here - value) if kind == "o" else struct.pack("<i", value)
        vtable = struct.pack(f"<HH{slots}H", 4 + 2 * slots, size, *places)
        self._put(struct.pack("<i", 0) + body)  # the distance to the vtable is filled in below
        table = len(self._bytes)
        self._align(len(vtable))
        self._put(vtable)
        distance = len(self._bytes) - table
        data = bytearray(self._bytes)
        at = len(data) - table
        data[at : at + 4] = struct.pack("<i", distance)
        self._bytes = bytes(data)
        return table

    def finish(self, root: int, identifier: bytes) -> bytes:
        self._align(8, to=16)
        offset = len(self._bytes) + 8 - root
        self._put(struct.pack("<I4s", offset, identifier))
        return self._bytes
