"""One batch through the network, with the moments of what every BatchNorm sees; or why it cannot be used.

Only BatchNorm calls are answered otherwise than in eval mode: dropout and all else stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfold.errors import BnfoldError, UsageError
from bnfold.statistics import skipped as skip
from bnfold.statistics.answers import Alone, Answers, Stop
from bnfold.statistics.batches import Batch
from bnfold.statistics.observe import Call, answering
from bnfold.statistics.packed import Gathered, Packed
from bnfold.statistics.reduction import BatchMoments, Reducer
from bnfold.statistics.skipped import Guard, Skipped
from bnfold.statistics.targets import Target, Targets, holders
from bnfold.wording import first_line

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What the BatchNorm calls of one batch have seen.

    Attributes:
        frames: of the batch; 0 where nothing could be used.
        targets: one for each call, in execution order.
        moments: of the calls.
    """

    frames: int = 0
    targets: tuple[Target, ...] = ()
    moments: Packed = field(default_factory=lambda: Packed.of([]))


@dataclass
class Site:
    """Where one pair of statistics is used.

    Attributes:
        calls: the names of the calls, in execution order.
        eps: of the first call.
    """

    calls: list[str] = field(default_factory=list)
    eps: float = 1e-5


class _Blame(Stop):
    def __init__(self, name: str, rows: list[int], reason: str) -> None:
        super().__init__()
        self.name, self.rows, self.reason = name, rows, reason


