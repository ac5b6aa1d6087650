"""Is the network better with other statistics? Asked on frames that they were not taken from.

Each frame goes through both networks by itself, in eval mode. With class numbers the question is which of the
two answers more of them right. Without, it is how well the stored statistics describe what the layers see:

    gap = (log(s / (v + eps)) + (v_f + eps + (m_f - mean)^2) / s - 1) / 2,   s = variance + eps

per channel, averaged over the channels of a call and over the calls; m_f and v_f are the frame's own moments,
v is the variance over all frames. Its mean over the frames is the Kullback-Leibler divergence, in nats,
of a normal distribution with the stored statistics from one with the frames'. It is 0 where they
agree, and 0.005 for a mean that is off by a tenth of a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.statistics.batches import Batch
from bnfold.statistics.forward import Forward
from bnfold.statistics.moments import Moments
from bnfold.statistics.observe import Call
from bnfold.statistics.packed import Packed
from bnfold.statistics.reduction import Reducer

Array = NDArray[np.float64]

MARGIN = 0.005
"""Nats: a gap that grew by less is no harm."""
_CHANCE = 2.0
"""Over the number of frames: nats that statistics of so few frames cost by chance. Mean and variance of n
independent values of a normal distribution are 1 / n nats from its own, on average; twice that is allowed.
The old statistics may have seen the frames that are compared on, so these have to stand for others too."""
_SIGNIFICANT = 2.0  # standard errors
_ALONE = math.sqrt(0.5)
"""Nats: what the gap of one frame varies by, where it is one value: (z^2 - 1) / 2 of a normal z."""
_LEVEL = 0.05  # of the sign test on the answers


@dataclass(frozen=True)
class Measure:
    """One network on the held-out frames.

    Attributes:
        finite: frames whose outputs are all finite.
        gap: nats per channel; infinite where a layer's statistics or input are not finite.
        right: frames that are answered right; None without class numbers.
    """

    finite: int
    gap: float
    right: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        gap = self.gap if math.isfinite(self.gap) else None
        return {"finite": self.finite, "gap": gap, "right": self.right}


@dataclass(frozen=True)
class HeldOut:
    """Both networks on the same frames.

    Attributes:
        frames: how many.
        source: ``held out``, or ``the same`` where the statistics were taken from these frames too.
        before, after: the two networks.
        worse: why the second is worse; empty where it is not.
    """

    frames: int
    source: str
    before: Measure
    after: Measure
    worse: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "frames": self.frames,
            "source": self.source,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "worse": self.worse or None,
        }


def compare(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[Batch],
    *,
    pooled: int = 0,
    source: str = "held out",
) -> HeldOut | None:
    """Both networks, in eval mode, frame by frame; None where no frame can be used.

    A batch whose frames cannot be told apart counts as one.

    Args:
        before, after: the networks.
        batches: to run through both.
        pooled: frames that the new statistics are of; 0 where they are of none.
        source: of the batches, for the report.
    """
    networks = _Network(before), _Network(after)
    frames = 0
    for batch in batches:
        usable = batch.without(batch.unusable())
        if usable is None:
            continue
        for row in range(usable.frames):
            frame = usable.select([row]) if usable.batched else usable
            frames += 1
            for network in networks:
                network.see(frame)
    if not frames:
        return None
    first, second = (network.gaps() for network in networks)
    labelled = all(None not in network.right for network in networks)
    old, new = (
        Measure(sum(network.finite), _mean(gaps), sum(map(bool, network.right)) if labelled else None)
        for network, gaps in zip(networks, (first, second), strict=True)
    )
    if new.finite != old.finite:
        worse = _fewer_finite(old, new, frames)
    elif labelled:
        worse = _fewer_right(networks[0].right, networks[1].right, frames)
    else:
        chance = _CHANCE / pooled + 1 / frames if pooled else 0.0
        worse = _wider(first, second, max(MARGIN, chance))
    return HeldOut(frames, source, old, new, worse)


class _Network:
    """What one network does with each frame.

    Attributes:
        finite: by frame, whether all outputs are.
        right: by frame, whether the answer is; None where that cannot be told.
    """

    def __init__(self, module: nn.Module) -> None:
        self._forward = Forward(module)
        self._moments = Reducer()
        self._stored: dict[str, tuple[Array, Array, float]] = {}
        self._seen: list[dict[str, Moments]] = []
        self.finite: list[bool] = []
        self.right: list[bool | None] = []

    def see(self, frame: Batch) -> None:
        """One frame, as a batch."""
        names, moments = [], []

        def answer(call: Call) -> Tensor:
            target = self._forward.target(call)
            if target is not None and not call.uses_batch:
                names.append(call.name)
                moments.append(self._moments(call.input))
                if call.name not in self._stored:
                    mean, variance = (
                        tensor.detach().double().cpu().numpy().reshape(-1)
                        for tensor in self._forward.targets.tensors(target)
                    )
                    self._stored[call.name] = mean, variance, call.eps
            return call.in_eval()

        output = self._forward.run(frame, answer)
        leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        self._seen.append(dict(zip(names, Packed.of(moments).split(), strict=True)))
        self.finite.append(all(bool(torch.isfinite(leaf).all()) for leaf in leaves))
        self.right.append(_right(leaves, frame))

    def gaps(self) -> Array:
        """Shape (frames,): in nats per channel."""
        total, calls = np.zeros(len(self._seen)), np.zeros(len(self._seen))
        for name, (mean, variance, eps) in self._stored.items():
            at = [i for i, seen in enumerate(self._seen) if name in seen]
            moments = [self._seen[i][name] for i in at]
            with np.errstate(all="ignore"):
                pooled = Moments.merged(moments, len(mean)).variance + eps
                scale = variance + eps
                spread = np.stack([one.variance + eps + np.square(one.mean - mean) for one in moments])
                gap = (np.log(scale / pooled) + spread / scale - 1) / 2
            total[at] += np.where(np.isfinite(gap), gap, math.inf).mean(axis=1)
            calls[at] += 1
        return np.asarray(total / np.maximum(calls, 1))


def _right(outputs: list[Tensor], frame: Batch) -> bool | None:
    """Whether the one output that is a list of scores has its largest at the frame's class number."""
    scores = [leaf for leaf in outputs if leaf.ndim == 2 and leaf.shape[0] == frame.frames]
    if frame.labels is None or len(scores) != 1:
        return None
    label = int(frame.labels[0])
    if not 0 <= label < scores[0].shape[1]:
        return None
    return bool(torch.isfinite(scores[0]).all()) and int(scores[0][0].argmax()) == label


