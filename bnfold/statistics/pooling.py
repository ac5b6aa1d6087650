"""Population statistics of a network over batches: all layers in one pass, or layer by layer.

One pass: every call is normalised by its own batch, as in training, while the values of all batches are
pooled. The first layer's statistics are exact; those behind it are the exact population of what a network
in train mode computes, which in eval mode it does not quite: the smaller and the more alike the batches, the
less so.

Layer by layer: a layer is pooled when all before it have their new statistics and are in eval mode. All
statistics are then exact for the network in eval mode, and no batch is ever normalised by itself. Layers of
one level (branches) are pooled in one pass; a pass ends at the last of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bnfold.errors import StatisticsError, UsageError
from bnfold.statistics.batches import Batch
from bnfold.statistics.forward import Forward, Seen, Site
from bnfold.statistics.levels import Level
from bnfold.statistics.moments import Moments
from bnfold.statistics.packed import Total
from bnfold.statistics.skipped import Guard, Skipped
from bnfold.statistics.targets import Target

Progress = Callable[[str], None]
_EVERY = 1.0  # seconds between two words on the progress


@dataclass
class Pool:
    """What a set of batches comes to.

    Attributes:
        moments: by target, of all values that its calls have seen.
        frames: that have been used.
        batches: that have been used, whole or in part.
        skipped: what was left out.
        sites: where each target is used.
        foreign: calls whose statistics are not the module's, by name, with the reason.
        untouched: layers whose statistics no call has read, by name, with the reason.
        entangled: layers for which no order of passes is exact.
    """

    moments: dict[Target, Moments] = field(default_factory=dict)
    frames: int = 0
    batches: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    sites: dict[Target, Site] = field(default_factory=dict)
    foreign: dict[str, str] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    entangled: list[str] = field(default_factory=list)

    def add(self, target: Target, moments: Moments) -> None:
        """Some more values of one target."""
        have = self.moments.get(target)
        self.moments[target] = moments if have is None else have + moments

    def __add__(self, other: Pool) -> Pool:
        """The union of two disjoint sets of batches through one network."""
        total = Pool(
            dict(self.moments),
            self.frames + other.frames,
            self.batches + other.batches,
            _in_order([*self.skipped, *other.skipped]),
            self.sites | {key: site for key, site in other.sites.items() if key not in self.sites},
            {**other.foreign, **self.foreign},
            # a layer that only some of the batches went through has been read
            {
                name: reason
                for name, reason in (self if self.frames else other).untouched.items()
                if name in self.untouched and name in other.untouched
            },
            self.entangled or other.entangled,
        )
        for target, moments in other.moments.items():
            total.add(target, moments)
        return total


class Collector:
    """Adds batches up to a pool."""

    def __init__(self) -> None:
        self._pool = Pool()
        # by the calls that batches go through: the same ones, nearly always
        self._totals: dict[tuple[Target, ...], Total] = {}

    def count(self, seen: Seen, skipped: list[Skipped]) -> None:
        """One more batch, as `Forward.pool` gives it."""
        if seen.frames:
            total = self._totals.get(seen.targets)
            if total is None:
                total = self._totals[seen.targets] = Total(seen.moments)
            total.add(seen.moments)
            self._pool.frames += seen.frames
            self._pool.batches += 1
        self._pool.skipped += skipped

    def pool(self, forward: Forward) -> Pool:
        """All of them, with what the forward passes have shown of the network."""
        for targets, total in self._totals.items():
            for target, one in zip(targets, total.packed().split(), strict=True):
                self._pool.add(target, one)
        self._totals.clear()
        return replace(
            self._pool,
            sites=dict(forward.sites),
            foreign=dict(forward.foreign),
            untouched=forward.untouched(),
        )


Exchange = Callable[[Pool], Pool]
"""What several processes make of their parts: the whole, the same in each of them."""


def alone(pool: Pool) -> Pool:
    """The exchange of a process that has all batches."""
    return pool


class Watch:
    """Says how far a pass has come, and how fast, now and then."""

    def __init__(self, progress: Progress | None, what: str) -> None:
        self._progress, self._what = progress, what
        self._start = self._last = time.perf_counter()
        self._frames = 0

    def count(self, frames: int) -> None:
        """Some more frames are through."""
        self._frames += frames
        now = time.perf_counter()
        if self._progress is not None and now - self._last >= _EVERY:
            self._last = now
            rate = self._frames / (now - self._start)
            self._progress(f"{self._what}: {self._frames:,} frames, {rate:,.0f} frames/s")


def one_pass(
    forward: Forward,
    batches: Iterable[Batch],
    *,
    guard: Guard = "batch",
    progress: Progress | None = None,
    apart: Callable[[Batch], bool] | None = None,
) -> tuple[Pool, Pool]:
    """The pools of all batches in one pass: of those for which ``apart`` does not hold, and of the others."""
    collectors = Collector(), Collector()
    watch = Watch(progress, "pooling")
    for batch in batches:
        collector = collectors[apart is not None and apart(batch)]
        collector.count(*forward.pool(batch, guard=guard))
        watch.count(batch.frames)
    rest, others = (collector.pool(forward) for collector in collectors)
    return rest, others


def layer_by_layer(
    forward: Forward,
    batches: Iterable[Batch],
    plan: Sequence[Level],
    write: Callable[[Target, Pool], None],
    *,
    guard: Guard = "batch",
    exchange: Exchange = alone,
    progress: Progress | None = None,
) -> Pool:
    """The pool of all batches, a level of layers at a time.

    A batch that turns out unusable at a deeper level is taken out of all: the passes begin anew without it.

    Args:
        forward: of the module whose statistics ``write`` replaces as they are found.
        batches: iterable again and again, the same batches each time.
        plan: which layers are pooled together, from `levels`.
        write: puts the statistics of a target into the module.
        guard: as for `Forward.pool`.
        exchange: with other processes, after each pass; every process calls it as often.
        progress: is told how far it has come.

    Raises:
        StatisticsError: no batch can be used (BNF-A060).
        UsageError: the batches are others than in the pass before (BNF-U121).
    """
    inside: list[Skipped] = []
    while True:
        sweep = _Sweep(forward, batches, guard, _rows(inside), progress)
        fresh = sweep.run(plan, write, exchange)
        if not fresh:
            sweep.total.skipped = _in_order([*sweep.total.skipped, *inside])
            return sweep.total
        inside += fresh


class _Sweep:
    """All levels once."""

    def __init__(
        self,
        forward: Forward,
        batches: Iterable[Batch],
        guard: Guard,
        known: Mapping[int, set[int]],
        progress: Progress | None,
    ) -> None:
        self._forward, self._batches, self._guard = forward, batches, guard
        self._known, self._progress = known, progress
        self._given = -1
        self.total = Pool()

    def run(
        self, plan: Sequence[Level], write: Callable[[Target, Pool], None], exchange: Exchange
    ) -> list[Skipped]:
        """What was found unusable too late: at a level behind the first one."""
        done: set[Target] = set()
        for number, level in enumerate(plan):
            pool = exchange(self._pass(level, frozenset(done), f"level {number + 1} of {len(plan)}"))
            check_usable(pool)
            late = [one for one in pool.skipped if one.inside]
            if late and number:
                return late
            if not number:
                self.total = replace(pool, moments={})
                self._known = {**self._known, **_rows(late)}
            for target in level.targets:
                if target in pool.moments:
                    self.total.add(target, pool.moments[target])
                    write(target, pool)
            done.update(level.targets)
        return []

    def _pass(self, level: Level, done: frozenset[Target], what: str) -> Pool:
        collector, given = Collector(), 0
        watch = Watch(self._progress, what)
        for batch in self._batches:
            given += batch.frames
            watch.count(batch.frames)
            rest = self._without_known(batch)
            if rest is None:
                continue
            seen, skipped = self._forward.pool(
                rest, guard=self._guard, wanted=set(level.targets), done=done, until=len(level.calls)
            )
            collector.count(seen, skipped)
        if self._given not in (-1, given):
            raise UsageError(
                "BNF-U121",
                f"the batches have {given:,} frames, and had {self._given:,} in the pass before",
                where="batches",
                fix="give the same batches each time they are iterated, or use one pass",
            )
        self._given = given
        return collector.pool(self._forward)

    def _without_known(self, batch: Batch) -> Batch | None:
        bad = self._known.get(batch.number)
        if bad is None:
            return batch
        rows = [row for row in range(batch.frames) if row not in bad]
        return batch.select(rows) if rows and self._guard == "frame" and batch.batched else None


def check_usable(pool: Pool) -> None:
    """Refuse a pool of nothing.

    Raises:
        StatisticsError: every batch was left out (BNF-A060).
    """
    if pool.frames:
        return
    first = pool.skipped[0] if pool.skipped else None
    lone = first is not None and first.lone
    raise StatisticsError(
        "BNF-A060",
        f"none of {len({one.batch for one in pool.skipped})} batches can be used"
        if first is not None
        else "there are no frames to pool",
        where=first.describe() if first is not None else "batches",
        fix="give larger batches, or pool layer by layer: sequential=True, --sequential"
        if lone
        else "look at how the frames are read and prepared",
    )


def _rows(skipped: Iterable[Skipped]) -> dict[int, set[int]]:
    rows: dict[int, set[int]] = {}
    for one in skipped:
        rows.setdefault(one.batch, set()).update(one.index)
    return rows


def _in_order(skipped: Iterable[Skipped]) -> list[Skipped]:
    return sorted(skipped, key=lambda one: (one.batch, one.index))
