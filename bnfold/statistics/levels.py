"""Which layers can be pooled together: those whose inputs do not depend on each other.

Found by trying: every BatchNorm call is answered with random numbers, twice, and a call whose input stays the
same to the last bit depends on none of those that were answered differently. That holds for the weights at
hand, through whatever operators the network uses.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from bnfold.errors import UsageError
from bnfold.statistics.batches import Batch
from bnfold.statistics.forward import Forward
from bnfold.statistics.observe import Call
from bnfold.statistics.targets import Target

_ENOUGH = 2  # frames: the question is not what the values are


@dataclass(frozen=True)
class Level:
    """Layers that are pooled in one pass.

    Attributes:
        targets: in execution order.
        calls: the names of all their calls; the pass ends when they have been seen.
        entangled: the targets with a call that depends on another call of the same statistics, or of deeper
            ones: no order of passes is exact for those.
    """

    targets: tuple[Target, ...]
    calls: frozenset[str]
    entangled: tuple[Target, ...]


def levels(forward: Forward, batch: Batch) -> list[Level]:
    """The levels in execution order, from what the network does with one batch.

    Raises:
        UsageError: forward fails on it (BNF-U120).
    """
    if batch.batched and batch.frames > _ENOUGH:
        try:
            return _levels(forward, batch.select(range(_ENOUGH)))
        except UsageError:  # a network may insist on the size of its batch
            pass
    return _levels(forward, batch)


def _levels(forward: Forward, batch: Batch) -> list[Level]:
    found: list[Level] = []
    done: set[Target] = set()
    while True:
        one, other = (_inputs(forward, batch, done, seed) for seed in (1, 2))
        same = {name for name, (_, digest) in one.items() if other.get(name, (None, ""))[1] == digest}
        calls: dict[Target, list[str]] = {}
        for name, (target, _) in one.items():
            if target not in done:
                calls.setdefault(target, []).append(name)
        if not calls:
            return found
        ready = [target for target, names in calls.items() if names[0] in same]
        ready = ready or [next(iter(calls))]  # what comes first depends on none, however random the network
        found.append(
            Level(
                tuple(ready),
                frozenset(name for target in ready for name in calls[target]),
                tuple(target for target in ready if not same.issuperset(calls[target])),
            )
        )
        done.update(ready)


def _inputs(forward: Forward, batch: Batch, done: set[Target], seed: int) -> dict[str, tuple[Target, str]]:
    """By call, in execution order: its target, and a digest of its input while all calls give noise."""
    found: dict[str, tuple[Target, str]] = {}

    def answer(call: Call) -> Tensor:
        target = forward.target(call)
        if target is None:
            return call.in_eval()
        content = call.input.detach().contiguous().view(torch.uint8).cpu().numpy()
        found[call.name] = target, hashlib.blake2b(content.tobytes()).hexdigest()
        return _noise(call, 0 if target in done else seed)

    forward.run(batch, answer)
    return found


def _noise(call: Call, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(call.name.encode()) * 4 + seed)
    return torch.randn(call.input.shape, generator=generator).to(call.input)
