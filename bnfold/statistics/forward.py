"""One batch through the network, with the moments of what every BatchNorm sees; or why it cannot be used.

Only BatchNorm calls are answered otherwise than in eval mode: dropout and all else stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnfold.errors import BnfoldError, UsageError
from bnfold.statistics.batches import Batch, Unusable
from bnfold.statistics.moments import Moments
from bnfold.statistics.observe import Call, answering
from bnfold.statistics.reduction import BatchMoments, batch_moments, to_numpy
from bnfold.statistics.targets import Target, Targets, holders
from bnfold.wording import first_line

Guard = Literal["batch", "frame"]
Seen = list[tuple[Target, Moments]]


@dataclass(frozen=True)
class Skipped:
    """A batch, or frames of one, that no layer's statistics have seen.

    Attributes:
        batch: its number, from 0.
        frames: names of the frames to blame; of all of them where none can be told.
        index: their places in the batch, from 0.
        whole: whether the whole batch was left out.
        where: the input or the layer where it showed.
        reason: what is wrong with it, after the name of the frame.
        inside: whether it showed at a layer, and not in the input.
        lone: whether nothing is wrong with it but its size.
    """

    batch: int
    frames: tuple[str, ...]
    index: tuple[int, ...]
    whole: bool
    where: str
    reason: str
    inside: bool = False
    lone: bool = False

    def describe(self) -> str:
        """``scan_012.npy (batch 3): 1 value of x is nan``."""
        names = ", ".join(self.frames[:3]) + (
            f" and {len(self.frames) - 3} more" if len(self.frames) > 3 else ""
        )
        return f"{names} (batch {self.batch}): {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "batch": self.batch,
            "frames": list(self.frames),
            "index": list(self.index),
            "whole_batch": self.whole,
            "where": self.where,
            "reason": self.reason,
        }


@dataclass
class Site:
    """Where one pair of statistics is used.

    Attributes:
        calls: the names of the calls, in execution order.
        eps: of the first call.
    """

    calls: list[str] = field(default_factory=list)
    eps: float = 1e-5


class _Stop(BaseException):
    """Ends a forward pass from inside; no ``except Exception`` of a network catches it."""


class _Alone(_Stop):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class _Blame(_Stop):
    def __init__(self, name: str, rows: list[int], reason: str) -> None:
        super().__init__()
        self.name, self.rows, self.reason = name, rows, reason


class Forward:
    """Runs batches through one module in eval mode.

    Attributes:
        sites: by target, in the order of their first call.
        foreign: calls whose statistics are not the module's, by name, with the reason.
        entered: names of the modules that hold statistics and whose forward has run.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.targets = Targets(module)
        self.sites: dict[Target, Site] = {}
        self.foreign: dict[str, str] = {}
        self.entered: set[str] = set()

    def pool(
        self,
        batch: Batch,
        *,
        guard: Guard,
        wanted: set[Target] | None = None,
        done: frozenset[Target] = frozenset(),
        until: frozenset[str] = frozenset(),
    ) -> tuple[int, Seen, list[Skipped]]:
        """The moments of one batch, how many frames they are of, and what was left out of it.

        Args:
            batch: as forward takes it.
            guard: leave out the whole batch, or only the frames that are to blame where they can be told.
            wanted: pool only these; all by default.
            done: these are answered by their own statistics, all others by the batch's.
            until: stop after these calls; by default the pass runs to its end.
        """
        skipped: list[Skipped] = []
        rest: Batch | None = batch
        while rest is not None:
            unusable = rest.unusable()
            if unusable:
                skipped.append(_unusable(rest, unusable, guard))
                rest = rest.without(unusable) if guard == "frame" else None
                continue
            try:
                return rest.frames, self._run(rest, wanted, done, until), skipped
            except _Alone as alone:
                skipped.append(_lone(rest, alone.name))
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
        return 0, [], skipped

    def _run(
        self, batch: Batch, wanted: set[Target] | None, done: frozenset[Target], until: frozenset[str]
    ) -> Seen:
        seen: list[tuple[Target, BatchMoments]] = []
        ahead = set(until)
        alone: str | None = None

        def answer(call: Call) -> Tensor:
            nonlocal alone
            target = self.target(call)
            if target is None or target in done:
                return call.in_eval()
            if alone is not None:
                raise _Alone(alone)
            moments = batch_moments(call.input)
            if wanted is None or target in wanted:
                seen.append((target, moments))
                ahead.discard(call.name)
                if until and not ahead:
                    raise _Stop
            if moments.count == 1 and wanted is None:
                alone = call.name
            return normalised(call, moments)

        self.run(batch, answer)
        if not self._finite(seen):
            self._blame(batch, wanted, done)
        numbers = to_numpy([moments for _, moments in seen])
        return [(target, moments) for (target, _), moments in zip(seen, numbers, strict=True)]

    def run(self, batch: Batch, answer: Callable[[Call], Tensor]) -> Any:
        """One forward pass, and what it gives; None where it was stopped.

        Raises:
            UsageError: forward fails on the batch (BNF-U120).
        """
        try:
            with torch.no_grad(), answering(self.module, answer):
                return batch.run(self.module)
        except (_Alone, _Blame):
            raise
        except _Stop:
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
            if name in self.entered
            else "forward never called it"
            for mean, (name, _) in holders(self.module).items()
            if mean not in read and name not in self.foreign
        }

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note inside which of the modules that hold statistics run."""

        def noting(name: str) -> Callable[[nn.Module, Any], None]:
            return lambda module, arguments: self.entered.add(name)

        handles = [
            inner.register_forward_pre_hook(noting(name)) for name, inner in holders(self.module).values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def target(self, call: Call) -> Target | None:
        """The statistics that a call reads; None where they are none of the module's, which is noted."""
        target = self.targets.find(call)
        if target is None:
            if call.running_mean is None or call.running_var is None:
                reason = "it has no running statistics, and uses the batch's in eval mode"
            else:
                reason = "its statistics are no pair of buffers of the module's"
            self.foreign[call.name] = reason
            return None
        site = self.sites.setdefault(target, Site(eps=call.eps))
        if call.name not in site.calls:
            site.calls.append(call.name)
        return target

    def _finite(self, seen: Sequence[tuple[Target, BatchMoments]]) -> bool:
        """Whether all statistics are numbers of the dtypes that they are stored in; asked once per batch."""
        if not seen:
            return True
        stored = [self._as_stored(target, moments) for target, moments in seen]
        return bool(torch.isfinite(torch.cat(stored)).all())

    def _as_stored(self, target: Target, moments: BatchMoments) -> Tensor:
        mean, variance = self.targets.tensors(target)
        return torch.cat([moments.mean.to(mean.dtype), moments.variance.to(variance.dtype)]).double()

    def _blame(self, batch: Batch, wanted: set[Target] | None, done: frozenset[Target]) -> None:
        """Run it again, to the first call whose statistics are not finite."""

        def answer(call: Call) -> Tensor:
            target = self.target(call)
            if target is None or target in done:
                return call.in_eval()
            moments = batch_moments(call.input)
            if (wanted is None or target in wanted) and not self._finite([(target, moments)]):
                rows, reason = _culprits(call, batch.frames)
                raise _Blame(call.name, rows, reason)
            return normalised(call, moments)

        self.run(batch, answer)
        raise _Blame("", [], "its statistics are not finite")


