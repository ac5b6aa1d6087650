"""The structure of the manifest, schema 1: what must be there, and of which type. Standard library only.

Entries that are not named here may be there too: they are kept, and ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import prod
from typing import Any, NoReturn

from bnfold.errors import ArtifactError

SCHEMA = 1

ITEM_SIZE = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip

FLOATS = ("float16", "float32", "float64")
LAYOUTS = ("NCHW", "NHWC")
MOVED = {4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}
"""By the number of axes: channels first as in a network, channels last as a file can take them."""
COLORS = ("gray", "rgb", "bgr")
RESIZES = ("stretch", "crop", "letterbox")
ROLES = ("clean", "monitor")

_MAX_NUMBER = sys.float_info.max  # JSON's integers have no limit
_MAX_ELEMENTS = 2**40  # a bound on what a damaged shape can claim
# a golden array has no more elements than its tensor, with a symbolic batch of so many, or is small anyway
_MOST_FRAMES, _SMALL = 2**16, 2**20
_DEEPEST = 32  # lists and objects inside each other: whoever writes the document again needs a stack for it


def check(document: dict[str, Any], target: str, where: str) -> None:
    """Raises where ``document`` is not a manifest of schema 1 for a file of this format.

    Raises:
        ArtifactError: BNF-M005 it was written by a newer bnfold; BNF-M006 an entry is missing or malformed.
    """
    _Check(where).document(document, target)


class _Check:
    """One walk over a document; ``path`` in the methods is where in it we are, for the message."""

    def __init__(self, where: str) -> None:
        self._where = where

    def document(self, document: dict[str, Any], target: str) -> None:
        self._nesting(document)
        schema = self._typed(document, "schema", int, "")
        if schema > SCHEMA:
            raise ArtifactError(
                "BNF-M005",
                f"its manifest has schema {schema}; this bnfold reads up to schema {SCHEMA}",
                where=self._where,
                fix=f"update bnfold here (the file was written by bnfold {document.get('bnfold', '?')})",
            )
        if schema != SCHEMA:
            self._fail("schema", f"is {schema}")
        for key in ("bnfold", "name", "precision"):
            self._typed(document, key, str, "")
        self._one_of(document, "target", (target,), "")
        self._one_of(document, "role", ROLES, "")
        for key in ("source", "golden"):
            self._typed(document, key, dict, "", null=True)
        for key in ("libraries", "noise_floor", "integrity"):
            self._typed(document, key, dict, "")
        for index, entry in enumerate(self._each(document, "batch_norms", dict)):
            self._batch_norm(entry, f"batch_norms[{index}].")
        for index, entry in enumerate(self._each(document, "allowed", dict) if "allowed" in document else ()):
            for key in ("code", "where"):
                self._typed(entry, key, str, f"allowed[{index}].")
        for index, entry in enumerate(self._each(document, "parity", dict)):
            self._parity(entry, f"parity[{index}].")
        for index, entry in enumerate(self._each(document, "runs_on", dict)):
            for key in ("runtime", "version", "basis"):
                self._typed(entry, key, str, f"runs_on[{index}].")
        self._each(document, "labels", str, null=True)
        inputs = self._tensors(document, "inputs", self._input)
        outputs = self._tensors(document, "outputs", lambda *_: None)
        for name, value in document["noise_floor"].items():
            self._number(value, f"noise_floor.{name}")
        if document["golden"] is not None:
            self._golden(document["golden"], "inputs", inputs)
            self._golden(document["golden"], "outputs", outputs)
        if document.get("quantisation") is not None:
            self._quantisation(self._typed(document, "quantisation", dict, ""))
        self._typed(document["integrity"], "model_bytes", int, "integrity.")
        self._typed(document["integrity"], "checksum", str, "integrity.")

    def _quantisation(self, entry: dict[str, Any]) -> None:
        path = "quantisation."
        for key in ("weights", "activations"):
            self._typed(entry, key, str, path)
        for key in ("tolerance", "agreeing", "min_agreement"):
            self._number(entry.get(key), f"{path}{key}")
        calibration = self._typed(entry, "calibration", dict, path, null=True)
        if calibration is not None:
            self._typed(calibration, "source", str, f"{path}calibration.")
            self._typed(calibration, "frames", int, f"{path}calibration.")
        for index, loss in enumerate(self._each(entry, "losses", dict, path)):
            inner = f"{path}losses[{index}]."
            for key in ("target", "layer", "operator"):
                self._typed(loss, key, str, inner)
            for key in ("snr_db", "share"):
                self._number(loss.get(key), f"{inner}{key}")
        for index, row in enumerate(self._each(entry, "agreement", dict, path)):
            self._agreement(row, f"{path}agreement[{index}].")

    def _agreement(self, row: dict[str, Any], path: str) -> None:
        for key in ("candidate", "runtime", "output", "role", "precision", "kind"):
            self._typed(row, key, str, path)
        for key in ("counted", "ties"):
            self._typed(row, key, int, path)
        for key in ("agreement", "min_agreement"):
            self._number(row.get(key), f"{path}{key}")
        for key in ("cosine", "snr_db"):
            if row.get(key) is not None:  # null: not finite
                self._number(row[key], f"{path}{key}")
        self._typed(row, "passed", bool, path)

    def _nesting(self, document: dict[str, Any]) -> None:
        level: list[Any] = [document]
        for _ in range(_DEEPEST):
            inside = [value.values() if isinstance(value, dict) else value for value in level]
            level = [item for values in inside for item in values if isinstance(item, dict | list)]
            if not level:
                return
        self._fail("it", f"has more than {_DEEPEST} lists and objects inside each other")

    def _batch_norm(self, entry: dict[str, Any], path: str) -> None:
        for key in ("name", "status"):
            self._typed(entry, key, str, path)
        self._typed(entry, "channels", int, path)
        for key in ("rules", "into"):
            self._each(entry, key, str, path)
        self._typed(entry, "reason", str, path, null=True)
        for index, copy in enumerate(self._each(entry, "copies", dict, path) if "copies" in entry else []):
            self._typed(copy, "weight", str, f"{path}copies[{index}].")
            self._number(self._typed(copy, "bytes", int, f"{path}copies[{index}]."), f"{path}copies")

    def _parity(self, entry: dict[str, Any], path: str) -> None:
        for key in ("candidate", "runtime", "output", "frames_source"):
            self._typed(entry, key, str, path)
        self._typed(entry, "frames", int, path)
        self._typed(entry, "passed", bool, path)
        for key in ("max_abs_error", "noise_floor", "tolerance"):
            if entry.get(key) is not None:  # null: not finite
                self._number(entry[key], f"{path}{key}")

    def _tensors(
        self, document: dict[str, Any], key: str, extra: Callable[[dict[str, Any], str], None]
    ) -> dict[str, dict[str, Any]]:
        entries = self._each(document, key, dict)
        if not entries:
            self._fail(key, "is empty")
        for index, entry in enumerate(entries):
            path = f"{key}[{index}]."
            self._typed(entry, "name", str, path)
            self._typed(entry, "tensor", str, path)
            self._shape(entry, path, symbolic=True)
            self._one_of(entry, "dtype", tuple(ITEM_SIZE), path)
            extra(entry, path)
        names: list[str] = [entry["name"] for entry in entries]
        if len(set(names)) != len(names):
            self._fail(key, f"names a tensor twice: {', '.join(names)}")
        return dict(zip(names, entries, strict=True))

    def _input(self, entry: dict[str, Any], path: str) -> None:
        how = self._typed(entry, "normalisation", dict, path, null=True)
        if "layout" in entry:
            self._moved(entry, how, path)
        if how is None:
            return
        inner = f"{path}normalisation."
        layout = self._one_of(how, "layout", LAYOUTS, inner)
        color = self._one_of(how, "color", COLORS, inner)
        self._one_of(how, "resize", RESIZES, inner)
        channels = 1 if color == "gray" else 3
        self._pixels(how, channels, inner)
        if "baked" in how:  # what the file does to pixels itself
            self._pixels(self._typed(how, "baked", dict, inner), channels, f"{inner}baked.")
        shape = entry["shape"]
        if len(shape) != 4 or shape[layout.index("C")] != channels:
            self._fail(f"{path}shape", f"is {shape}, which takes no {color} image in {layout}")
        self._one_of(entry, "dtype", FLOATS, path)

    def _moved(self, entry: dict[str, Any], how: dict[str, Any] | None, path: str) -> None:
        """An input that the file takes in another order than the network."""
        layout = self._typed(entry, "layout", dict, path)
        network, file = MOVED.get(len(entry["shape"]), ("", ""))
        if not file or layout != {"file": file, "network": network}:
            self._fail(f"{path}layout", f"is {layout}, for a shape of {entry['shape']}")
        if how is not None and how.get("layout") != file:
            self._fail(f"{path}layout", f"is {file}, and the normalisation's is {how.get('layout')!r}")

    def _pixels(self, how: dict[str, Any], channels: int, path: str) -> None:
        """scale, mean and std."""
        self._number(how.get("scale"), f"{path}scale")
        for key in ("mean", "std"):
            values = self._typed(how, key, list, path)
            for index, value in enumerate(values):
                self._number(value, f"{path}{key}[{index}]")
            if len(values) not in (1, channels):
                self._fail(f"{path}{key}", f"has {len(values)} numbers for {channels} channels")
        if 0 in how["std"]:
            self._fail(f"{path}std", "has a zero, and the pixels are divided by it")

    def _golden(self, golden: dict[str, Any], key: str, tensors: dict[str, dict[str, Any]]) -> None:
        arrays = self._typed(golden, key, dict, "golden.")
        if sorted(arrays) != sorted(tensors):
            self._fail(f"golden.{key}", f"has {sorted(arrays)} and not {sorted(tensors)}")
        for name in arrays:
            entry = self._typed(arrays, name, dict, f"golden.{key}.")
            path = f"golden.{key}.{name}."
            self._one_of(entry, "dtype", tuple(ITEM_SIZE), path)
            self._shape(entry, path, symbolic=False)
            self._typed(entry, "data", str, path)
            declared = prod(_MOST_FRAMES if size is None else size for size in tensors[name]["shape"])
            if prod(entry["shape"]) > max(declared, _SMALL):
                self._fail(f"{path}shape", f"is {entry['shape']}, more than the tensor's own")
            if key == "outputs":
                self._number(entry.get("tolerance"), f"{path}tolerance")

    def _shape(self, entry: dict[str, Any], path: str, *, symbolic: bool) -> None:
        elements = 1
        for axis, size in enumerate(self._typed(entry, "shape", list, path)):
            if size is None and symbolic and axis == 0:
                continue
            if type(size) is not int or size < 0:
                self._fail(f"{path}shape[{axis}]", f"is {size!r}")
            elements *= size
        if elements > _MAX_ELEMENTS:
            self._fail(f"{path}shape", f"has {elements} elements")

    def _number(self, value: object, path: str) -> None:
        if type(value) not in (int, float):
            self._fail(path, "is missing" if value is None else f"is {value!r}, not a number")
        if not -_MAX_NUMBER <= value <= _MAX_NUMBER:  # type: ignore[operator]
            self._fail(path, "is too large for a number")

    def _one_of(self, entry: dict[str, Any], key: str, allowed: tuple[str, ...], path: str) -> str:
        value = entry.get(key)
        if not isinstance(value, str) or value not in allowed:
            self._fail(f"{path}{key}", f"is {value!r}, not {' or '.join(allowed)}")
        return value

    def _each(
        self, entry: dict[str, Any], key: str, kind: type, path: str = "", *, null: bool = False
    ) -> list[Any]:
        values = self._typed(entry, key, list, path, null=null) or []
        for index, value in enumerate(values):
            if type(value) is not kind:
                self._fail(f"{path}{key}[{index}]", f"is {type(value).__name__}, not {kind.__name__}")
        return list(values)

    def _typed(self, entry: dict[str, Any], key: str, kind: type, path: str, *, null: bool = False) -> Any:
        if key not in entry:
            self._fail(f"{path}{key}", "is missing")
        value = entry[key]
        if value is None and null:
            return None
        if type(value) is not kind:  # not isinstance: true is no integer here
            self._fail(f"{path}{key}", f"is {type(value).__name__}, not {kind.__name__}")
        return value

    def _fail(self, path: str, what: str) -> NoReturn:
        raise ArtifactError(
            "BNF-M006",
            f"the manifest is malformed: {path} {what}",
            where=self._where,
            fix="convert the checkpoint again",
        )
