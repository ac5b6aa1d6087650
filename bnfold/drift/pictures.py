"""The layout of a monitor's pictures beside its taps: one more layer of the scan, one byte a number.

It counts only where pictures of kept frames are independent as their taps are. A camera that stands still has
one background, and that it is not each of the baseline's is no drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.baseline import Baseline
from bnfold.drift.blocks import integrated_time
from bnfold.drift.layout import layout_of, scale_of

MOST = 160
"""Numbers that are kept: those of the first two pictures, where a network takes more."""


class Pictures:
    """How the layout of a picture becomes bytes.

    Args:
        known: the layout of the baseline's frames.

    Attributes:
        codes: of the baseline's frames, (frames, columns).
        known: what they stand for, in deviations between the baseline's frames.
    """

    def __init__(self, known: Baseline) -> None:
        kept = np.arange(min(known.channels, MOST))
        self._given = known.channels
        self._levels = known.only(kept)
        self._center, self._scale = (part[kept] for part in scale_of(known.values))
        self.codes = self._levels.codes
        self.known = self.decode(self.codes)

    @property
    def columns(self) -> int:
        return self._levels.channels

    def code(self, frame: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8] | None:
        """Shape (columns,); None where the frame is no such picture.

        Args:
            frame: the network's inputs by name, (1, ...) each.
        """
        found = layout_of(frame)
        if found is None or found.shape != (1, self._given):
            return None
        return self._levels.code(found[0, : self.columns])

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Codes (frames, columns) in deviations."""
        return np.asarray((self._levels.decode(codes) - self._center) / self._scale, dtype=np.float32)


def independent(values: NDArray[np.float32], *, change: bool = False) -> bool:
    """Whether pictures in the order of time are not correlated; see `bnfold.drift.blocks.integrated_time`."""
    return integrated_time(values, (values.shape[1],), change=change) <= 1
