"""Mean and squared deviations per channel of one batch, in float64, whatever the batch is computed in.

The values go through in pieces that a cache holds: converted, averaged, centred, squared, and merged as
`Moments` are. Centring before squaring keeps the precision, and the whole costs less than the reduction in
``batch_norm`` that it takes the place of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_PIECE = 1 << 20  # values; 8 MB in float64
_PIECE_ON_DEVICE = 1 << 24
_SMALL = 1 << 15
"""Values up to which the number of operators counts for more than what they do: then torch's own reduction is
taken, which is one operator, exact in float64, and slow."""


_MOST_SHAPES = 256
_AXES = [tuple(axis for axis in range(ndim) if axis != 1) for ndim in range(8)]


@dataclass(frozen=True)
class BatchMoments:
    """`Moments` of one batch, still on its device.

    Attributes:
        count: values per channel.
        mean, variance: shape (channels,), float64; the variance is M2 / n, what train mode normalises with.
    """

    count: int
    mean: Tensor
    variance: Tensor


class Reducer:
    """Computes moments, in memory of its own that is used again and again: a new allocation for each call
    would cost more than the arithmetic. Not for several threads."""

    def __init__(self) -> None:
        self._space: Tensor | None = None
        self._views: dict[torch.Size, Tensor] = {}

    def __call__(self, values: Tensor) -> BatchMoments:
        """The moments of each channel over frames and positions. No gradient is kept.

        Args:
            values: shape (frames, channels, ...).
        """
        channels, total = values.shape[1], values.numel()
        if total == 0:
            empty = values.new_zeros(channels, dtype=torch.float64)
            return BatchMoments(0, empty, empty)
        count = total // channels
        on_device = values.device.type != "cpu"
        if total <= _SMALL and not on_device:
            return BatchMoments(count, *torch.batch_norm_update_stats(self._wide(values), None, None, 0.0))
        if total <= (_PIECE_ON_DEVICE if on_device else _PIECE):
            return BatchMoments(count, *self._piece(values, _AXES[values.ndim]))
        means, variances, shares = [], [], []
        for piece, axes in self._pieces(values):
            mean, variance = self._piece(piece, axes)
            means.append(mean)
            variances.append(variance)
            shares.append(piece.numel() / total)
        weights = torch.tensor(shares, dtype=torch.float64, device=values.device)
        each = torch.stack(means)
        mean = weights @ each
        return BatchMoments(count, mean, weights @ (torch.stack(variances) + (each - mean).square_()))

    def _piece(self, values: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mean and variance of what fits into the memory."""
        wide = self._wide(values)
        mean = wide.mean(axes, keepdim=True)
        wide.sub_(mean)
        return mean.view(-1), wide.square_().mean(axes)

    def _wide(self, values: Tensor) -> Tensor:
        """The values in float64, in the memory kept for it."""
        view = self._views.get(values.shape)
        if view is None or view.device != values.device:
            space = self._space
            enough = space is not None and space.numel() >= values.numel() and space.device == values.device
            if not enough or len(self._views) > _MOST_SHAPES:
                self._views.clear()
            if space is None or not enough:
                space = self._space = torch.empty(values.numel(), dtype=torch.float64, device=values.device)
            view = self._views[values.shape] = space[: values.numel()].view(values.shape)
        return view.copy_(values.detach())

    def _pieces(self, values: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Parts of the values, and the axes to reduce in each."""
        most = _PIECE if values.device.type == "cpu" else _PIECE_ON_DEVICE
        channels = values.shape[1]
        if values.ndim > 2 and not values.is_contiguous() and values.movedim(1, -1).is_contiguous():
            rows = values.movedim(1, -1).reshape(-1, channels)  # channels last
            for piece in torch.split(rows, max(1, most // channels)):
                yield piece, (0,)
            return
        maps = values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)
        positions = maps.shape[2]
        if channels * positions <= most:
            for piece in torch.split(maps, max(1, most // (channels * positions))):
                yield piece, (0, 2)
            return
        for frame in torch.split(maps, 1):
            for piece in torch.split(frame, max(1, most // channels), dim=2):
                yield piece, (0, 2)

