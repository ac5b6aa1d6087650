"""New population statistics from data: collect, write into a copy, compare before with after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from bnfold.capture.isolation import private_copy
from bnfold.errors import UsageError
from bnfold.statistics import held_out as judging
from bnfold.statistics import pooling
from bnfold.statistics.batches import Batch, Batches
from bnfold.statistics.forward import Forward
from bnfold.statistics.layers import layers_of
from bnfold.statistics.levels import Level, levels
from bnfold.statistics.notes import judged, notes
from bnfold.statistics.pooling import Exchange, Pool, Progress
from bnfold.statistics.recalibration import Method, RecalibrationResult
from bnfold.statistics.skipped import Guard
from bnfold.statistics.writing import Writer, check_prior

Apart = Callable[[Batch], bool]


def recalibrate(
    module: nn.Module,
    batches: Iterable[Any],
    *,
    prior: float | None = None,
    sequential: bool = False,
    held_out: Iterable[Any] | None = None,
    guard: Guard = "batch",
    progress: Progress | None = None,
) -> RecalibrationResult:
    """A copy of the network with the population statistics of these batches.

    The old statistics are thrown away first, so that nothing of a NaN stays; the new ones are the exact mean
    and variance of all values that a layer sees, over frames and positions, however unequal the batches:
    accumulated in float64 (Chan, Golub and LeVeque 1979), with the variance between batches. A module holds
    ``running_var = M2 / (n - 1)``, the estimate that BatchNorm makes too, rounded once to its dtype. A layer
    that is called at several places pools the values of all.

    Args:
        module: any; it is copied, and left as it is, its mode and its buffers included.
        batches: an iterable of batches, each a tensor, a tuple of forward's arguments, or a dictionary by
            parameter. ``(inputs, labels)`` of a DataLoader is taken for inputs where forward takes one
            argument, or where the second is a vector of class numbers. Iterated once; with ``sequential``
            once per level of layers.
        prior: blend with the old statistics, which count for this many frames (Schneider et al. 2020,
            arXiv 2006.16971): ``mean = (N old + n new) / (N + n)``, and E[x^2] likewise.
        sequential: layer by layer, each in front of it already in eval mode with its new statistics: exact
            for the network in eval mode. Without, all layers in one pass, each batch normalised by itself as
            in training: tiny or uniform batches then leave a gap in deeper layers.
        held_out: batches that the statistics are not taken from, to compare before and after on; with class
            numbers in the manner of a DataLoader, by right answers.
        guard: what to leave out where a value is NaN, infinite, or too large for its square to be a float32:
            the ``batch`` for all layers, or the ``frame`` where it can be told.
        progress: is called now and then with how many frames are through, and how fast.

    Returns:
        The result; ``result.module`` is the copy. Where it is worse on the held-out frames, ``result.passed``
        is False and a finding says why.

    Raises:
        UsageError: no module (BNF-U026); batches that are none or do not fit (BNF-U080 to BNF-U082,
            BNF-U120, BNF-U121); a prior that is no count of frames (BNF-U122); no BatchNorm to recalibrate
            (BNF-U123).
        StatisticsError: no batch can be used (BNF-A060); a prior with old statistics that are not finite
            (BNF-A061); a statistic beyond the range of its dtype (BNF-A062).
        CaptureError: the module cannot be copied (BNF-C012).
    """
    if not isinstance(module, nn.Module):
        raise UsageError("BNF-U026", f"{type(module).__name__} is no torch.nn.Module")
    check_prior(module, prior)
    started = time.perf_counter()
    source = Batches(batches, module, again=sequential)
    copy = working_copy(module)
    if sequential:
        pool, _ = layer_by_layer(copy, module, source, prior=prior, guard=guard, progress=progress)
    else:
        pool, _ = one_pass(copy, source, guard=guard, progress=progress)
    seconds = time.perf_counter() - started
    method: Method = "layer by layer" if sequential else "one pass"
    result = finish(copy, module, pool, method=method, prior=prior, seconds=seconds)
    if held_out is not None:
        compare(result, module, Batches(held_out, module))
    return result


def one_pass(
    copy: nn.Module,
    source: Iterable[Batch],
    *,
    guard: Guard = "batch",
    exchange: Exchange = pooling.alone,
    apart: Apart | None = None,
    progress: Progress | None = None,
) -> tuple[Pool, Pool]:
    """The pool of all batches through a working copy, and that of those for which ``apart`` does not hold."""
    forward = Forward(copy)
    rest, others = pooling.one_pass(forward, source, guard=guard, progress=progress, apart=apart)
    rest, others = exchange(rest), exchange(others)
    total = rest + others
    pooling.check_usable(total)
    return total, rest


def layer_by_layer(
    copy: nn.Module,
    module: nn.Module,
    source: Iterable[Batch],
    *,
    prior: float | None = None,
    guard: Guard = "batch",
    exchange: Exchange = pooling.alone,
    apart: Apart | None = None,
    progress: Progress | None = None,
    probe: Batch | None = None,
) -> tuple[Pool, Pool]:
    """The same layer by layer; where some are set apart, all passes are made twice.

    Args:
        copy: a working copy, whose statistics are replaced on the way.
        module: the original, with the old statistics.
        probe: a batch to find the levels with, the same in every process; by default the first usable one.
    """
    forward = Forward(copy)
    plan = levels(forward, probe if probe is not None else first_usable(source))

    def run(batches: Iterable[Batch]) -> Pool:
        writer = Writer(copy, module, prior)
        pool = pooling.layer_by_layer(
            forward, batches, plan, writer.write, guard=guard, exchange=exchange, progress=progress
        )
        pool.entangled = _entangled(plan)
        return pool

    rest = run(_Without(source, apart)) if apart is not None else None
    total = run(source)
    return total, total if rest is None else rest


def finish(
    copy: nn.Module,
    module: nn.Module,
    pool: Pool,
    *,
    method: Method,
    prior: float | None = None,
    seconds: float = 0.0,
) -> RecalibrationResult:
    """The statistics of a pool, written into a working copy of the module."""
    if not pool.moments:
        raise _nothing_to_do(module, pool)
    writer = Writer(copy, module, prior)
    for target in pool.sites:  # in execution order
        if target in pool.moments:
            writer.write(target, pool)
    return RecalibrationResult(
        copy,
        writer.changes,
        {**pool.foreign, **pool.untouched},
        pool.skipped,
        pool.frames,
        pool.batches,
        method,
        prior,
        findings=notes(pool),
        seconds=seconds,
    )


def compare(
    result: RecalibrationResult, module: nn.Module, batches: Iterable[Batch], *, source: str = "held out"
) -> None:
    """Look at the result on frames, and put what was seen into it."""
    before = private_copy(module).eval()
    result.held_out = judging.compare(before, result.module, batches, pooled=result.frames, source=source)
    result.findings = judged(result.findings, result.held_out)


def working_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode that shares no memory with the original."""
    return private_copy(module, share_parameters=False).eval()


class _Without:
    """Batches, without those for which a condition holds; iterable again and again."""

    def __init__(self, source: Iterable[Batch], apart: Apart) -> None:
        self._source, self._apart = source, apart

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self._source if not self._apart(batch))


def first_usable(source: Iterable[Batch]) -> Batch:
    """The first batch with frames that can be used, without the others."""
    batch = None
    for batch in source:
        usable = batch.without(batch.unusable())
        if usable is not None:
            return usable
    assert batch is not None  # a source without batches raises
    return batch


def _entangled(plan: list[Level]) -> list[str]:
    return [target.name for level in plan for target in level.entangled]


def _nothing_to_do(module: nn.Module, pool: Pool) -> UsageError:
    stored = [layer.name for layer in layers_of(module) if layer.mean is not None]
    reasons = {**pool.foreign, **pool.untouched}
    told = next((f"{name}: {reason}" for name, reason in reasons.items()), "")
    return UsageError(
        "BNF-U123",
        f"none of {len(stored)} BatchNorms with running statistics can be recalibrated"
        if stored
        else "this network has no BatchNorm with running statistics",
        where=told or type(module).__name__,
        fix="a compiled or exported network cannot be looked into: give the module that it was made from",
    )
