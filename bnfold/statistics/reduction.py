"""Mean and squared deviations per channel of one batch, in float64, whatever the batch is computed in.

The values go through in pieces that a cache holds: converted, averaged, centred, squared, and merged as
`Moments` are. Centring before squaring costs nothing of the precision, and the whole costs less than the
reduction in ``batch_norm`` that it takes the place of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnfold.statistics.moments import Moments

_PIECE = 1 << 18  # values; 2 MB in float64
_PIECE_ON_DEVICE = 1 << 24


@dataclass(frozen=True)
class BatchMoments:
    """`Moments` of one batch, still on its device.

    Attributes:
        count: values per channel.
        mean, m2: shape (channels,), float64.
    """

    count: int
    mean: Tensor
    m2: Tensor

    @property
    def variance(self) -> Tensor:
        """Shape (channels,): of the batch, M2 / n: what train mode normalises with."""
        return self.m2 / max(self.count, 1)


def batch_moments(values: Tensor) -> BatchMoments:
    """The moments of each channel over frames and positions.

    Args:
        values: shape (frames, channels, ...).
    """
    channels = values.shape[1]
    count = values.numel() // max(channels, 1)
    means, squares, counts = [], [], []
    for piece, axes, shape in _pieces(values.detach()):
        wide = piece.to(torch.float64, copy=True)
        mean = wide.mean(axes)
        wide.sub_(mean.reshape(shape))
        means.append(mean)
        squares.append(wide.square_().sum(axes))
        counts.append(piece.numel() // channels)
    if not means:
        empty = values.new_zeros(channels, dtype=torch.float64)
        return BatchMoments(0, empty, empty)
    if len(means) == 1:
        return BatchMoments(count, means[0], squares[0])
    weights = torch.tensor(counts, dtype=torch.float64, device=values.device)[:, None]
    each = torch.stack(means)
    mean = (weights * each).sum(0) / count
    return BatchMoments(count, mean, torch.stack(squares).sum(0) + (weights * (each - mean).square_()).sum(0))


def _pieces(values: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...], tuple[int, ...]]]:
    """Parts of the values, the axes to reduce in each, and the shape of a channel's number among them."""
    most = _PIECE if values.device.type == "cpu" else _PIECE_ON_DEVICE
    channels = values.shape[1]
    if values.numel() == 0:
        return
    if values.ndim > 2 and not values.is_contiguous() and values.movedim(1, -1).is_contiguous():
        rows = values.movedim(1, -1).reshape(-1, channels)  # channels last
        for piece in torch.split(rows, max(1, most // channels)):
            yield piece, (0,), (1, channels)
        return
    maps = values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)
    positions = maps.shape[2]
    shape = (1, channels, 1)
    if channels * positions <= most:
        for piece in torch.split(maps, max(1, most // (channels * positions))):
            yield piece, (0, 2), shape
        return
    for frame in torch.split(maps, 1):
        for piece in torch.split(frame, max(1, most // channels), dim=2):
            yield piece, (0, 2), shape


def to_numpy(moments: Sequence[BatchMoments]) -> list[Moments]:
    """The same on the CPU, brought there in one go."""
    if not moments:
        return []
    flat = torch.cat([part for one in moments for part in (one.mean, one.m2)]).cpu().numpy()
    result, at = [], 0
    for one in moments:
        width = len(one.mean)
        result.append(Moments(one.count, flat[at : at + width], flat[at + width : at + 2 * width]))
        at += 2 * width
    return result
