"""Which buffers a BatchNorm call reads: what a recalibration has to write."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnfold.statistics.layers import MEAN, UPDATES, VARIANCE, is_batch_norm
from bnfold.statistics.observe import Call


class Target(NamedTuple):  # hashed by every call of every batch: a dataclass takes ten times as long
    """One pair of running statistics; every call that reads it pools into it.

    Attributes:
        name: of the module that holds them, as findings name it; of the mean itself where a module holds
            several or calls them otherwise.
        mean, variance: qualified names of the buffers (or parameters) in the module.
    """

    name: str
    mean: str
    variance: str

    @property
    def updates(self) -> str:
        """The qualified name of ``num_batches_tracked`` beside them, whether there is one or not."""
        prefix, dot, _ = self.mean.rpartition(".")
        return f"{prefix}{dot}{UPDATES}"


class Targets:
    """The tensors of one module, looked up by identity."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._names: dict[tuple[int, int, torch.dtype], str] = {}
        for name, tensor in self._tensors.items():
            if tensor.numel():
                self._names.setdefault(_identity(tensor), name)
        self._roles: dict[str, Target] = {}
        self._found: dict[tuple[int, int], tuple[Tensor, Tensor, Target]] = {}

    def find(self, call: Call) -> Target | None:
        """The statistics that the call reads; None where they are no buffers of the module.

        A tensor that serves as mean here and as variance there, or with different partners, counts as none:
        there is no one value for it.
        """
        if call.running_mean is None or call.running_var is None:
            return None
        key = id(call.running_mean), id(call.running_var)
        known = self._found.get(key)
        if known is not None and known[0] is call.running_mean and known[1] is call.running_var:
            return known[2]
        target = self._find(call.running_mean, call.running_var)
        if target is not None:
            self._found[key] = call.running_mean, call.running_var, target
        return target

    def _find(self, *pair: Tensor) -> Target | None:
        mean, variance = (self._name(tensor) for tensor in pair)
        if mean is None or variance is None or mean == variance:
            return None
        prefix, _, last = mean.rpartition(".")
        target = Target(prefix if last == MEAN else mean, mean, variance)
        if any(self._roles.setdefault(name, target) != target for name in (mean, variance)):
            return None
        return target

    def tensors(self, target: Target) -> tuple[Tensor, Tensor]:
        """Mean and variance, as the module holds them."""
        return self._tensors[target.mean], self._tensors[target.variance]

    def updates(self, target: Target) -> Tensor | None:
        """``num_batches_tracked``, where the layer counts its updates."""
        return self._tensors.get(target.updates)

    def _name(self, tensor: Tensor) -> str | None:
        return self._names.get(_identity(tensor)) if tensor.numel() else None


def holders(module: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """The modules that hold running statistics, by the name of the mean: name and module."""
    found = {}
    for name, inner in module.named_modules():
        mean = getattr(inner, MEAN, None)
        if is_batch_norm(inner) and isinstance(mean, Tensor) and getattr(inner, VARIANCE, None) is not None:
            found[f"{name}.{MEAN}" if name else MEAN] = name, inner
    return found


def _identity(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    """The same for a tensor and for a view of all of it."""
    return tensor.data_ptr(), tensor.numel(), tensor.dtype
