"""What a file of a lower precision is held to. Standard library only.

A float32 file is held to the noise floor. Rounding weights to 11 bits, or everything to 8, costs more than
that by design, so such a file is held to how far its answers may move, and to how many of them may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Gate:
    """What an output of a low-precision file may cost.

    Attributes:
        precision: ``fp16`` or ``int8``.
        tolerance: the largest error, as a share of the output's range (its largest less its smallest value in
            float64, over the frames).
        agreeing: a value agrees that is off by no more than this share of the range.
        min_agreement: the share of frames that must keep their best class, or of values that must agree.
    """

    precision: str
    tolerance: float
    agreeing: float
    min_agreement: float

    @classmethod
    def of(cls, precision: str, *, calibrated: bool, min_agreement: float | None = None) -> Gate:
        """The gate of a precision.

        Args:
            precision: ``fp16`` or ``int8``.
            calibrated: whether activation ranges come from frames; always so for ``fp16``, which has none.
            min_agreement: the user's own, in place of 0.99 (0.98 where nothing was calibrated).
        """
        tolerance, agreeing = _SHARES[precision]
        least = (0.99 if calibrated else 0.98) if min_agreement is None else min_agreement
        return cls(precision, tolerance, agreeing, least)

    @classmethod
    def recorded(cls, manifest: Mapping[str, Any]) -> Gate | None:
        """The gate that an artifact was made under; None for float32."""
        entry = manifest.get("quantisation")
        if manifest["precision"] == "fp32" or not entry:
            return None
        numbers = {key: float(entry[key]) for key in ("tolerance", "agreeing", "min_agreement")}
        return cls(manifest["precision"], **numbers)

    def to_json(self) -> dict[str, Any]:
        """For the manifest, which has the precision already."""
        return {key: value for key, value in asdict(self).items() if key != "precision"}


# precision: (tolerance, agreeing). float16 costs 0.05% of the range on the sample models at most. A step of
# 8 bits is 0.4% already, and networks add some: they cost up to 8%; another function costs about 100%.
_SHARES = {"fp16": (0.005, 0.005), "int8": (0.25, 0.05)}
