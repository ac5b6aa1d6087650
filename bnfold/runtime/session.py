"""What a back end has to offer, and the check that a file is what its manifest says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from bnfold.errors import ArtifactError
from bnfold.signature import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
else:  # a device imports no more than it needs: a dataclass takes half a millisecond, as a module does
    Array = np.ndarray

# what a call to a model comes down to: arrays in the order of its inputs -> its outputs by bnfold's names
Run: TypeAlias = Callable[[Sequence[Array]], dict[str, Array]]
# what the interpreter raised in the middle of an answer -> what the caller gets
Stopped: TypeAlias = Callable[[Exception], ArtifactError]


class Session(Protocol):
    """A loaded model file in one interpreter.

    A back end is one file: a class that is built from the file (its path, or its bytes), the thread count,
    the inputs and outputs with the file's own names for them, and the error for an interpreter that stops.
    It fills in nothing by position.

    Attributes:
        interpreter: the package's own object, for what is measured beside it.
    """

    interpreter: Any

    def run(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """The outputs by bnfold's names, from inputs in the order given at construction.

        Raises:
            ArtifactError: BNF-M012 the interpreter stopped.
        """
        ...


class FileTensor:
    """A tensor as the file declares it. None in ``shape``: a size that the file leaves open."""

    def __init__(self, shape: tuple[int | None, ...], dtype: str | None) -> None:
        self.shape = shape
        self.dtype = dtype


class Binding:
    """The tensors of a manifest and the file's own names for them, in the manifest's order."""

    def __init__(self, kind: str, specs: tuple[TensorSpec, ...], tensors: tuple[str, ...]) -> None:
        self.kind = kind
        self.specs = specs
        self.names = [spec.name for spec in specs]
        self.tensors = tensors

    @classmethod
    def of(cls, manifest: Mapping[str, Any], kind: str) -> Binding:
        entries = manifest[kind]
        specs = tuple(TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries)
        return cls(kind, specs, tuple(entry["tensor"] for entry in entries))

    def check(self, declared: Mapping[str, FileTensor]) -> None:
        """Raises where the file declares other tensors than the manifest.

        Raises:
            ArtifactError: BNF-M011.
        """
        missing = [name for name in self.tensors if name not in declared]
        unknown = [name for name in declared if name not in self.tensors] if self.kind == "inputs" else []
        if missing or unknown:
            self._fail(f"{', '.join(self.tensors)}", f"{', '.join(declared)}")
        for spec, tensor in zip(self.specs, self.tensors, strict=True):
            found = declared[tensor]
            fits = len(found.shape) == len(spec.shape) and all(
                a is None or b is None or a == b for a, b in zip(found.shape, spec.shape, strict=True)
            )
            if not fits or found.dtype != spec.dtype:
                self._fail(spec.describe(), f"{found.dtype} {list(found.shape)} for {tensor}")

    def _fail(self, said: str, found: str) -> None:
        raise ArtifactError(
            "BNF-M011",
            f"manifest and model disagree on the {self.kind}: {said} in the manifest, {found} in the model",
            fix="convert the checkpoint again",
        )


def dtype_name(dtype: Any) -> str:
    """numpy's name of a dtype: ``float32``."""
    return str(np.dtype(dtype).name)
