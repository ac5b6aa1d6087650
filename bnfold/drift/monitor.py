"""Drift while the device runs: one frame at a time, constant memory, a stated rate of false alarms.

At every 8th kept frame the last 8, 16, 32 and 64 are compared with the baseline by one permutation test
(without a baseline, the last 32 and 64 with the population statistics, by tier 0), at the level

    alpha = 8 / ARL.

Looks overlap, and depend on each other. By the Gaussian correlation inequality (Royen, 2014) that can only
help: where what is looked at is symmetric, convex and of means that are near normal, as in the permutation
test, the probability of no alarm in n looks is at least (1 - alpha)^n, so the run length has a mean of at
least 1 / alpha looks, which is ARL frames. Whatever the dependence, it is at least half of that: no alarm in
n looks has at least the probability 1 - n alpha. What both need is that the kept frames and the baseline are
exchangeable: kept frames must be independent. So repeats are dropped, and where kept frames are still
correlated, only every stride-th is kept; that is estimated from the first 32, and again before an alarm is
given (with one change of the mean within them allowed for, as drift that has just begun is one).

Memory: at most 640 columns, spread over all layers, one byte each for 64 frames, and two 64-bit sums.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import alarms, pictures
from bnfold.drift.baseline import Baseline
from bnfold.drift.blocks import integrated_time, same_image, same_taps
from bnfold.drift.held_out import independent
from bnfold.drift.looks import Kept, Looks
from bnfold.drift.reference import Reference
from bnfold.drift.state import THUMBNAIL, State
from bnfold.drift.taps import spread_factor
from bnfold.drift.watched import Watched
from bnfold.errors import ArtifactError, BnfoldError, UsageError
from bnfold.finding import Finding
from bnfold.numerics import is_finite

HISTORY = 64
FIRST = 32
"""Kept frames before the first look, and those that are looked at for correlation."""
EVERY = 8
ARL = 1000
_LARGEST_ARL = 10**6  # an alarm deals the frames ARL / 4 times


class Monitor:
    """Watches a stream of taps. Made for one network; not for several threads.

    Args:
        reference: of the network; its recorded baseline is used unless another is given.
        baseline: taps of held-out frames, as :class:`~bnfold.drift.Baseline` keeps them. Where frames that
            follow each other are correlated, only every so manyth is used.
        arl: the mean number of kept frames between false alarms is at least this; 8 to 1,000,000.
        every: of how many frames of the camera one is to be run on the monitored graph; see :meth:`due`.
        train_batch: the batch of training, for tier 0.
        state: where an earlier run left off.

    Raises:
        UsageError: BNF-U143 ``arl``, ``every`` or ``train_batch`` is out of range, or a given baseline has
            less than 20 frames, or is worth less than 20 independent ones; BNF-U146 a training batch of 1 and
            no baseline: there is nothing to compare with.
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
        if arl > _LARGEST_ARL:
            raise UsageError("BNF-U143", f"arl is {arl}", where="arl", fix=f"give at most {_LARGEST_ARL}")
        self.reference = reference
        self.arl, self.every, self.train_batch = arl, every, train_batch
        self.alpha = EVERY / arl
        known = independent(reference, baseline)
        self.tier = 0 if known is None else 1
        factors = [spread_factor(layer, train_batch) for layer in reference.layers]
        if known is None and not np.isfinite(factors).all():
            raise UsageError(
                "BNF-U146",
                "a training batch of 1 tells nothing of the spread between frames; there is no baseline",
                where="train_batch",
                fix="record a baseline at conversion (--samples), or state the batch of training",
            )
        watched = Watched(reference, known, train_batch)
        self._watched, self.sizes, self.key = watched, watched.sizes, watched.key
        self._looks = Looks(reference.layers, self.sizes, train_batch, self.alpha)
        numbers = 0 if watched.pictures is None else watched.pictures.columns
        new = State.new(self.key, watched.scale, HISTORY, numbers)
        if state is not None and (state.key != self.key or not _alike(state, new)):
            raise ArtifactError(
                "BNF-M033",
                "the state is of another network, or of another baseline",
                where=f"state {state.key[:12]}, monitor {self.key[:12]}",
                fix="give the artifact and baseline that it began with, or name another file to begin anew",
            )
        self.state = new if state is None else state
        self.state.lengthen(HISTORY)

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
        self.state.empty()
        self.state.stride, self.state.settled = 1, False
        self.state.pictured = self.state.layout.shape[1] > 0

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
                that are not finite, and, as (1, ...), its layout; None: nothing of it is looked for. A frame
                that is not finite needs no taps.
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
        arrays = list(_named(frame).values())
        if not all(is_finite(array) for array in arrays):
            state.counts.bad_inputs += 1
            return [alarms.bad_input(number)]
        values, origin = (np.empty(0), None) if means is None else self._watched.standardised(means)
        if origin is None and not all(is_finite(np.asarray(a)) for a in (outputs or {}).values()):
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
        seen = self._watched.pictures if state.pictured else None
        layout = None if seen is None else seen.code(_named(frame))
        state.keep(self._watched.encode(values), layout)
        if state.filled < FIRST or state.since < EVERY or state.alarmed:
            return []
        state.since = 0
        return self._look()

    # --- one frame -----------------------------------------------------------------------------------------

    def _repeats(self, frame: NDArray[Any], values: NDArray[np.float64]) -> bool:
        """Whether the frame shows the scene of the last distinct one; it becomes that one if not."""
        flat = frame.reshape(-1)
        now = flat[:: max(1, math.ceil(len(flat) / THUMBNAIL))].astype(np.float64)
        limit = float(np.finfo(np.float16).max)
        image, watched = np.clip(now, -limit, limit).astype(np.float16), self._watched
        state, codes = self.state, watched.encode(values)
        if (
            len(state.last) == len(image)
            and same_image(state.last, image)
            and same_taps(watched.decode(state.last_codes), watched.decode(codes), self.sizes)
        ):
            return True
        state.last, state.last_codes = image, codes
        return False

    # --- one look ------------------------------------------------------------------------------------------

    def _look(self) -> list[Finding]:
        state, watched = self.state, self._watched
        now = self._now()
        if not state.settled:
            state.settled = True
            slower = self._slower(now.values)
            if slower:
                state.settled = False  # look again at the kept frames that remain
                return slower
            if now.pictures is not None and not pictures.independent(now.pictures, change=True):
                state.pictured, now = False, replace(now, layout=None, pictures=None)
        state.counts.looks += 1
        look = self._looks.look(now, watched.known(now))
        if look is None:
            return []
        slower = self._slower(now.values)
        if slower:
            return slower
        if now.pictures is not None and not pictures.independent(now.pictures[-FIRST:], change=True):
            # taps that are independent before a background that is not: what do they say alone?
            state.pictured, now = False, replace(now, layout=None, pictures=None)
            look = self._looks.look(now, watched.known(now))
            if look is None:
                return []
        state.alarmed = True
        state.counts.alarms += 1
        names = [layer.name for layer in self.reference.layers]
        alarm = alarms.drift(self.tier, look, names, watched.channels, self.arl, state.counts)
        state.blamed = alarm.where
        return [alarm]

    def _now(self) -> Kept:
        """The kept frames that are remembered."""
        state, watched = self.state, self._watched
        codes = state.window
        values = watched.decode(codes).astype(np.float32)
        if watched.pictures is None or not state.pictured:
            return Kept(codes, values)
        layout = state.layout[len(state.layout) - state.filled :]
        return Kept(codes, values, layout, watched.pictures.decode(layout))

    def _slower(self, values: NDArray[np.float32]) -> list[Finding]:
        """Keep fewer frames where the kept ones are correlated; a finding that says so, or nothing.

        One change of the mean is allowed for: drift may have begun just now, or within the first frames.
        """
        time = integrated_time(values[-FIRST:], self.sizes, change=True)
        if time <= 1:
            return []
        before = self.state.stride
        self.state.stride = before * math.ceil(time)
        self.state.empty()
        return [alarms.slower(self.state.stride, before, time)]


def _alike(state: State, new: State) -> bool:
    """Whether a state has the shapes of a new one; its window may be shorter, as in the first version."""
    frames, columns = state.ring.shape
    window, numbers = state.layout.shape
    fits = columns == new.ring.shape[1] and (frames, numbers) in ((window, new.layout.shape[1]), (frames, 0))
    return fits and 0 < frames <= HISTORY and (numbers > 0 or not state.pictured)


def _named(frame: Any) -> dict[str, NDArray[Any]]:
    named = frame if isinstance(frame, Mapping) else {} if frame is None else {"": frame}
    return {str(name): np.asarray(value) for name, value in named.items()}
