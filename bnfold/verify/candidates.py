"""What is compared: a torch module or an artifact in one interpreter, behind one face."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from bnfold.capture import Captured
from bnfold.channels_last import of_manifest, to_file
from bnfold.errors import VerifyError
from bnfold.quantize.gate import Gate
from bnfold.runtime import Model
from bnfold.signature import TensorSpec

Array = NDArray[Any]


class Candidate(Protocol):
    """Anything that maps inputs to outputs, both by name."""

    @property
    def kind(self) -> str:
        """``fold``, ``onnx``, ``tflite`` or ``torch``."""
        ...

    @property
    def runtime(self) -> str:
        """What runs it, with its version: ``onnxruntime 1.32.0``."""
        ...

    @property
    def role(self) -> str:
        """``clean``, or ``monitor`` for a monitored artifact."""
        ...

    @property
    def gate(self) -> Gate | None:
        """What a low-precision artifact is held to; None for float32."""
        ...

    @property
    def losses(self) -> Sequence[Mapping[str, Any]]:
        """The layers where a low-precision artifact loses most, as its manifest has them."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of one call; the arrays are the caller's to keep."""
        ...


@contextmanager
def single_thread() -> Iterator[None]:
    """torch on one thread: more threads sum in another order, and reports must be repeatable."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def to_tensor(array: Array, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A copy as a tensor: torch aligns its memory alike every time, and MKL's last bits depend on that."""
    return torch.tensor(np.ascontiguousarray(array), dtype=dtype)


@dataclass(frozen=True)
class TorchCandidate:
    """A torch function of flat tensors in the order of ``inputs``, in float32 or, as a reference, float64."""

    kind: str
    call: Callable[..., Sequence[torch.Tensor]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    double: bool = False
    role: str = "clean"
    gate: Gate | None = None
    losses: Sequence[Mapping[str, Any]] = ()

    @property
    def runtime(self) -> str:
        return f"torch {torch.__version__.split('+')[0]}"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [self._tensor(inputs[spec.name]) for spec in self.inputs]
        with torch.no_grad():
            results = self.call(*tensors)
        if len(results) != len(self.outputs):
            raise VerifyError(
                "BNF-V030",
                f"{len(results)} output tensors where {len(self.outputs)} were expected: "
                f"{', '.join(spec.name for spec in self.outputs)}",
                where=self.kind,
                fix="compare modules with the same outputs",
            )
        return {
            spec.name: result.detach().cpu().numpy().copy()
            for spec, result in zip(self.outputs, results, strict=True)
        }

    def _tensor(self, array: Array) -> torch.Tensor:
        wide = self.double and array.dtype.kind == "f"
        return to_tensor(array, torch.float64 if wide else None)


@dataclass(frozen=True)
class ArtifactCandidate:
    """An artifact in one interpreter; ``data``, the file's bytes, lets failures be traced to a layer.

    It takes its inputs in the network's order, also where the file has channels last.
    """

    model: Model
    data: bytes = b""

    @property
    def kind(self) -> str:
        return str(self.model.manifest["target"])

    @property
    def role(self) -> str:
        return str(self.model.manifest["role"])

    @property
    def gate(self) -> Gate | None:
        return Gate.recorded(self.model.manifest)

    @property
    def losses(self) -> Sequence[Mapping[str, Any]]:
        return list((self.model.manifest.get("quantisation") or {}).get("losses", ()))

    @property
    def runtime(self) -> str:
        return self.model.runtime

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.model.predict_raw(to_file(inputs, of_manifest(self.model.manifest)))


def module_call(module: nn.Module, example_inputs: tuple[Any, ...]) -> Callable[..., Sequence[torch.Tensor]]:
    """The module, in eval mode, as a function of the tensors among ``example_inputs``, in their order.

    Everything else among the arguments stays as in the example. The module's mode is restored after a call.
    """
    leaves, spec = pytree.tree_flatten(example_inputs)

    def call(*tensors: torch.Tensor) -> list[torch.Tensor]:
        rest = iter(tensors)
        filled = [next(rest) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        with eval_mode(module):
            result = module(*pytree.tree_unflatten(filled, spec))
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]

    return call


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode; each submodule gets its own mode back."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def original(captured: Captured) -> TorchCandidate:
    """The captured, unedited graph in the model's own precision."""
    return TorchCandidate("torch", captured.body, captured.inputs, captured.outputs)


def twin(captured: Captured) -> TorchCandidate:
    """The captured, unedited graph in float64: what everything is measured against."""
    return TorchCandidate("torch", captured.twin(), captured.inputs, captured.outputs, double=True)
