"""Which part of which tensor a value shows, and what has become of that tensor by the writes so far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from bnfold import graph as g
from bnfold.capture.views import Look, Make, look_of

Path = tuple[Look, ...]


class Places:
    """Every value as a path of looks from the tensor that it is a view of.

    A write to a part makes a new value of the whole tensor, and new ones of the parts that are read later.
    A part that the write does not touch may stay the value that it is.
    """

    def __init__(self) -> None:
        self._places: dict[fx.Node, tuple[fx.Node, Path]] = {}
        self._now: dict[fx.Node, fx.Node] = {}

    def same_tensor(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether both are known to be parts of one tensor."""
        return self._place(a)[0] is self._place(b)[0]

    def same(self, a: fx.Node, b: fx.Node) -> bool:
        """Whether both are known to show the same."""
        return self._place(a) == self._place(b)

    def reads_what_it_writes(self, source: fx.Node, target: fx.Node) -> bool:
        """Whether a write of ``source`` to ``target``, element by element, changes elements of ``source``."""
        tensor, path = self._place(target)
        if self._place(source)[0] is not tensor:
            return False
        elements = torch.arange(math.prod(g.shape(tensor))).view(g.shape(tensor))
        read, written = _elements(elements, self._place(source)[1]), _elements(elements, path)
        try:
            changed = written[read.expand_as(written) != written]
        except RuntimeError:  # of shapes that are not written element by element
            changed = written
        return bool(torch.isin(changed.flatten(), read.flatten()).any())

    def write(
        self, target: fx.Node, new: fx.Node, others: Iterable[fx.Node], make: Make
    ) -> dict[fx.Node, fx.Node]:
        """``target`` becomes ``new``: what ``others``, parts of the same tensor, become by that."""
        tensor, path = self._place(target)
        wholes = [self._now.get(tensor, tensor)]
        for look in path[:-1]:
            wholes.append(look.part(make, wholes[-1]))
        become = {path: new}
        for depth in reversed(range(len(path))):
            become[path[:depth]] = path[depth].put(make, wholes[depth], become[path[: depth + 1]])
        self._now[tensor] = become[()]

        def part(path: Path) -> fx.Node:
            if path not in become:
                become[path] = path[-1].part(make, part(path[:-1]))
            return become[path]

        renewed = {other: part(self._place(other)[1]) for other in others}
        self._places.update((node, (tensor, path)) for path, node in become.items())
        return renewed

    def _place(self, node: fx.Node) -> tuple[fx.Node, Path]:
        if node not in self._places:
            seen = look_of(node)
            if seen is None:
                self._places[node] = node, ()
            else:
                tensor, path = self._place(seen[0])
                self._places[node] = tensor, (*path, seen[1])
        return self._places[node]


def _elements(numbers: torch.Tensor, path: Path) -> torch.Tensor:
    """The numbers of the elements that are seen at the end of a path."""

    def make(operator: Any, *arguments: Any) -> Any:
        return operator(*arguments)

    seen: Any = numbers
    for look in path:
        seen = look.part(make, seen)
    return torch.as_tensor(seen)
