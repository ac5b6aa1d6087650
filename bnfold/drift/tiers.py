"""The two tiers on taps that are at hand: from blocks of frames to a verdict each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import tier0, tier1
from bnfold.drift.blocks import Blocks, integrated_time
from bnfold.drift.layout import scale_of, words
from bnfold.drift.reference import Reference
from bnfold.drift.result import LayerDrift, LayoutDrift, TierResult
from bnfold.drift.taps import Taps, expectation, spread_factor
from bnfold.drift.tier0 import LayerTest

Layout: TypeAlias = NDArray[np.float32]
Layouts: TypeAlias = "tuple[Layout | None, Layout | None]"
"""Of a window's frames and of a baseline's."""

LEAST_FRAMES = 8
"""Independent frames of a window below which there is no verdict."""
LEAST_BASELINE = 20
"""The same for a baseline; 50 to 200 are better."""
_MOST = 512  # independent frames that are compared; of more, as many at even distances
_KEPT_CHANNELS = 16


def tier_0(
    taps: Taps, window: Blocks | None, reference: Reference, *, train_batch: int, margin: float = tier0.MARGIN
) -> TierResult:
    """Against the population statistics alone.

    Args:
        taps: of all frames of the window, finite.
        window: its blocks; None where there are no frames.
        reference: of the network.
        train_batch: the batch of training.
        margin: the root mean square shift of a layer that is no drift.
    """
    frames = window.effective if window else 0
    factors = [spread_factor(layer, train_batch) for layer in reference.layers]
    thin = _thin(frames)
    if not thin and not np.isfinite(factors).all():
        thin = "with a training batch of 1 the running variance says nothing of the spread between frames"
    if thin or window is None:
        return TierResult(0, False, False, thin, frames)
    means = window.means(taps.values)
    means = means[np.unique(np.linspace(0, len(means) - 1, _MOST).astype(int))]
    parts = np.split(means, np.cumsum(taps.sizes)[:-1], axis=1)
    layers = [
        part if layer.moment == 2 else part / np.sqrt(factor)
        for part, layer, factor in zip(parts, reference.layers, factors, strict=True)
    ]
    # A block's mean varies by less than one frame does: its scale is not known
    expected = [expectation(layer, train_batch, frames=window.length) for layer in reference.layers]
    tests = tier0.judge(layers, expected, margin=margin)
    results = _layers(tests, reference, taps)
    return TierResult(0, True, any(t.significant for t in tests), "", frames, layers=results)


def tier_1(
    taps: Taps,
    window: Blocks | None,
    held_out: NDArray[np.float32],
    others: Blocks | None,
    reference: Reference,
    *,
    margin: float = tier1.MARGIN,
    deals: int = tier1.DEALS,
    layouts: Layouts = (None, None),
) -> TierResult:
    """Against held-out frames.

    Args:
        taps: of all frames of the window, finite.
        window: its blocks; None where there are no frames.
        held_out: taps of the baseline's frames, as many channels.
        others: the blocks of the baseline.
        reference: of the network.
        margin: the root mean square shift of a layer that is no drift.
        deals: permutations.
        layouts: of the window's frames and of the baseline's, as `bnfold.drift.layout.layout_of` gives them,
            where both are there: tested as one more layer.
    """
    frames, baseline = (window.effective if window else 0), (others.effective if others else 0)
    thin = _thin(frames)
    if not thin and baseline < LEAST_BASELINE:
        thin = f"the baseline is worth {baseline} independent frames; {LEAST_BASELINE} are needed"
    if thin or window is None or others is None:
        return TierResult(1, False, False, thin, frames, baseline)
    now, before = _spaced(window.starts), _spaced(others.starts)
    rows, known, sizes = taps.values[now], held_out[before], taps.sizes
    pictures = _pictures(layouts, (now, window), (before, others))
    if pictures is not None:
        rows, known = (np.concatenate(pair, axis=1) for pair in zip((rows, known), pictures, strict=True))
        sizes = (*sizes, pictures[0].shape[1])
    p, tests = tier1.judge(rows, known, sizes, margin=margin, deals=deals)
    drifted = p <= tier1.ALPHA and any(test.significant for test in tests)
    layers = _layers(tests[: len(taps.sizes)], reference, taps)
    changed = None if pictures is None else _layout(tests[-1])
    return TierResult(1, True, drifted, "", frames, baseline, p, layers, changed)


def _pictures(layouts: Layouts, *chosen: tuple[NDArray[np.int64], Blocks]) -> tuple[Layout, Layout] | None:
    """The layouts of the chosen frames, in deviations between the baseline's; None where they do not count.

    Blocks are made so that the taps of their first frames are independent. A background that stands still in
    front of the camera while other things move may not be: then it is no evidence.
    """
    found = [
        layout[frames] for layout, (frames, _) in zip(layouts, chosen, strict=True) if layout is not None
    ]
    if len(found) < 2 or found[0].shape[1] != found[1].shape[1]:
        return None
    for rows, (_, blocks) in zip(found, chosen, strict=True):
        if blocks.automatic and integrated_time(rows, (rows.shape[1],)) > 1:
            return None
    center, scale = scale_of(found[1])
    now, before = ((rows - center) / scale for rows in found)
    return now.astype(np.float32), before.astype(np.float32)


def _layout(test: LayerTest) -> LayoutDrift:
    assert test.p is not None, "tier 1 gives one"
    said = words(test.channels, [float(test.shifts[column]) for column in test.channels])
    return LayoutDrift(test.effect, test.limit, test.significant, test.by, test.strength, test.p, tuple(said))


def _thin(frames: int) -> str:
    if frames >= LEAST_FRAMES:
        return ""
    return f"the frames are worth {frames} independent ones; {LEAST_FRAMES} are needed"


def _spaced(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = indices[np.unique(np.linspace(0, len(indices) - 1, _MOST).astype(int))]
    return chosen


def _layers(tests: Sequence[LayerTest], reference: Reference, taps: Taps) -> tuple[LayerDrift, ...]:
    found = []
    for test, layer, channels in zip(tests, reference.layers, taps.channels, strict=True):
        shown = test.channels[:_KEPT_CHANNELS]
        # frames that only lie closer or further apart have no channels that shifted
        apart = test.by == ("spread",) and test.effect <= test.limit
        if test.significant and not shown and len(test.shifts) and not apart:
            shown = tuple(int(c) for c in np.argsort(-np.abs(test.shifts))[:3])
        found.append(
            LayerDrift(
                layer.name,
                test.effect,
                test.limit,
                test.significant,
                test.by,
                test.strength,
                test.detectable,
                test.p,
                tuple(int(channels[c]) for c in shown),
                tuple(float(test.shifts[c]) for c in shown),
            )
        )
    return tuple(found)
