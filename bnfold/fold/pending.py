"""The node that stands for a pending affine while the engine works, and whose affine it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bnfold.affine import Affine


def pending_affine(x: torch.Tensor) -> torch.Tensor:
    """Marks an edge; the affine itself is kept by the engine. Never executed."""
    raise AssertionError("a pending affine was not lowered")


@dataclass(frozen=True)
class Owners:
    """Which BatchNorm (by its number in execution order) answers for each part of an affine."""

    scale: int
    shift: int
    map: int

    @classmethod
    def all(cls, site: int) -> Owners:
        return cls(site, site, site)

    def of(self, affine: Affine) -> frozenset[int]:
        """The owners of the parts that do something."""
        parts = (
            (affine.has_scale, self.scale),
            (affine.has_shift, self.shift),
            (affine.map is not None, self.map),
        )
        return frozenset(owner for present, owner in parts if present) or frozenset({self.shift})

    def after(self, first: Owners, second_affine: Affine, first_affine: Affine) -> Owners:
        """Of a composition: the later BatchNorm answers for what both have."""
        return Owners(
            self.scale if second_affine.has_scale else first.scale,
            self.shift if second_affine.has_shift else first.shift,
            first.map if first_affine.map is not None else self.map,
        )
