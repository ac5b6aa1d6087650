"""What a file or a module stores about its BatchNorms: arrays in float64, one record per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine

Array = NDArray[np.float64]

MEAN, VARIANCE, UPDATES = "running_mean", "running_var", "num_batches_tracked"

# torch's defaults, assumed where only a file is at hand
EPS, MOMENTUM = 1e-5, 0.1

# A file may claim a tensor of any size without storing it.
_MOST_UNSTORED = 2**24


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
        registered: at how many places the BatchNorm itself is registered; a container with several names
            counts once.
        unreadable: names of its tensors that hold no plain numbers (sparse, quantized, without data).
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
    registered: int = 1
    unreadable: tuple[str, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether every number is there and finite, in statistics and parameters."""
        if self.mean is None or self.variance is None:
            return False
        arrays = (self.mean, self.variance, self.weight, self.bias)
        return all(array is None or bool(np.isfinite(array).all()) for array in arrays)

    @property
    def assumed_eps(self) -> float:
        """Its eps; torch's default where only a file is at hand."""
        return EPS if self.eps is None else self.eps

    @property
    def affine(self) -> Affine | None:
        """What it computes in eval mode, with `assumed_eps`; None where that is no number."""
        eps = self.assumed_eps
        if not self.is_finite or self.mean is None or self.variance is None:
            return None
        if self.mean.shape != self.variance.shape or not (self.variance + eps > 0).all():
            return None
        return Affine.from_batch_norm(self.mean, self.variance, eps, self.weight, self.bias)

    @property
    def is_initial(self) -> bool:
        """Whether the statistics are what a new layer begins with: mean 0 and variance 1 in every channel."""
        if self.mean is None or self.variance is None or not self.channels:
            return False
        return bool((self.mean == 0).all() and (self.variance == 1).all())

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
        TypeError: it is neither; the message names the mapping inside a checkpoint that may be one.
    """
    if hasattr(source, "named_modules"):
        return _of_module(source)
    if isinstance(source, Mapping):
        inside = [str(key) for key, value in source.items() if isinstance(value, Mapping)]
        if inside and not any(hasattr(value, "shape") for value in source.values()):
            raise TypeError(f"a state dict maps names to tensors; this holds mappings: {', '.join(inside)}")
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
    return [_of_one(root, names[key], module) for key, module in modules.items()]


def _of_one(root: Any, names: list[str], module: Any) -> Layer:
    momentum = getattr(module, "momentum", None)
    eps = getattr(module, "eps", None)
    # A container that has two names gives its BatchNorm two names too: that is one place.
    places = {
        (id(root.get_submodule(parent)), child): name for name in names for parent, child in [_split(name)]
    }
    return _made(
        names[0],
        lambda name: getattr(module, name, None),
        eps=float(eps) if isinstance(eps, float | int) else None,
        momentum=float(momentum) if isinstance(momentum, float | int) else None,
        known=hasattr(module, "momentum"),
        aliases=tuple(names[1:]),
        registered=_places(list(places.values())),
    )


def _of_state(state: Mapping[str, Any]) -> list[Layer]:
    found: dict[str, list[str]] = {}
    at: dict[Any, str] = {}
    for key in state:
        prefix, last = _split(str(key))
        if last not in (MEAN, VARIANCE) or any(prefix in names for names in found.values()):
            continue
        # one module under two names: torch.save keeps it one
        same = tuple(_address(state.get(f"{prefix}.{name}" if prefix else name)) for name in (MEAN, VARIANCE))
        first = at.setdefault(same, prefix) if all(same) else prefix
        found.setdefault(first, []).append(prefix)
    layers = []
    for prefix, names in found.items():

        def tensor(name: str, prefix: str = prefix) -> Any:
            return state.get(f"{prefix}.{name}" if prefix else name)

        # Under one name at the end, a container with two names may be all there is.
        ends = {_split(name)[1]: name for name in names}
        registered = _places(list(ends.values()))
        layers.append(_made(prefix, tensor, aliases=tuple(names[1:]), registered=registered))
    return layers


def _made(name: str, tensor: Callable[[str], Any], **more: Any) -> Layer:
    """A layer from its tensors by name. A weight or bias of another length is none of a BatchNorm."""
    arrays: dict[str, Array | None] = {}
    unreadable = []
    for key in (MEAN, VARIANCE, "weight", "bias"):
        held = tensor(key)
        values = None if held is None else numbers(held)
        arrays[key] = None if values is None else values.astype(np.float64).reshape(-1)
        if held is not None and values is None:
            unreadable.append(key)
    lengths = {len(array) for key in (MEAN, VARIANCE) if (array := arrays[key]) is not None}
    for key in ("weight", "bias"):
        parameter = arrays[key]
        if parameter is not None and lengths and len(parameter) not in lengths:
            arrays[key] = None
    return Layer(
        name,
        arrays[MEAN],
        arrays[VARIANCE],
        arrays["weight"],
        arrays["bias"],
        _count(tensor(UPDATES)),
        str(getattr(tensor(VARIANCE), "dtype", "float32")).removeprefix("torch."),
        unreadable=tuple(unreadable),
        **more,
    )


def _split(name: str) -> tuple[str, str]:
    parent, _, child = name.rpartition(".")
    return parent, child


def _places(names: list[str]) -> int:
    """How many of a BatchNorm's names stand for a use of its own.

    ``bn1`` beside ``features.1`` is a container around the parts that the network also has by name.
    """
    parents = [_split(name)[0] for name in names]

    def is_part(name: str) -> bool:
        parent, child = _split(name)
        above = f"{parent}." if parent else ""
        return not child.isdigit() and any(other != parent and other.startswith(above) for other in parents)

    return max(1, sum(not is_part(name) for name in names))


def _address(tensor: Any) -> int:
    """Where a tensor's numbers lie; 0 where that tells nothing."""
    return int(tensor.data_ptr()) if hasattr(tensor, "data_ptr") and numbers(tensor) is not None else 0


def numbers(held: Any) -> NDArray[Any] | None:
    """A tensor, a parameter or an array as an array of real numbers; None where it holds none.

    bfloat16 and the 8-bit floats, which numpy lacks, become float32, exactly.
    """
    if hasattr(held, "detach"):
        import torch

        from bnfold.checkpoint.fit import unusual

        if torch.nn.parameter.is_lazy(held) or unusual(held) or held.is_complex():
            return None
        stored = held.untyped_storage().nbytes() // max(held.element_size(), 1)
        if held.numel() > max(stored, _MOST_UNSTORED):
            return None
        held = held.detach().cpu()
        if held.is_floating_point() and held.dtype not in (torch.float16, torch.float32, torch.float64):
            held = held.float()
        held = held.numpy()
    array = np.asarray(held)
    return array if array.dtype.kind in "biuf" else None


def _count(held: Any) -> int | None:
    """One number that counts; None where it counts nothing."""
    values = None if held is None else numbers(held)
    if values is None or values.size != 1:
        return None
    value = values.reshape(-1)[0]
    return int(value) if np.isfinite(value) and value >= 0 else None
