"""A pending affine: the node that stands for it while the engine works, its axis, and whose affine it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from bnfold.affine import Affine

_ROUNDING = 2.0**-50  # of float64, twice over

USER = -1
"""Owner of a multiplication or an addition that the network has of its own."""


def pending_affine(x: torch.Tensor) -> torch.Tensor:
    """Marks an edge; the affine itself is kept by the engine. Never executed."""
    raise AssertionError("a pending affine was not lowered")


@dataclass(frozen=True)
class Origin:
    """A call that the network has of its own; ``source`` is the argument that is not constant."""

    target: Any
    args: Any
    kwargs: Any
    source: fx.Node


@dataclass(frozen=True)
class Pending:
    """An affine that waits on an edge.

    Attributes:
        affine: in float64.
        axis: of its channels.
        origin: the network's own call that this is, until it moves; it is restored where it never does.
    """

    affine: Affine
    axis: int
    origin: Origin | None = None

    def on(self, axis: int, channels: int | None) -> Affine | None:
        """The same affine per channel of another axis, where it is: one number for all fits every axis."""
        if axis == self.axis:
            return self.affine
        if channels is None or not self.affine.is_uniform:
            return None
        return Affine(np.full(channels, self.affine.scale[0]), np.full(channels, self.affine.shift[0]))


def on_one_axis(first: Pending, second: Pending) -> tuple[Affine, Affine, int] | None:
    """Both per channel of one axis, and that; None where they run over different axes."""
    there = first.on(second.axis, second.affine.channels)
    if there is not None:
        return there, second.affine, second.axis
    here = second.on(first.axis, first.affine.channels)
    return None if here is None else (first.affine, here, first.axis)


def compose(first: Pending, second: Pending) -> Pending | None:
    """Both in a row as one; None where they run over different axes."""
    found = on_one_axis(first, second)
    if found is None:
        return None
    one, other, axis = found
    return Pending(_snapped(other.after(one), other), axis)


def _snapped(both: Affine, second: Affine) -> Affine:
    """Exactly the identity where an affine and its inverse differ from it by rounding alone."""
    scale = np.where(np.abs(both.scale - 1) <= _ROUNDING, 1.0, both.scale)
    shift = np.where(np.abs(both.shift) <= _ROUNDING * np.abs(second.shift), 0.0, both.shift)
    return Affine(scale, shift, both.map)


@dataclass(frozen=True)
class Owners:
    """Which BatchNorm (by its number in execution order, or USER) answers for each part of an affine."""

    scale: int
    shift: int
    map: int

    @classmethod
    def all(cls, site: int) -> Owners:
        return cls(site, site, site)

    def of(self, affine: Affine) -> frozenset[int]:
        """The BatchNorms behind the parts that do something."""
        parts = (
            (affine.has_scale, self.scale),
            (affine.has_shift, self.shift),
            (affine.map is not None, self.map),
        )
        present = {owner for part, owner in parts if part} or {self.shift}
        return frozenset(present - {USER})

    def across(self, affine: Affine) -> Owners:
        """Once the affine has moved: what zero padding makes of a shift belongs to whose the shift was."""
        return self if affine.map is not None else Owners(self.scale, self.shift, self.shift)

    def after(self, first: Owners, second_affine: Affine, first_affine: Affine) -> Owners:
        """Of a composition. What both have would be there without the later BatchNorm, or for the network's
        own operator without any: that one answers for it."""

        def both(mine: int, theirs: int, i_have: bool, they_have: bool) -> int:
            if i_have and they_have:
                return USER if USER in (mine, theirs) else mine
            return theirs if they_have else mine

        return Owners(
            both(self.scale, first.scale, second_affine.has_scale, first_affine.has_scale),
            both(self.shift, first.shift, second_affine.has_shift, first_affine.has_shift),
            both(self.map, first.map, second_affine.map is not None, first_affine.map is not None),
        )
