"""Recalibration from samples, as the command line does it: judged without the held-out ones, made of all.

Whole batches are held out, every k-th one. What is judged is the network with the statistics of the others,
on frames of the held-out batches; what is delivered has the statistics of all of them, because moments merge
exactly and no frame has to be lost. In one pass that costs nothing but the comparison; layer by layer it
takes the passes twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Literal

from torch import nn

from bnfold.finding import by_severity
from bnfold.statistics import recalibrate as steps
from bnfold.statistics.batches import Batch, SampleBatches
from bnfold.statistics.distributed import Group
from bnfold.statistics.notes import judged as judged_by
from bnfold.statistics.notes import not_judged
from bnfold.statistics.pooling import Pool, Progress
from bnfold.statistics.recalibration import RecalibrationResult
from bnfold.statistics.writing import check_prior

MOST_JUDGED = 256
"""Frames that are compared at most; each goes through both networks by itself."""
MOST_KEPT = 1 << 28
"""Bytes of prepared frames that are kept in memory from one pass to the next."""


def recalibrate_samples(
    module: nn.Module,
    samples: SampleBatches,
    *,
    prior: float | None = None,
    sequential: bool = False,
    share: float = 0.1,
    group: Group | None = None,
    progress: Progress | None = None,
) -> RecalibrationResult:
    """The network with the statistics of all samples, judged on those held out.

    Args:
        module: it is left as it is.
        samples: all of them; each process takes its batches.
        prior, sequential: as for :func:`bnfold.recalibrate`.
        share: of the batches to hold out; 0: no comparison. A single batch is compared on itself.
        group: the processes; only the first one compares.
        progress: is told how far it has come.

    Raises:
        As :func:`bnfold.recalibrate`; PlatformError BNF-P060 where another process is gone.
    """
    group = group or Group()
    check_prior(module, prior)
    every = _every(share, len(samples))
    started = time.perf_counter()
    copy = steps.working_copy(module)

    def apart(batch: Batch) -> bool:
        return every is not None and batch.number % every == every - 1

    def work() -> tuple[Pool, Pool]:
        mine = samples.select(group.has)
        chosen = apart if every is not None and every > 1 else None
        if not sequential:
            return steps.one_pass(
                copy, mine, guard="frame", exchange=group.exchange, apart=chosen, progress=progress
            )
        return steps.layer_by_layer(
            copy, module, _Kept(mine), prior=prior, guard="frame", exchange=group.exchange, apart=chosen,
            progress=progress, probe=steps.first_usable(samples),
        )  # fmt: skip

    total, rest = group.together(work)
    seconds = time.perf_counter() - started
    method: Literal["layer by layer", "one pass"] = "layer by layer" if sequential else "one pass"
    result = steps.finish(copy, module, total, method=method, prior=prior, seconds=seconds)
    if every is None:
        result.findings = by_severity([*result.findings, not_judged("no frames were held out")])
    elif group.rank == 0:
        if progress is not None:
            progress("comparing before and after")
        _compare(result, module, samples, total, rest, every)
    return result


def judge_on(result: RecalibrationResult, module: nn.Module, samples: SampleBatches) -> None:
    """Compare on samples that the statistics were not taken from."""
    steps.compare(result, module, _thinned(samples, range(len(samples))))


def collect_samples(
    module: nn.Module,
    samples: SampleBatches,
    *,
    group: Group | None = None,
    progress: Progress | None = None,
) -> Pool:
    """The pool of all samples in one pass, to be merged with others."""
    chosen = group or Group()

    def work() -> Pool:
        mine = samples.select(chosen.has)
        copy = steps.working_copy(module)
        return steps.one_pass(copy, mine, guard="frame", exchange=chosen.exchange, progress=progress)[0]

    return chosen.together(work)


def _compare(
    result: RecalibrationResult,
    module: nn.Module,
    samples: SampleBatches,
    total: Pool,
    rest: Pool,
    every: int,
) -> None:
    numbers = range(every - 1, len(samples), every)
    if not rest.frames or rest.frames == total.frames:
        steps.compare(result, module, _thinned(samples, numbers), source="the same")
        return
    judged = steps.finish(steps.working_copy(module), module, rest, method=result.method, prior=result.prior)
    steps.compare(judged, module, _thinned(samples, numbers))
    result.held_out = judged.held_out
    result.findings = judged_by(result.findings, judged.held_out)


class _Kept:
    """Batches that are read once where they are few, and again each time where they are not."""

    def __init__(self, source: Iterable[Batch]) -> None:
        self._source = source
        self._batches: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._batches is not None:
            yield from self._batches
            return
        kept: list[Batch] | None = []
        size = 0
        for batch in self._source:
            size += sum(tensor.nbytes for _, tensor in batch.tensors())
            if size > MOST_KEPT:
                kept = None
            if kept is not None:
                kept.append(batch)
            yield batch
        self._batches = kept


def _every(share: float, batches: int) -> int | None:
    """Every how many batches one is held out; 1 where there is but one, None for none."""
    if share <= 0:
        return None
    return min(max(2, round(1 / share)), batches)


def _thinned(samples: SampleBatches, numbers: range) -> Iterator[Batch]:
    """As many frames of each of these batches that it is not too many in all."""
    chosen = set(numbers)
    most = max(1, MOST_JUDGED // max(len(chosen), 1))
    for batch in samples.select(lambda number: number in chosen):
        yield batch.select(range(min(batch.frames, most)))
