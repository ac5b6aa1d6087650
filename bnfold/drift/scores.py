"""Normal scores: each channel's ranks among the pooled frames, as quantiles of the normal distribution.

Whatever a channel's tails, its scores are bounded and the same for every channel (van der Waerden, 1952). A
value that occurs several times has the mean of its ranks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.distributions import normal_quantile

Array = NDArray[np.float32]


_AT_ONCE = 64


@lru_cache(maxsize=64)
def _table(frames: int) -> Array:
    """The score of rank 0, 1/2, 1, 3/2, ... frames - 1; mid-ranks have halves."""
    ranks = np.arange(2 * frames - 1) / 2
    return np.array([normal_quantile((rank + 0.5) / frames) for rank in ranks], dtype=np.float32)


def normal_scores(values: NDArray[Any]) -> Array:
    """Float32, shape (frames, channels): scores with mean 0 and variance 1 over the frames of each channel.

    A channel that is constant has score 0 everywhere. Bytes are counted and not sorted, which is faster.
    """
    found = _counted(values) if values.dtype == np.uint8 else _sorted(values)
    found -= found.mean(axis=1, keepdims=True)
    deviation = found.std(axis=1, keepdims=True)
    found /= np.where(deviation > 1e-6, deviation, np.inf)
    return found.T


def _counted(codes: NDArray[np.uint8]) -> Array:
    """Shape (channels, frames)."""
    channels = codes.shape[1]
    # so many channels at once that their counts stay in the cache
    parts = [_counted_part(codes[:, at : at + _AT_ONCE]) for at in range(0, max(channels, 1), _AT_ONCE)]
    return np.concatenate(parts)


def _counted_part(codes: NDArray[np.uint8]) -> Array:
    frames, channels = codes.shape
    places = codes.T + np.arange(0, 256 * channels, 256)[:, None]
    counts = np.bincount(places.reshape(-1), minlength=256 * channels).reshape(channels, 256)
    # Of `counts` equal values after which `up_to` are done, the first and the last place
    up_to = counts.cumsum(axis=1)
    return np.asarray(_table(frames)[np.take(2 * up_to - counts - 1, places)])


def _sorted(values: NDArray[Any]) -> Array:
    """Shape (channels, frames)."""
    frames = len(values)
    rows = np.ascontiguousarray(values.T)
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    begins = np.ones(ordered.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    twice = np.broadcast_to(2 * np.arange(frames), ordered.shape).copy()
    tied = np.flatnonzero(~begins.all(axis=1))
    twice[tied] = _twice_mean_rank(begins[tied])
    found = np.empty(rows.shape, dtype=np.float32)
    np.put_along_axis(found, order, _table(frames)[twice], axis=1)
    return found


def _twice_mean_rank(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The sum of the first and the last place of the run of equal values that each place is in."""
    frames = begins.shape[1]
    places = np.broadcast_to(np.arange(frames), begins.shape)
    ends = np.ones_like(begins)
    ends[:, :-1] = begins[:, 1:]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, places, frames)[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(first + last)
