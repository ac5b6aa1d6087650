"""What the BatchNorm calls of a forward pass are answered: normalised by their batch, whose moments are kept.

A pass without names is made for every batch but the first, so its calls take the shortest way: a layer of
torch's own is asked in its ``forward``, and one that reads what the call at this place read in the batch
before is not looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnfold.statistics.layers import MEAN, VARIANCE
from bnfold.statistics.observe import Call, by_statistics
from bnfold.statistics.packed import Gathered
from bnfold.statistics.reduction import BatchMoments, Reducer
from bnfold.statistics.targets import Target

if TYPE_CHECKING:
    from bnfold.statistics.forward import Site

_OWN = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d  # and no subclass, whose forward may do more


class Stop(BaseException):
    """Ends a forward pass from inside; no ``except Exception`` of a network catches it."""


class Alone(Stop):
    """A layer behind ``name``, which has one value per channel: what it gives is no answer to a frame."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Answers:
    """The answers of one pass.

    Args:
        gathered: takes the moments; cleared here.
        reducer: computes them.
        target: finds the statistics that a call reads.
        sites: by target.
        wanted: gather the moments of these only; of all by default.
        done: these are answered by their own statistics.
        until: stop after so many calls that are wanted; by default never.

    Attributes:
        calls: how many there were.
    """

    def __init__(
        self,
        gathered: Gathered,
        reducer: Reducer,
        target: Callable[[Call], Target | None],
        sites: Mapping[Target, Site],
        wanted: set[Target] | None,
        done: frozenset[Target],
        until: int,
    ) -> None:
        gathered.clear()
        self._gathered, self._reducer = gathered, reducer
        self._target, self._sites = target, sites
        self._wanted, self._done, self._until = wanted, done, until
        self._every = wanted is None and not done
        self._alone: str | None = None
        self.calls = 0

    def __call__(self, call: Call) -> Tensor:
        """What the network goes on with."""
        self.calls += 1
        target = self._target(call)
        if target is None or target in self._done:
            return call.in_eval()
        values, mean, variance = call.input, call.running_mean, call.running_var
        assert mean is not None  # it has a target
        assert variance is not None
        if self._wanted is not None and target not in self._wanted:
            moments = self._reducer(values, BatchMoments.room(values, mean.dtype))
        else:
            room = self._gathered.room(mean, variance, target, values)
            moments = self._moments(values, room, target)
        return call.by_statistics(*moments.rows)

    @contextmanager
    def in_layers(self, layers: Iterable[_BatchNorm]) -> Iterator[None]:
        """Answer those of them that are torch's own in their ``forward``; not for several threads.

        A layer with a forward of its own, or of a subclass, is left alone; that may change from pass to pass.
        """
        own = []
        if self._every:
            own = [layer for layer in layers if type(layer) in _OWN and "forward" not in layer.__dict__]
        try:
            for layer in own:
                layer.__dict__["forward"] = partial(self._layer, layer)
            yield
        finally:
            for layer in own:
                del layer.__dict__["forward"]

    def _layer(self, layer: _BatchNorm, input: Tensor) -> Tensor:  # named as in torch: it may come by name
        layer._check_input_dim(input)  # type: ignore[no-untyped-call]
        buffers = layer._buffers  # without them, statistics may be anything else: the long way knows
        step = self._gathered.again(buffers.get(MEAN), buffers.get(VARIANCE))
        if step is None:
            return type(layer).forward(layer, input)
        self.calls += 1
        rows = self._moments(input, step.room, step.target).rows
        return by_statistics(input, layer.weight, layer.bias, *rows, layer.eps)

    def _moments(self, values: Tensor, room: BatchMoments, target: Target) -> BatchMoments:
        if self._alone is not None:
            raise Alone(self._alone)
        moments = self._reducer(values, room)
        if len(self._gathered) == self._until:
            raise Stop
        if moments.count == 1 and self._wanted is None:
            self._alone = self._sites[target].calls[0]
        return moments