def _mean(gaps: Array) -> float:
    return float(gaps.mean()) if np.isfinite(gaps).all() else math.inf


def _fewer_finite(old: Measure, new: Measure, frames: int) -> str:
    if new.finite >= old.finite:
        return ""
    broken = frames - new.finite
    return f"the outputs of {broken} of {frames} frames are not finite, {frames - old.finite} before"


def _fewer_right(before: list[bool | None], after: list[bool | None], frames: int) -> str:
    """By the sign test on the frames that are answered otherwise (McNemar 1947, exact)."""
    lost = sum(bool(b) and not a for b, a in zip(before, after, strict=True))
    won = sum(bool(a) and not b for b, a in zip(before, after, strict=True))
    if lost <= won:
        return ""
    chance = sum(math.comb(lost + won, k) for k in range(lost, lost + won + 1)) / 2 ** (lost + won)
    if chance > _LEVEL:
        return ""
    right = sum(map(bool, before))
    return f"{right - lost + won} of {frames} frames are answered right, {right} before"


def _wider(before: Array, after: Array, margin: float) -> str:
    """Whether the gap grew by more than the margin, and by more than chance."""
    if not np.isfinite(before).all():
        return ""
    if not np.isfinite(after).all():
        return "what the layers see, or their statistics, is not finite"
    grown = after - before
    error = float(grown.std(ddof=1)) / math.sqrt(len(grown)) if len(grown) > 1 else _ALONE
    if grown.mean() <= max(margin, _SIGNIFICANT * error):
        return ""
    return (
        f"the statistics are further from what the layers see: {after.mean():.3g} nats per channel, "
        f"{before.mean():.3g} before"
    )
