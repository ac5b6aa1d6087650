"""What the worst channels give in train mode and in eval mode, as counts: two more passes, on request.

Of every batch evenly spaced values are kept, at most 20,000 of a channel in all, so the memory does not grow
with the number of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnfold.statistics.batches import Batch
from bnfold.statistics.diagnose.gap import Gap
from bnfold.statistics.diagnose.passes import Mode
from bnfold.statistics.observe import Call, answering

Array = NDArray[np.float64]

MOST = 6
"""Channels that are looked at."""

_OF_ONE_CALL, _VALUES, _BINS = 2, 20_000, 40
_TAIL = 0.5  # percent on either side that the outermost bins take in


@dataclass(frozen=True)
class Histogram:
    """The output of one channel of one BatchNorm call, over the same frames in both modes.

    Attributes:
        name: of the call.
        channel: its number.
        edges: shape (bins + 1,), ascending; the outermost bins hold what is beyond them as well.
        train, evaluated: counts, shape (bins,): of values that are finite.
        not_finite: how many of the values looked at are not finite, in train mode and in eval mode.
    """

    name: str
    channel: int
    edges: Array
    train: NDArray[np.int64]
    evaluated: NDArray[np.int64]
    not_finite: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name,
            "channel": self.channel,
            "edges": self.edges.tolist(),
            "train": self.train.tolist(),
            "eval": self.evaluated.tolist(),
            "not_finite": {"train": self.not_finite[0], "eval": self.not_finite[1]},
        }


def worst(gaps: Mapping[str, Gap], most: int = MOST) -> list[tuple[str, int]]:
    """The channels with the largest gaps, at most two of a call, the worst first; by call and number.

    A gap that is no number is the largest: the stored value is not finite. Of these the earliest calls.
    """
    found: list[tuple[float, int, str, int]] = []
    for place, (name, gap) in enumerate(gaps.items()):
        size = np.sqrt(np.square(gap.mean) + np.square(gap.scale))
        size = np.where(np.isfinite(size), size, np.inf)
        order = np.argsort(-size, kind="stable")[:_OF_ONE_CALL]
        found += [(-float(size[channel]), place, name, int(channel)) for channel in order]
    return [(name, channel) for _, _, name, channel in sorted(found)[:most]]


def histograms(
    module: nn.Module, batches: Sequence[Batch], chosen: Sequence[tuple[str, int]]
) -> list[Histogram]:
    """Run the frames in both modes and count what the chosen channels give.

    Args:
        module: in eval mode; a copy, as for `passes.run`.
        batches: of at least two frames each.
        chosen: calls and channels, as `worst` gives them.
    """
    if not chosen:
        return []
    trained = _values(module, batches, chosen, "train")
    evaluated = _values(module, batches, chosen, "eval")
    return [
        _histogram(name, channel, trained[name, channel], evaluated[name, channel])
        for name, channel in chosen
    ]


def _values(
    module: nn.Module, batches: Sequence[Batch], chosen: Sequence[tuple[str, int]], mode: Mode
) -> dict[tuple[str, int], Array]:
    kept: dict[tuple[str, int], list[Array]] = {pair: [] for pair in chosen}
    share = max(1, _VALUES // len(batches))

    def answer(call: Call) -> Tensor:
        result = call.by_batch() if mode == "train" else call.as_called()
        for name, channel in chosen:
            if name == call.name:
                values = result[:, channel].detach().reshape(-1)
                at = np.unique(np.linspace(0, len(values) - 1, min(share, len(values))).astype(int))
                picked = values[torch.from_numpy(at).to(values.device)]
                kept[name, channel].append(picked.double().cpu().numpy())
        return result

    with torch.no_grad(), answering(module, answer):
        for batch in batches:
            batch.run(module)
    return {pair: np.concatenate(parts) if parts else np.zeros(0) for pair, parts in kept.items()}


def _histogram(name: str, channel: int, trained: Array, evaluated: Array) -> Histogram:
    finite = [values[np.isfinite(values)] for values in (trained, evaluated)]
    edges = _edges(*finite)
    counts = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for values in finite]
    lost = (len(trained) - len(finite[0]), len(evaluated) - len(finite[1]))
    return Histogram(name, channel, edges, counts[0], counts[1], lost)


def _edges(trained: Array, evaluated: Array) -> Array:
    """Bins of equal width; where one mode reaches much further, of equal width in asinh."""
    ends = [np.percentile(values, [_TAIL, 100 - _TAIL]) for values in (trained, evaluated) if len(values)]
    if not ends:
        return np.linspace(-1.0, 1.0, _BINS + 1)
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    if not high > low:
        pad = max(abs(low), 1.0) / 2
        return np.linspace(low - pad, high + pad, _BINS + 1)
    narrow = min((float(end[1] - end[0]) for end in ends if end[1] > end[0]), default=high - low)
    if high - low <= 30 * narrow:
        return np.linspace(low, high, _BINS + 1)
    unit = narrow / 4
    edges = unit * np.sinh(np.linspace(np.arcsinh(low / unit), np.arcsinh(high / unit), _BINS + 1))
    return np.asarray(np.unique(edges))
