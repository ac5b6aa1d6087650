"""Drift while the device runs: one frame at a time, constant memory, a stated rate of false alarms.

The last 32 kept frames are the window; at every 8th it is compared with the baseline by tier 1's
permutation test (without a baseline: with the population statistics, by tier 0), at a level of

    alpha = 8 / (2 ARL).

Whatever the dependence between overlapping windows, the probability of a false alarm within N frames is at
most (N / 8) alpha = N / (2 ARL), so the run length has a mean of at least the sum over N < 2 ARL of
1 - N / (2 ARL), which is ARL. What it needs is that a window and the baseline are exchangeable: kept frames
must be independent. So repeats are dropped, and where kept frames are still correlated, only every stride-th
is kept; that is estimated from the first window, and again before an alarm is given (then with one change of
the mean within the window allowed for, as drift that has just begun is one).

Memory: at most 640 columns, spread over all layers, one byte each for 32 frames, and two 64-bit sums.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import alarms, tier0, tier1
from bnfold.drift.baseline import Baseline
from bnfold.drift.blocks import integrated_time, same_image, same_taps
from bnfold.drift.reference import Reference
from bnfold.drift.scale import Scale
from bnfold.drift.state import THUMBNAIL, State
from bnfold.drift.taps import columns, spread_factor
from bnfold.drift.tier0 import LayerTest
from bnfold.drift.tiers import LEAST_BASELINE
from bnfold.errors import ArtifactError, BnfoldError, UsageError
from bnfold.finding import Finding
from bnfold.wording import count

WINDOW = 32
EVERY = 8
ARL = 1000
COLUMNS = 640
_QUICK = 99
_REACH = 4.0  # deviations on either side that the codes cover where there is no baseline
_LEVELS = 255


def check_baseline(frames: int) -> None:
    """Refuse held-out frames that are too few: against them nothing would ever be drift.

    Raises:
        UsageError: BNF-U143.
    """
    if frames < LEAST_BASELINE:
        raise UsageError(
            "BNF-U143",
            f"the baseline has {count(frames, 'finite frame')}, and {LEAST_BASELINE} are needed",
            where="baseline",
            fix="give 50 to 200 held-out frames, or leave it out",
        )


class Monitor:
    """Watches a stream of taps. Made for one network; not for several threads.

    Args:
        reference: of the network; its recorded baseline is used unless another is given.
        baseline: taps of held-out frames, as :class:`~bnfold.drift.Baseline` keeps them.
        arl: the mean number of kept frames between false alarms is at least this.
        every: of how many frames of the camera one is to be run on the monitored graph; see :meth:`due`.
        train_batch: the batch of training, for tier 0.
        state: where an earlier run left off.

    Raises:
        UsageError: BNF-U143 ``arl``, ``every`` or ``train_batch`` is out of range, or a given baseline has
            less than 20 frames; BNF-U146 a training batch of 1 and no baseline: there is nothing to compare
            with.
        ArtifactError: BNF-M033 the state is another network's, or of another baseline.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        baseline: Baseline | None = None,
        arl: int = ARL,
        every: int = 1,
        train_batch: int = 32,
        state: State | None = None,
    ) -> None:
        for name, value, least in (("arl", arl, EVERY), ("every", every, 1), ("train_batch", train_batch, 1)):
            if not value >= least:
                raise UsageError("BNF-U143", f"{name} is {value}", where=name, fix=f"give at least {least}")
        if baseline is not None:
            check_baseline(len(baseline.codes))
        self.reference = reference
        self.arl, self.every, self.train_batch = arl, every, train_batch
        self.alpha = EVERY / (2 * arl)
        known = baseline if baseline is not None else reference.baseline
        self.tier = 0 if known is None else 1
        live = [int(layer.alive.sum()) for layer in reference.layers]
        chosen = spread(live, COLUMNS)
        self.sizes = tuple(len(part) for part in chosen)
        self._columns = np.concatenate(
            [part + offset for part, offset in zip(chosen, np.cumsum([0, *live[:-1]]), strict=True)]
        )
        self._channels = [
            np.flatnonzero(layer.alive)[part] for layer, part in zip(reference.layers, chosen, strict=True)
        ]
        layers = reference.layers
        edges = np.cumsum([0, *(layer.channels for layer in layers[:-1])])
        self._places = np.concatenate([c + edge for c, edge in zip(self._channels, edges, strict=True)])
        self._mean = np.concatenate([layer.mean for layer in layers])[self._places]
        self._deviation = np.concatenate([layer.deviation for layer in layers])[self._places]
        self._factors = [spread_factor(layer, train_batch) for layer in reference.layers]
        if known is None:
            if not np.isfinite(self._factors).all():
                raise UsageError(
                    "BNF-U146",
                    "a training batch of 1 tells nothing of the spread between frames; there is no baseline",
                    where="train_batch",
                    fix="record a baseline at conversion (--samples), or state the batch of training",
                )
            self._low = np.full(len(self._columns), -_REACH)
            self._step = np.full(len(self._columns), 2 * _REACH / _LEVELS)
            self._known = self._codes = None
        else:
            self._low, self._step = known.low[self._columns], known.step[self._columns]
            self._codes = known.codes[:, self._columns]
            self._known = self._decode(self._codes).astype(np.float32)
        self.key = self._identity(known)
        if state is not None and (state.key != self.key or state.ring.shape != (WINDOW, len(self._columns))):
            raise ArtifactError(
                "BNF-M033",
                "the state is of another network, or of another baseline",
                where=f"state {state.key[:12]}, monitor {self.key[:12]}",
                fix="give the artifact and baseline that it began with, or name another file to begin anew",
            )
        scale = Scale.of(
            reference.layers, self.sizes, self._low, self._step, known, self._columns, train_batch
        )
        self.state = state if state is not None else State.new(self.key, scale, WINDOW)

    @property
    def drifted(self) -> bool:
        """Whether an alarm was given and not reset."""
        return self.state.alarmed

    def due(self, number: int) -> bool:
        """Whether the camera's frame of this number, from 0, is to be run on the monitored graph."""
        return number % self.every == 0

    def reset(self) -> None:
        """Forget the alarm and the window, not the sums; the stride is estimated anew."""
        self.state.alarmed, self.state.blamed = False, ""
        self._empty()
        self.state.stride, self.state.settled = 1, False

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state in one step, to go on after a restart with ``state=State.load(path)``.

        Raises:
            PlatformError: as :func:`bnfold.atomic.write`.
        """
        self.state.save(path)

    def unusable(self, name: str, error: BnfoldError) -> Finding:
        """A frame that never came to the network: it is damaged, or has another shape.

        Args:
            name: of the frame.
            error: what was raised.

        Returns:
            BNF-D012, with the frame's number.
        """
        number = self.state.counts.frames
        self.state.counts.frames += 1
        self.state.counts.unusable += 1
        return alarms.unusable(name, error, number)

    def update(
        self,
        means: Sequence[NDArray[Any]] | None,
        *,
        frame: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> list[Finding]:
        """One frame.

        Args:
            means: the taps: for each layer of the reference the channel means, (channels,) or (1, channels).
                None: the frame did not run on the monitored graph, and is only looked at for values that are
                not finite.
            frame: what the network was given (an array, or a dictionary of them), to see repeats and values
                that are not finite; None: neither is looked for. A frame that is not finite needs no taps.
            outputs: the network's answers, looked at for values that are not finite.

        Returns:
            What is new with this frame, usually nothing: BNF-A017 drift, once until :meth:`reset`; BNF-D004
            the frames are correlated, and fewer are kept from now on; BNF-D010, BNF-D011 values that are not
            finite.

        Raises:
            ValueError: taps that do not fit the reference.
        """
        state = self.state
        number = state.counts.frames
        state.counts.frames += 1
        arrays = _arrays(frame)
        if not all(_finite(array) for array in arrays):
            state.counts.bad_inputs += 1
            return [alarms.bad_input(number)]
        values, origin = (np.empty(0), None) if means is None else self._standardised(means)
        if origin is None and not all(_finite(np.asarray(a)) for a in (outputs or {}).values()):
            origin = "outputs"
        if origin is not None:
            state.counts.bad_outputs += 1
            return [alarms.bad_output(origin, number)]
        if means is None or (arrays and self._repeats(arrays[0], values)):
            return []
        state.passed += 1
        if state.passed < state.stride:
            return []
        state.passed = 0
        self._keep(self._encode(values))
        if state.filled < WINDOW or state.since < EVERY or state.alarmed:
            return []
        state.since = 0
        return self._look()

    # --- one frame -----------------------------------------------------------------------------------------

    def _standardised(self, means: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], str | None]:
        """The chosen columns in deviations, and the first layer with a value that is not finite."""
        if len(means) != len(self.reference.layers):
            raise ValueError(f"{len(means)} taps for {len(self.reference.layers)} layers")
        rows = [np.asarray(values, dtype=np.float64).reshape(-1) for values in means]
        for row, layer in zip(rows, self.reference.layers, strict=True):
            if len(row) != layer.channels:
                raise ValueError(f"{layer.name}: {len(row)} taps for {layer.channels} channels")
        whole = np.concatenate(rows)
        if not np.isfinite(whole).all():
            broken = next(i for i, row in enumerate(rows) if not np.isfinite(row).all())
            return np.empty(0), self.reference.layers[broken].name
        return (whole[self._places] - self._mean) / self._deviation, None

    def _repeats(self, frame: NDArray[Any], values: NDArray[np.float64]) -> bool:
        """Whether the frame shows the scene of the last distinct one; it becomes that one if not."""
        flat = frame.reshape(-1)
        now = flat[:: max(1, math.ceil(len(flat) / THUMBNAIL))].astype(np.float64)
        limit = float(np.finfo(np.float16).max)
        image, codes = np.clip(now, -limit, limit).astype(np.float16), self._encode(values)
        state = self.state
        if (
            len(state.last) == len(image)
            and same_image(state.last, image)
            and same_taps(self._decode(state.last_codes), self._decode(codes), self.sizes)
        ):
            return True
        state.last, state.last_codes = image, codes
        return False

    def _encode(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        levels = np.rint((values - self._low) / self._step)
        return np.asarray(np.clip(levels, 0, _LEVELS), dtype=np.uint8)

    def _keep(self, codes: NDArray[np.uint8]) -> None:
        state = self.state
        state.ring[:-1] = state.ring[1:]
        state.ring[-1] = codes
        wide = codes.astype(np.int64)
        state.sums += wide
        state.squares += wide * wide
        state.counts.kept += 1
        state.filled = min(state.filled + 1, WINDOW)
        state.since += 1

    def _decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(self._low + codes * self._step)

    def _empty(self) -> None:
        self.state.filled = self.state.since = 0

    # --- one look ------------------------------------------------------------------------------------------

    def _look(self) -> list[Finding]:
        state = self.state
        window = self._decode(state.ring).astype(np.float32)
        if not state.settled:
            state.settled = True
            slower = self._slower(window, change=False)
            if slower:
                state.settled = False  # look again at the kept frames that remain
                return slower
        state.counts.looks += 1
        p, tests = self._compare(window)
        if not any(test.significant for test in tests):
            return []
        slower = self._slower(window, change=True)
        if slower:
            return slower
        state.alarmed = True
        state.counts.alarms += 1
        counts = state.counts
        names = [layer.name for layer in self.reference.layers]
        alarm = alarms.drift(self.tier, p, tests, names, self._channels, self.arl, WINDOW, counts)
        state.blamed = alarm.where
        return [alarm]

    def _compare(self, window: NDArray[np.float32]) -> tuple[float | None, list[LayerTest]]:
        layers = self.reference.layers
        if self._known is None or self._codes is None:
            parts = [
                window[:, part] / math.sqrt(factor)
                for part, factor in zip(columns(self.sizes), self._factors, strict=True)
            ]
            behind = [layer.frames_behind(self.train_batch) for layer in layers]
            batches = [None if layer.momentum is None else layer.batches for layer in layers]
            single = [layer.positions == 1 for layer in layers]
            return None, tier0.judge(parts, behind, batches, single, alpha=self.alpha)
        # Few deals tell most windows from drift; an alarm needs all of them as well
        p = tier1.p_value(self.state.ring, self._codes, self.sizes, deals=_QUICK)
        if p > 0.05:
            return p, []
        deals = math.ceil(2 / self.alpha) - 1
        p, tests = tier1.judge(window, self._known, self.sizes, alpha=self.alpha, deals=deals)
        return p, tests if p <= self.alpha else []

    def _slower(self, window: NDArray[np.float32], *, change: bool) -> list[Finding]:
        """Keep fewer frames where the kept ones are correlated; a finding that says so, or nothing."""
        time = integrated_time(window, self.sizes, change=change)
        if time <= 1:
            return []
        before = self.state.stride
        self.state.stride = before * math.ceil(time)
        self._empty()
        return [alarms.slower(self.state.stride, before, time)]

    def _identity(self, known: Baseline | None) -> str:
        digest = hashlib.sha256()
        document = Reference(self.reference.layers).to_json()
        digest.update(json.dumps(document, sort_keys=True).encode())
        for array in () if known is None else (known.codes, known.low, known.step):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(f"{WINDOW} {COLUMNS}".encode())
        return digest.hexdigest()


def spread(live: Sequence[int], most: int) -> list[NDArray[np.int64]]:
    """For each layer, which of its live channels are watched: at most ``most`` in all, evenly over layers.

    Layers with few channels leave their share to the others; of more channels than that, a seeded choice.
    """
    left, share = most, 0
    take = [0] * len(live)
    for done, index in enumerate(sorted(range(len(live)), key=lambda i: live[i])):
        share = left // (len(live) - done)
        take[index] = min(live[index], share)
        left -= take[index]
    random = np.random.default_rng(0)
    return [
        np.sort(random.choice(count, size, replace=False)).astype(np.int64)
        for count, size in zip(live, take, strict=True)
    ]


def _arrays(frame: Any) -> list[NDArray[Any]]:
    if frame is None:
        return []
    values = frame.values() if isinstance(frame, Mapping) else [frame]
    return [np.asarray(value) for value in values]


def _finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