def normalised(call: Call, moments: BatchMoments) -> Tensor:
    """What the call gives when it is normalised by these: as in train mode, by the batch's own variance."""
    return call.by_statistics(moments.mean, moments.variance)


def _unusable(batch: Batch, unusable: Sequence[Unusable], guard: Guard) -> Skipped:
    rows = sorted({one.index for one in unusable})
    first = unusable[0]
    reason = first.describe().partition("): ")[2]
    whole = guard == "batch" or not batch.batched or len(rows) == batch.frames
    return Skipped(
        batch.number, tuple(batch.names[row] for row in rows), tuple(rows), whole, first.input, reason
    )


def _lone(batch: Batch, where: str) -> Skipped:
    reason = f"one value per channel at {_named(where)}: it cannot be normalised by itself"
    index = tuple(range(batch.frames))
    return Skipped(batch.number, batch.names, index, True, where, reason, inside=True, lone=True)


def _named(call: str) -> str:
    """A call's name in a sentence; the one whose name is empty is the whole network."""
    return call or "the BatchNorm"


def _culprits(call: Call, frames: int) -> tuple[list[int], str]:
    """The frames whose values make a call's statistics unusable, where the first axis counts the frames."""
    values = call.input.detach()
    finite = bool(torch.isfinite(values).all())
    where = _named(call.name)
    reason = f"its variance at {where} overflows" if finite else f"a value at {where} is not finite"
    if values.shape[0] != frames:
        return [], reason
    rows = values.reshape(frames, -1)
    if finite:
        return [int(rows.abs().amax(dim=1).argmax())], reason
    return torch.nonzero(~torch.isfinite(rows).all(dim=1)).flatten().tolist(), reason
