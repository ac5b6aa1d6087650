"""The first operator whose output is not finite, and why, on the way to an output that is not.

Every operator of one pass is watched. A value that stops being finite has an origin (an operator whose inputs
were finite, or a parameter, a statistic or a frame that was not), and from there it spreads; only what
reaches the output is told. Infinities that a network writes on purpose (the mask of an attention) are no
origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bnfold.statistics.batches import Batch
from bnfold.statistics.diagnose import reasons
from bnfold.statistics.observe import Paths, watching

_FILL = {"full", "full_like", "fill", "scalar_tensor", "masked_fill", "where", "new_full", "lift_fresh"}
_GARBAGE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "resize"}


@dataclass(frozen=True)
class Step:
    """One operator on the way from the origin to the output.

    Attributes:
        module: path of the module that runs it.
        operator: ``native_batch_norm``, ``div``.
        why: a few words: ``overflow: ...``.
        values: how many values of its output are not finite, of ``of``.
        channels: along axis 1 of its output, where there is one.
    """

    module: str
    operator: str
    why: str
    values: int
    of: int
    channels: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "module": self.module,
            "operator": self.operator,
            "why": self.why,
            "values": self.values,
            "of": self.of,
            "channels": list(self.channels),
        }


@dataclass(frozen=True)
class Breakdown:
    """How an output came not to be finite.

    Attributes:
        frame: the name of the frame that it was watched on.
        origin: the first operator.
        chain: what followed: where an infinity became NaN, and each module that it went through.
        source: what was not finite before any operator: ``frames``, or the name of a parameter or a
            statistic; empty where all of it was finite.
    """

    frame: str
    origin: Step
    chain: tuple[Step, ...]
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "frame": self.frame,
            "origin": self.origin.to_json(),
            "chain": [step.to_json() for step in self.chain],
            "source": self.source or None,
        }


def breakdown(module: nn.Module, batches: Iterable[Batch]) -> Breakdown | None:
    """Where the first output that is not finite comes from; None where all outputs are finite.

    Args:
        module: in eval mode.
        batches: frames that are finite themselves.
    """
    with torch.no_grad():
        for batch in batches:
            rows = _rows(batch.run(module), batch)
            if rows is None:
                continue
            alone = batch.select(rows[:1]) if batch.batched and rows else batch
            return _watch(module, alone) or _watch(module, batch)
    return None


def _rows(result: Any, batch: Batch) -> list[int] | None:
    """The frames whose answer is not finite; None where all are finite, empty where no frame is to blame."""
    bad: set[int] = set()
    finite = True
    for tensor in _floats(result):
        if bool(tensor.isfinite().all()):
            continue
        finite = False
        if batch.batched and tensor.ndim and len(tensor) == batch.frames:
            wrong = ~tensor.reshape(batch.frames, -1).isfinite().all(dim=1)
            bad |= set(torch.nonzero(wrong).flatten().tolist())
    return None if finite else sorted(bad)


def _watch(module: nn.Module, batch: Batch) -> Breakdown | None:
    with watching(module) as paths:
        watch = _Watch(module, batch, paths)
        with watch:
            result = batch.run(module)
    ends = [watch.origin_of(tensor) for tensor in _floats(result) if not bool(tensor.isfinite().all())]
    trace = next((trace for trace in ends if trace is not None), None)
    if trace is None:
        return None
    return Breakdown(batch.names[0], trace.steps[0], tuple(_by_module(trace.steps[1:])), trace.source)


def _by_module(steps: Iterable[Step]) -> list[Step]:
    """What tells something: where NaN was made of infinity, and the first step in each module."""
    kept: list[Step] = []
    for step in steps:
        if step.why or not kept or kept[-1].module != step.module:
            kept.append(step)
    return kept


@dataclass
class _Trace:
    """From an origin to where it has spread."""

    steps: tuple[Step, ...]
    source: str = ""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class has no annotations
    def __init__(self, module: nn.Module, batch: Batch, paths: Paths) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paths = paths
        # tensors are kept alive, so that an id is never used again
        self.traces: dict[int, tuple[Tensor, _Trace]] = {}
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors if tensor.numel()}
        self.names |= {tensor.untyped_storage().data_ptr(): "frames" for _, tensor in batch.tensors()}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        name = str(getattr(function, "__name__", function)).partition(".")[0].rstrip("_")
        inputs = list(_floats((args, given)))
        bad = [tensor for tensor in inputs if not bool(tensor.isfinite().all())]
        # an operator in place overwrites what its reason is told from
        before = pytree.tree_map(_copy, (args, given)) if _in_place(function) else (args, given)
        known = [trace for tensor in bad if (trace := self.origin_of(tensor)) is not None]
        result = function(*args, **given)
        if name not in _GARBAGE:
            for tensor in _floats(result):
                self._note(tensor, function, name, before, bad, known)
        return result

    def origin_of(self, tensor: Tensor) -> _Trace | None:
        """The trace of a tensor that is not finite."""
        found = self.traces.get(id(tensor))
        return found[1] if found else None

    def _note(
        self,
        tensor: Tensor,
        function: Callable[..., Any],
        name: str,
        before: tuple[Any, Any],
        bad: list[Tensor],
        known: list[_Trace],
    ) -> None:
        wrong = ~tensor.isfinite()
        if not bool(wrong.any()):
            self.traces.pop(id(tensor), None)
            return
        has_nan = bool(tensor.isnan().any())
        if known:
            fresh = has_nan and not any(bool(one.isnan().any()) for one in bad)
            why = reasons.of_infinity(name) if fresh else ""
            trace = _Trace((*known[0].steps, self._step(tensor, wrong, name, why)), known[0].source)
        elif bad:
            source = self.names.get(bad[0].untyped_storage().data_ptr(), "a constant")
            was_nan = bool(bad[0].isnan().any())
            if source == "a constant" and not was_nan:
                if not has_nan:
                    return  # a mask is no origin, but where it makes NaN
                source, why = "", f"{reasons.of_infinity(name)}: all of a row is masked"
            else:
                state = "NaN" if was_nan else "infinite"
                why = f"{source} {'are' if source == 'frames' else 'is'} {state} already"
            trace = _Trace((self._step(tensor, wrong, name, why),), source)
        elif name in _FILL:
            return
        else:
            why = reasons.of_finite(function, name, before, tensor)
            trace = _Trace((self._step(tensor, wrong, name, why),))
        self.traces[id(tensor)] = (tensor, trace)

    def _step(self, tensor: Tensor, wrong: Tensor, name: str, why: str) -> Step:
        channels: tuple[int, ...] = ()
        if tensor.ndim >= 2:
            axes = [axis for axis in range(tensor.ndim) if axis != 1]
            channels = tuple(torch.nonzero(wrong.any(dim=tuple(axes)) if axes else wrong).flatten().tolist())
        return Step(self.paths.here, name, why, int(wrong.sum()), wrong.numel(), channels)


def _floats(tree: Any) -> Iterable[Tensor]:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and leaf.numel():
            yield leaf


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _in_place(function: Any) -> bool:
    schema = getattr(function, "_schema", None)
    return bool(schema is not None and schema.is_mutable)
