"""Tier 1's memory: the taps of held-out frames, coded in one byte each.

Kept per frame, not as a mean and a deviation: a permutation test needs the frames themselves, and it is what
stays exact for thousands of heavy-tailed channels. Each channel has 256 levels over twice the range that it
showed; what the device measures is coded the same way before it is compared, so that rounding is the same on
both sides.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
_MARGIN = 0.5  # levels beyond the range seen, on either side, as a share of it


@dataclass(frozen=True)
class Baseline:
    """Taps of held-out frames.

    Attributes:
        codes: uint8, shape (frames, channels), the live channels of all layers side by side in their order.
        low, step: float64 (float32 values), shape (channels,): a code c stands for low + c * step.
        predictions: how many of the frames were given each class, shape (classes,); None where the network
            has no single output of scores.
        layout: `bnfold.drift.layout.layout_of` the same frames, coded alike; None where they are no pictures,
            and in baselines that were recorded without.
    """

    codes: NDArray[np.uint8]
    low: NDArray[np.float64]
    step: NDArray[np.float64]
    predictions: tuple[int, ...] | None = None
    layout: Baseline | None = None

    @classmethod
    def of(
        cls,
        taps: NDArray[Any],
        predictions: tuple[int, ...] | None = None,
        layout: NDArray[Any] | None = None,
    ) -> Baseline:
        """Of taps in units of the reference's deviation, shape (frames, channels), finite.

        ``layout``: of the same frames, finite, where they are pictures.

        Raises:
            ValueError: there are no frames, values that are not finite, or a layout of other frames.
        """
        values = np.asarray(taps, dtype=np.float64)
        if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
            raise ValueError(f"finite taps of shape (frames, channels) are expected, not {values.shape}")
        least, most = values.min(axis=0), values.max(axis=0)
        reach = most - least
        low = (least - _MARGIN * reach).astype(np.float32).astype(np.float64)
        step = ((1 + 2 * _MARGIN) * reach / (LEVELS - 1)).astype(np.float32).astype(np.float64)
        step[step <= 0] = 1e-6
        empty = cls(np.empty((0, values.shape[1]), dtype=np.uint8), low, step, predictions)
        pictures = None if layout is None else cls.of(layout)
        if pictures is not None and pictures.frames != len(values):
            raise ValueError(f"a layout of {pictures.frames} frames, and taps of {len(values)}")
        return cls(empty.code(values), low, step, predictions, pictures)

    @property
    def frames(self) -> int:
        return len(self.codes)

    @property
    def channels(self) -> int:
        return int(self.codes.shape[1])

    @property
    def values(self) -> NDArray[np.float64]:
        """Shape (frames, channels): the taps, in units of the reference's deviation."""
        return self.decode(self.codes)

    def take(self, chosen: NDArray[np.int64]) -> Baseline:
        """Some of the frames, at the same levels; the predictions stay those of all."""
        layout = None if self.layout is None else self.layout.take(chosen)
        return replace(self, codes=self.codes[chosen], layout=layout)

    def only(self, channels: NDArray[np.int64]) -> Baseline:
        """Some of the channels of every frame, without predictions and layout."""
        return Baseline(self.codes[:, channels], self.low[channels], self.step[channels])

    def code(self, taps: NDArray[Any]) -> NDArray[np.uint8]:
        """Taps of any frames, to this baseline's levels; what is beyond them becomes the last one."""
        levels = np.rint((np.asarray(taps, dtype=np.float64) - self.low) / self.step)
        return np.clip(levels, 0, LEVELS - 1).astype(np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(self.low + codes * self.step)

    def rounded(self, taps: NDArray[Any]) -> NDArray[np.float32]:
        """Taps of any frames, as they read when they are coded like this baseline."""
        return self.decode(self.code(taps)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        document = {
            "frames": self.frames,
            "channels": self.channels,
            "codes": base64.b64encode(zlib.compress(self.codes.tobytes(), 9)).decode("ascii"),
            "low": base64.b64encode(self.low.astype("<f4").tobytes()).decode("ascii"),
            "step": base64.b64encode(self.step.astype("<f4").tobytes()).decode("ascii"),
            "predictions": None if self.predictions is None else list(self.predictions),
        }
        # left out where there is none, so that files without pictures are as they were
        return document if self.layout is None else {**document, "layout": self.layout.to_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Baseline:
        """The reverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is no such document.
        """
        frames, channels = document["frames"], document["channels"]
        if not all(type(size) is int and 0 < size < 2**24 for size in (frames, channels)):
            raise ValueError(f"{frames!r} frames of {channels!r} channels")
        try:
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(
                base64.b64decode(document["codes"], validate=True), frames * channels + 1
            )
            edges = [base64.b64decode(document[key], validate=True) for key in ("low", "step")]
        except (binascii.Error, zlib.error) as error:
            raise ValueError(str(error)) from error
        if len(raw) != frames * channels or not unpacker.eof or any(len(e) != 4 * channels for e in edges):
            raise ValueError(f"{len(raw)} bytes for {frames} frames of {channels} channels")
        low, step = (np.frombuffer(edge, dtype="<f4").astype(np.float64) for edge in edges)
        if not (np.isfinite(low).all() and np.isfinite(step).all() and (step > 0).all()):
            raise ValueError("levels that are no finite numbers")
        counts = document.get("predictions")
        if counts is not None and not (
            isinstance(counts, list) and counts and all(type(c) is int and c >= 0 for c in counts)
        ):
            raise ValueError("predictions that are no counts")
        codes = np.frombuffer(raw, dtype=np.uint8).reshape(frames, channels)
        recorded = document.get("layout")
        layout = None if recorded is None else cls.from_json(recorded)
        if layout is not None and layout.frames != frames:
            raise ValueError(f"a layout of {layout.frames} frames, and taps of {frames}")
        return cls(codes, low, step, None if counts is None else tuple(counts), layout)