class Forward:
    """Runs batches through one module in eval mode.

    Attributes:
        sites: by target, in the order of their first call.
        foreign: calls whose statistics are not the module's, by name, with the reason.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.targets = Targets(module)
        self._holders = holders(module)
        self._layers = [inner for inner in module.modules() if isinstance(inner, _BatchNorm)]
        self.sites: dict[Target, Site] = {}
        self.foreign: dict[str, str] = {}
        self._entered: set[str] = set()
        self._calls: int | None = None  # in the last pass with names
        self._quick = True
        self._moments = Reducer()
        self._gathered = Gathered()
        self._known_limits: dict[tuple[Target, ...], tuple[Array, float]] = {}

    def pool(
        self,
        batch: Batch,
        *,
        guard: Guard,
        wanted: set[Target] | None = None,
        done: frozenset[Target] = frozenset(),
        until: int = 0,
    ) -> tuple[Seen, list[Skipped]]:
        """The moments of one batch, and what was left out of it.

        Args:
            batch: as forward takes it.
            guard: leave out the whole batch, or only the frames that are to blame where they can be told.
            wanted: pool only these; all by default.
            done: these are answered by their own statistics, all others by the batch's.
            until: stop after so many calls that are wanted; by default the pass runs to its end.
        """
        skipped: list[Skipped] = []
        rest: Batch | None = batch
        while rest is not None:
            unusable = rest.unusable()
            if unusable:
                skipped.append(skip.unusable(rest, unusable, guard))
                rest = rest.without(unusable) if guard == "frame" else None
                continue
            try:
                return self._run(rest, wanted, done, until), skipped
            except Alone as alone:
                skipped.append(skip.lone(rest, alone.name))
                rest = None
            except _Blame as blame:
                rows = blame.rows if rest.batched else []
                part = guard == "frame" and 0 < len(rows) < rest.frames
                named = rows or list(range(rest.frames))
                names = tuple(rest.names[row] for row in named)
                skipped.append(
                    Skipped(rest.number, names, tuple(named), not part, blame.name, blame.reason, True)
                )
                rest = rest.select([row for row in range(rest.frames) if row not in rows]) if part else None
        return Seen(), skipped

    def _run(self, batch: Batch, wanted: set[Target] | None, done: frozenset[Target], until: int) -> Seen:
        seen = self._gathered

        def attempt(*, named: bool) -> int:
            answers = Answers(seen, self._moments, self.target, self.sites, wanted, done, until)
            with nullcontext() if named else answers.in_layers(self._layers):
                self.run(batch, answers, named=named)
            return answers.calls

        # Once names are known, a pass without them takes less time; it has to see as many calls.
        if self._calls is None or not self._quick:
            self._calls = attempt(named=True)
        else:
            quick = attempt(named=False)
            if (len(seen) != until) if until else (quick != self._calls):
                self._calls = attempt(named=True)
                self._quick = self._calls == quick
        result = Seen(batch.frames, seen.targets, seen.packed())
        if not result.moments.fits(*self._limits(result.targets)):
            self._blame(batch, wanted, done)
        return result

    def run(self, batch: Batch, answer: Callable[[Call], Tensor], *, named: bool = True) -> Any:
        """One forward pass, and what it gives; None where it was stopped.

        Args:
            batch: as forward takes it.
            answer: to each BatchNorm call.
            named: whether calls have to have their names.

        Raises:
            UsageError: forward fails on the batch (BNF-U120).
        """
        try:
            with torch.no_grad(), answering(self.module, answer, named=named) as paths:
                try:
                    return batch.run(self.module)
                finally:
                    self._entered |= paths.entered
        except (Alone, _Blame):
            raise
        except Stop:
            return None
        except BnfoldError:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "memory" in str(error):
                raise  # no mistake of the batch's
            raise UsageError(
                "BNF-U120",
                f"forward fails on a batch: {first_line(error, 150)}",
                where=f"batch {batch.number}, {batch.names[0]} first",
                fix="give batches as forward takes them: a tensor, a tuple of arguments, or a dictionary",
            ) from error

    def untouched(self) -> dict[str, str]:
        """The layers that hold statistics and whose statistics no call has read, with the reason."""
        read = {target.mean for target in self.sites}
        return {
            name: "it normalises by arithmetic of its own, which cannot be observed"
            if name in self._entered
            else "forward never called it"
            for mean, (name, _) in self._holders.items()
            if mean not in read and name not in self.foreign
        }

    def target(self, call: Call) -> Target | None:
        """The statistics that a call reads; None where they are none of the module's, which is noted."""
        target = self.targets.find(call)
        if target is None:
            if call.running_mean is None or call.running_var is None:
                reason = "it has no running statistics, and uses the batch's in eval mode"
            else:
                reason = "its statistics are no pair of buffers of the module's"
            if call.name:
                self.foreign[call.name] = reason
            return None
        site = self.sites.get(target)
        if site is None:
            self.sites[target] = site = Site([call.name or target.name], call.eps)
        elif call.name and call.name not in site.calls:
            site.calls.append(call.name)
        return target

    def _limits(self, targets: tuple[Target, ...]) -> tuple[Array, float]:
        """The largest means, and below them the largest variances, that the layers can store, shape
        (2, channels of all); and the least of all."""
        known = self._known_limits.get(targets)
        if known is None:
            pairs = [self.targets.tensors(target) for target in targets]
            rows = [[np.full(one.numel(), torch.finfo(one.dtype).max) for one in pair] for pair in pairs]
            each = np.concatenate([np.empty((2, 0)), *map(np.stack, rows)], axis=1)
            known = self._known_limits[targets] = each, float(each.min(initial=np.inf))
        return known

    def _blame(self, batch: Batch, wanted: set[Target] | None, done: frozenset[Target]) -> None:
        """Run it again, to the first call whose statistics are not finite."""

        def answer(call: Call) -> Tensor:
            target = self.target(call)
            if target is None or target in done:
                return call.in_eval()
            assert call.running_mean is not None  # it has a target
            moments = self._moments(call.input, BatchMoments.room(call.input, call.running_mean.dtype))
            pooled = wanted is None or target in wanted
            if pooled and not Packed.of([moments]).fits(*self._limits((target,))):
                rows, reason = skip.culprits(call, batch.frames)
                raise _Blame(call.name, rows, reason)
            return call.by_statistics(*moments.rows)

        self.run(batch, answer)
        raise _Blame("", [], "its statistics are not finite")
