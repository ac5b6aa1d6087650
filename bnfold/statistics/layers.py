"""What a file or a module stores about its BatchNorms: arrays in float64, one record per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MEAN, VARIANCE, UPDATES = "running_mean", "running_var", "num_batches_tracked"


@dataclass(frozen=True)
class Layer:
    """One BatchNorm as it is stored.

    Attributes:
        name: the module's qualified name; empty for a BatchNorm that is the whole network.
        mean, variance: shape (channels,), float64; None where the layer keeps no statistics.
        weight, bias: gamma and beta, shape (channels,), float64; None where the layer has none.
        updates: ``num_batches_tracked``; None where it is not stored.
        dtype: the dtype that the variance is stored in: ``float32``.
        eps: None where only a file is at hand.
        momentum: of the exponential average; None for a cumulative one, or where only a file is at hand.
        known: whether eps and momentum are the module's own; False where only a file is at hand.
        aliases: other qualified names of the same module.
    """

    name: str
    mean: Array | None
    variance: Array | None
    weight: Array | None = None
    bias: Array | None = None
    updates: int | None = None
    dtype: str = "float32"
    eps: float | None = None
    momentum: float | None = None
    known: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """How many channels; 0 where nothing is stored."""
        for array in (self.variance, self.mean, self.weight, self.bias):
            if array is not None:
                return len(array)
        return 0

    def key(self, tensor: str) -> str:
        """The qualified name of one of its tensors: ``layer1.0.bn2.running_var``."""
        return f"{self.name}.{tensor}" if self.name else tensor


def layers_of(source: Any) -> list[Layer]:
    """Every BatchNorm of a module, or of a state dict, in module order.

    Args:
        source: an ``nn.Module``, or a mapping from qualified names to tensors. In a state dict a layer is
            known by a running mean or a running variance.

    Raises:
        TypeError: it is neither.
    """
    if hasattr(source, "named_modules"):
        return _of_module(source)
    if isinstance(source, Mapping):
        return _of_state(source)
    raise TypeError(f"an nn.Module or a state dict is expected, not a {type(source).__name__}")


def is_batch_norm(module: Any) -> bool:
    """Whether a module normalises by batch statistics or by stored ones: torch's own, or one like them."""
    from torch.nn.modules import batchnorm, instancenorm

    if isinstance(module, instancenorm._InstanceNorm):
        return False
    if isinstance(module, batchnorm._BatchNorm):
        return True
    tensors = {*module._parameters, *module._buffers}
    return {MEAN, VARIANCE} <= tensors


def _of_module(root: Any) -> list[Layer]:
    names: dict[int, list[str]] = {}
    modules: dict[int, Any] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        if is_batch_norm(module):
            names.setdefault(id(module), []).append(name)
            modules[id(module)] = module
    return [_of_one(names[key], module) for key, module in modules.items()]


def _of_one(names: list[str], module: Any) -> Layer:
    def tensor(name: str) -> Any:
        return getattr(module, name, None)

    variance = tensor(VARIANCE)
    momentum = getattr(module, "momentum", None)
    eps = getattr(module, "eps", None)
    return Layer(
        names[0],
        _array(tensor(MEAN)),
        _array(variance),
        _array(tensor("weight")),
        _array(tensor("bias")),
        _count(tensor(UPDATES)),
        _dtype(variance),
        float(eps) if isinstance(eps, float | int) else None,
        float(momentum) if isinstance(momentum, float | int) else None,
        hasattr(module, "momentum"),
        tuple(names[1:]),
    )


def _of_state(state: Mapping[str, Any]) -> list[Layer]:
    found: dict[str, None] = {}
    for key in state:
        prefix, _, last = key.rpartition(".")
        if last in (MEAN, VARIANCE):
            found[prefix] = None
    layers = []
    for prefix in found:

        def tensor(name: str, prefix: str = prefix) -> Any:
            return state.get(f"{prefix}.{name}" if prefix else name)

        variance = tensor(VARIANCE)
        layers.append(
            Layer(
                prefix,
                _array(tensor(MEAN)),
                _array(variance),
                _array(tensor("weight")),
                _array(tensor("bias")),
                _count(tensor(UPDATES)),
                _dtype(variance),
            )
        )
    return layers


def _array(tensor: Any) -> Array | None:
    """A tensor, a parameter or an array as float64, in one dimension."""
    if tensor is None:
        return None
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().double().numpy()
    return np.asarray(tensor, dtype=np.float64).reshape(-1)


def _count(tensor: Any) -> int | None:
    if tensor is None:
        return None
    return int(tensor.item()) if hasattr(tensor, "item") else int(tensor)


def _dtype(tensor: Any) -> str:
    return str(getattr(tensor, "dtype", "float32")).removeprefix("torch.")
