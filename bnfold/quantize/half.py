"""float32 weights as float16: which can be, and what the rounding does to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import ExportError
from bnfold.finding import Finding

Array = NDArray[Any]

FEWEST = 64
"""Elements: a smaller tensor saves less than the operator costs that makes a float32 of it again."""

_LARGEST = float(np.finfo(np.float16).max)
_ROUNDING = 2.0**-11  # of a normal number; what a subnormal loses may be all of it


class Halves:
    """Weights on their way to float16, and what had to stay.

    Biases and other vectors stay float32: they are added to long sums, and there is next to nothing to save.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._kept: dict[str, tuple[float, int]] = {}
        self.count = 0

    def of(self, name: str, values: Array) -> Array | None:
        """The tensor as float16; None where it stays as it is.

        Raises:
            ExportError: BNF-E050 a weight is beyond the range of float16, which ends at 65,504.
        """
        if values.dtype != np.float32 or values.size < FEWEST or values.ndim < 2:
            return None
        largest = float(np.abs(values).max())
        if not largest <= _LARGEST:
            raise ExportError(
                "BNF-E050",
                f"a weight of {name} is {largest:.6g} in size, and float16 ends at {_LARGEST:,.0f}",
                where=f"{name}, {self._where}",
                fix="precision fp32; bnfold audit tells whether a vanishing variance makes it so large",
            )
        half = values.astype(np.float16)
        lost = float(np.abs(half.astype(np.float32) - values).max())
        if lost > _ROUNDING * largest:
            tiny = np.abs(values) < float(np.finfo(np.float16).smallest_normal)
            self._kept[name] = (largest, int((tiny & (values != 0)).sum()))
            return None
        self.count += 1
        return half

    def findings(self) -> list[Finding]:
        """The weights that are too small for float16 and stay float32."""
        if not self._kept:
            return []
        name, (largest, tiny) = next(iter(self._kept.items()))
        return [
            Finding(
                "BNF-E051",
                "warning",
                name,
                f"{len(self._kept)} weights stay float32, in {self._where}: {tiny} values of {name} are "
                f"subnormal in float16 (below 6.1e-05; its largest is {largest:.3g}), which rounds them away",
                {
                    "weights": {
                        name: {"largest": top, "subnormal": n} for name, (top, n) in self._kept.items()
                    }
                },
                "nothing to do; a channel with a huge variance, or a tiny gamma, makes weights that small",
            )
        ]
