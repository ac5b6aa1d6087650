"""Mean and squared deviations per channel of one batch, in float64, whatever the batch is computed in.

The values go through in pieces that a cache holds: converted, averaged, centred, squared, and merged as
`Moments` are. Centring before squaring keeps the precision. In a network of small layers an operator takes as
long to be reached as to do its work, so there are few: six for a batch that is one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

_PIECE = 1 << 20  # values; 8 MB in float64
_PIECE_ON_DEVICE = 1 << 24

_IN_A_ROW = 1 << 13
"""Rows that are added one to another without blocks: a relative error of 2^13 2^-53 = 9e-13 at most, whatever
the values."""

_MOST_SHAPES = 256
_EACH = 0  # no reduction, as torch's losses number it

# (a - b)^2 in one operator; the public function has no ``out`` and would take new memory for every call
_squared_difference: Callable[..., Tensor] = torch._C._nn.mse_loss


@dataclass(slots=True)
class BatchMoments:
    """`Moments` of one batch, still on its device.

    Attributes:
        both: shape (2, channels), float64: the mean, and below it the variance M2 / n that train mode
            normalises with.
        rounded: the same in the dtype of the network.
        count: values per channel.
        mean, variance: the rows of ``both``.
        column: the mean with shape (channels, 1).
        rows: the mean and the variance, rounded.
    """

    both: Tensor
    rounded: Tensor
    count: int = 0
    mean: Tensor = field(init=False)
    variance: Tensor = field(init=False)
    column: Tensor = field(init=False)
    rows: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.variance = self.both[0], self.both[1]
        self.column = self.mean.unsqueeze(1)
        self.rows = self.rounded[0], self.rounded[1]

    @classmethod
    def room(cls, values: Tensor, dtype: torch.dtype = torch.float32) -> BatchMoments:
        """Memory for those of values of shape (frames, channels, ...), rounded to a dtype."""
        both = torch.empty(2, values.shape[1], dtype=torch.float64, device=values.device)
        return cls(both, torch.empty_like(both, dtype=dtype))


class _Space(NamedTuple):
    """Memory for values in float64.

    Attributes:
        values: shaped like them.
        flat: the same as a matrix.
        axis: of the matrix, over which the values of one channel lie.
        each: how many these are.
        device: as ``Tensor.get_device`` numbers it.
    """

    values: Tensor
    flat: Tensor
    axis: int
    each: int
    device: int


class Reducer:
    """Computes moments, in memory of its own that is used again and again: a new allocation for each call
    would cost more than the arithmetic. Not for several threads."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.float64)
        self._spaces: dict[torch.Size, _Space] = {}

    def __call__(self, values: Tensor, into: BatchMoments | None = None) -> BatchMoments:
        """The moments of each channel over frames and positions. No gradient is kept.

        Args:
            values: shape (frames, channels, ...).
            into: where to put them; in memory of their own by default.
        """
        if into is None:
            into = BatchMoments.room(values)
        space = self._spaces.get(values.shape)
        plain = values.is_contiguous() and not values.requires_grad
        if space is not None and plain and space.device == values.get_device():
            return _reduced(values, space, into)
        values = _rows(values.detach())
        if values.numel() == 0:
            into.both.zero_()
            into.rounded.zero_()
            into.count = 0
            return into
        if values.numel() <= _most(values):
            return _reduced(values, self._space(values), into)
        return self._merged(values, into)

    def _merged(self, values: Tensor, into: BatchMoments) -> BatchMoments:
        """Mean and variance of more than fits into the memory."""
        parts = []
        for piece in _pieces(values):
            parts.append(_reduced(piece, self._space(piece), BatchMoments.room(piece)))
        into.count = sum(part.count for part in parts)
        shares = torch.tensor([part.count / into.count for part in parts], dtype=torch.float64)
        shares = shares.to(values.device)
        means, variances = torch.stack([part.both for part in parts], dim=1)
        torch.mv(means.t(), shares, out=into.mean)
        torch.mv((variances + (means - into.mean).square_()).t(), shares, out=into.variance)
        into.rounded.copy_(into.both)
        return into

    def _space(self, values: Tensor) -> _Space:
        """Where the values go, in the memory kept for it."""
        size, device = values.numel(), values.get_device()
        known = self._spaces.get(values.shape)
        if known is not None and known.device == device:
            return known
        if self._memory.numel() < size or self._memory.device != values.device:
            self._memory = torch.empty(size, dtype=torch.float64, device=values.device)
            self._spaces.clear()
        if len(self._spaces) > _MOST_SHAPES:
            self._spaces.clear()
        memory = self._memory[:size]
        if values.ndim == 2:
            rows = memory.view(values.shape)
            space = _Space(rows, rows, 0, values.shape[0], device)
        else:  # the values of one channel side by side
            frames, channels, *positions = values.shape
            maps = memory.view(channels, frames, *positions).transpose(0, 1)
            space = _Space(maps, memory.view(channels, -1), 1, size // channels, device)
        self._spaces[values.shape] = space
        return space


def _reduced(values: Tensor, space: _Space, into: BatchMoments) -> BatchMoments:
    """Mean and variance of what fits into the memory."""
    room, flat, axis, into.count, device = space
    room.copy_(values)
    if axis == 0 and device < 0:
        # One operator on the CPU, which centres before it squares. Where the values of a channel lie side by
        # side it is several times slower than what follows.
        mean, variance = torch.batch_norm_update_stats(flat, None, None, 0.0)
        into.mean.copy_(mean)
        into.variance.copy_(variance)
    else:
        torch.mean(flat, axis, out=into.mean)
        _squared_difference(flat, into.column if axis else into.mean, reduction=_EACH, out=flat)
        torch.mean(flat, axis, out=into.variance)
    into.rounded.copy_(into.both)
    return into


def _rows(values: Tensor) -> Tensor:
    """As a matrix (values, channels), where the memory is in that order; as they are otherwise."""
    if values.ndim == 2:
        return values
    if values.shape[0] * values.shape[1] == values.numel():
        return values.flatten(1)
    if values.is_contiguous():
        return values
    last = values.movedim(1, -1)
    return last.flatten(0, -2) if last.is_contiguous() else values


def _most(values: Tensor) -> int:
    """How many are reduced at once."""
    if not values.is_cpu:
        return _PIECE_ON_DEVICE
    return min(_PIECE, values.shape[1] * _IN_A_ROW) if values.ndim == 2 else _PIECE


def _pieces(values: Tensor) -> Iterator[Tensor]:
    """Parts of shape (values, channels) or (frames, channels, positions)."""
    most, channels = _most(values), values.shape[1]
    if values.ndim == 2:
        yield from torch.split(values, max(1, most // channels))
        return
    maps = values.flatten(2)
    positions = maps.shape[2]
    if channels * positions <= most:
        yield from torch.split(maps, max(1, most // (channels * positions)))
        return
    for frame in torch.split(maps, 1):
        yield from torch.split(frame, max(1, most // channels), dim=2)
