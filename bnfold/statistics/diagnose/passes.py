"""The same frames through the network in eval mode and in train mode, and what every BatchNorm read.

Only the BatchNorms change their mode: dropout stays off and nothing is drawn, so what differs is due to the
statistics. In train mode a BatchNorm normalises with the batch, and the buffers stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.statistics.batches import Batch
from bnfold.statistics.diagnose.frames import FrameStatistics
from bnfold.statistics.observe import Call, answering

Array = NDArray[np.float64]
Mode = Literal["eval", "train"]


@dataclass
class Size:
    """How large values are: the root of their mean square, and the largest magnitude."""

    count: int = 0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, values: Tensor) -> None:
        """Take in a tensor; one that is not finite makes both infinite."""
        if values.numel() == 0:
            return
        x = values.detach()
        norm = float(torch.linalg.vector_norm(x, dtype=torch.float64))
        largest = float(torch.linalg.vector_norm(x, float("inf")))
        self.count += x.numel()
        self.squares += norm * norm if math.isfinite(norm) else math.inf
        self.largest = max(self.largest, largest if math.isfinite(largest) else math.inf)

    @property
    def rms(self) -> float:
        return (self.squares / self.count) ** 0.5 if self.count else 0.0

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.largest)


@dataclass
class Reading:
    """One BatchNorm call over all frames.

    Attributes:
        name, owner, eps, momentum: see `bnfold.statistics.observe.Call`.
        mean, variance: as stored, float64 of shape (channels,); None where the call has none.
        weight, bias: likewise.
        uses_batch: whether the call, in eval mode, normalises with the batch.
        input: what it read.
        output: how large its result is.
    """

    name: str
    owner: str
    eps: float
    momentum: float
    mean: Array | None
    variance: Array | None
    weight: Array | None
    bias: Array | None
    uses_batch: bool
    input: FrameStatistics = field(default_factory=FrameStatistics)
    output: Size = field(default_factory=Size)

    @property
    def channels(self) -> int:
        return len(self.input.center)

    @property
    def gain(self) -> Array:
        """Shape (channels,): |gamma| / sqrt(stored variance + eps); NaN where that is no number."""
        assert self.variance is not None
        weight = np.ones(self.channels) if self.weight is None else np.abs(self.weight)
        with np.errstate(invalid="ignore", divide="ignore"):
            return weight / np.sqrt(self.variance + self.eps)


@dataclass
class Pass:
    """What one pass over all batches saw.

    Attributes:
        frames: how many.
        readings: of every BatchNorm call, in execution order.
        modules: how large the result of every module without parts is, in execution order.
        result: how large the network's own result is.
    """

    mode: Mode
    frames: int = 0
    readings: dict[str, Reading] = field(default_factory=dict)
    modules: dict[str, Size] = field(default_factory=dict)
    result: Size = field(default_factory=Size)

    @property
    def is_finite(self) -> bool:
        """Whether every value that was looked at is."""
        outputs = [reading.output for reading in self.readings.values()]
        return all(size.is_finite for size in (self.result, *outputs, *self.modules.values()))

    def calls_of(self, owner: str) -> list[Reading]:
        """The readings of one module, call by call."""
        return [reading for reading in self.readings.values() if reading.owner == owner]


def run(
    module: nn.Module,
    batches: Iterable[Batch],
    mode: Mode,
    *,
    revived: Mapping[str, Sequence[int]] | None = None,
    donor: int = 0,
) -> Pass:
    """Run all batches through a module that is in eval mode.

    Args:
        module: in eval mode; a copy, because a call that updates its buffers in eval mode is let do so.
        batches: see `bnfold.statistics.batches`.
        mode: of the BatchNorms.
        revived: by call, channels that get a result as if they were alive: see `_revived`.
        donor: which of the living channels they are made like.

    Raises:
        ValueError: in train mode, a batch has one value per channel (torch's message).
    """
    seen = Pass(mode)

    def answer(call: Call) -> Tensor:
        reading = seen.readings.get(call.name)
        if reading is None:
            reading = seen.readings[call.name] = _reading(call)
        reading.input.add(call.input)
        result = call.by_batch() if mode == "train" else call.as_called()
        reading.output.add(result)
        if revived and call.name in revived:
            return _revived(result, call, list(revived[call.name]), donor)
        return result

    with torch.no_grad(), answering(module, answer), _sizes(module, seen):
        for batch in batches:
            _add(seen.result, batch.run(module))
            seen.frames += batch.frames
    return seen


def _revived(result: Tensor, call: Call, channels: list[int], first: int) -> Tensor:
    """The result with dead channels as if alive: mean beta, deviation gamma, else like a living one."""
    living = [channel for channel in range(result.shape[1]) if channel not in channels]
    changed = result.clone()
    for number, channel in enumerate(channels):
        donor = (
            result[:, living[(first + number) % len(living)]]
            if living
            else torch.randn_like(result[:, channel])
        )
        unit = (donor - donor.mean()) / donor.std().clamp_min(1e-12)
        scale = 1.0 if call.weight is None else float(call.weight[channel])
        shift = 0.0 if call.bias is None else float(call.bias[channel])
        changed[:, channel] = unit * scale + shift
    return changed


def _add(size: Size, result: Any) -> None:
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            size.add(leaf)


@contextmanager
def _sizes(module: nn.Module, seen: Pass) -> Iterator[None]:
    """Keep the size of what every module without parts gives."""

    def keep(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, result: Any) -> None:
            _add(seen.modules.setdefault(name, Size()), result)

        return hook

    parts = [(name, part) for name, part in module.named_modules() if not list(part.children())]
    handles = [part.register_forward_hook(keep(name)) for name, part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reading(call: Call) -> Reading:
    return Reading(
        call.name,
        call.owner,
        float(call.eps),
        float(call.momentum),
        _array(call.running_mean),
        _array(call.running_var),
        _array(call.weight),
        _array(call.bias),
        call.uses_batch,
    )


def _array(tensor: Any) -> Array | None:
    return None if tensor is None else tensor.detach().double().cpu().numpy().copy()
