"""Do these frames look like what the network was trained on?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import images, tier0
from bnfold.drift.blocks import Blocks, blocks_of
from bnfold.drift.evidence import Evidence
from bnfold.drift.labels import histogram
from bnfold.drift.observe import Frames, Observed, frames_of, observe
from bnfold.drift.reference import Reference
from bnfold.drift.result import DriftResult
from bnfold.drift.taps import Taps
from bnfold.drift.tiers import Layouts, tier_0, tier_1
from bnfold.drift.verdict import broke, findings_of, not_finite
from bnfold.errors import UsageError
from bnfold.finding import Finding


def check(
    monitored_artifact_or_module: Any,
    frames: Frames,
    *,
    baseline: Frames | None = None,
    train_batch: int = 32,
    blocks: int | None = None,
    second_moments: bool = False,
    margin: float = tier0.MARGIN,
    keep: bool = False,
) -> DriftResult:
    """Whether frames differ from what the network was trained on.

    Tier 0 needs nothing but the network: its population statistics say what the mean of every channel
    should be. Tier 1 compares with held-out frames, sees smaller changes, and decides where there are any:
    given here, or recorded in the artifact.

    Args:
        monitored_artifact_or_module: a monitored artifact (its path, or opened by ``bnfold.open``), or an
            ``nn.Module``, which is run in eval mode and left as it was.
        frames: model inputs in the order of time, an array of floats whose first axis is the frames; a
            dictionary of them by input name for several inputs.
        baseline: held-out frames like those of training, 50 to 200 of them; None: the recorded ones, if any.
        train_batch: the batch of training, which no checkpoint stores. It says how exact the running mean is,
            and how far the running variance of a small batch is too small.
        blocks: how many frames belong to one scene; None: estimated from the frames.
        second_moments: of a module: whether second moments are looked at beside the means, which sees changes
            that leave means where they are. An artifact has them where it was converted with them.
        margin: the root mean square shift over a layer's channels, in deviations, that is no drift.
        keep: whether the result keeps its ``evidence``: frames and taps, for a report that shows them.

    Returns:
        The verdict. ``drifted`` is False where ``judged`` is: too few independent frames are no evidence.

    Raises:
        UsageError: BNF-U140 a clean artifact; BNF-U141 no BatchNorm to compare with; BNF-U142 neither an
            artifact nor a module; BNF-U143 ``train_batch``, ``blocks`` or ``margin`` is out of range.
        InputError: BNF-R030, BNF-R031 the frames do not fit; for an artifact as ``Model.predict``.
        ArtifactError: as ``bnfold.open``; BNF-M030 the recorded reference is damaged.

    The methods and their assumptions are in docs/drift.md.
    """
    _check_options(train_batch, blocks, margin)
    seen = observe(monitored_artifact_or_module, frames, second_moments=second_moments)
    reference = seen.reference
    arrays = frames_of(frames)
    pictures = next(iter(arrays.values()))
    broken, usable = _broken(seen)
    taps = seen.taps.take(usable)
    layout = None if seen.layout is None else seen.layout[usable]
    ran = np.flatnonzero(seen.ran)[usable]
    window = blocks_of(pictures[ran], taps.values, taps.sizes, length=blocks) if len(ran) else None
    tiers = [tier_0(taps, window, reference, train_batch=train_batch, margin=margin)]
    predictions = None if taps.scores is None else {"frames": histogram(taps.scores)}
    compared: NDArray[Any] | None = None
    known: NDArray[np.float32] | None = None
    layouts: Layouts
    if baseline is not None:
        held_out = observe(
            monitored_artifact_or_module, baseline, "baseline", second_moments=second_moments
        )
        compared = next(iter(frames_of(baseline, "baseline").values()))
        before = held_out.taps.take(held_out.taps.finite)
        compared = compared[np.flatnonzero(held_out.ran)[held_out.taps.finite]]
        known = before.values
        others = blocks_of(compared, known, before.sizes) if len(before) else None
        layouts = layout, None if held_out.layout is None else held_out.layout[held_out.taps.finite]
        tiers.insert(0, tier_1(taps, window, known, others, reference, margin=margin, layouts=layouts))
        if predictions is not None and before.scores is not None:
            predictions["baseline"] = histogram(before.scores)
    elif reference.baseline is not None:
        recorded = reference.baseline
        coded = replace(taps, values=recorded.rounded(taps.values))
        held = Blocks(recorded.frames, np.arange(recorded.frames), 1, True)
        known = recorded.values.astype(np.float32)
        layouts = None, None
        if layout is not None and recorded.layout is not None:
            layouts = recorded.layout.rounded(layout), recorded.layout.values.astype(np.float32)
        tiers.insert(0, tier_1(coded, window, known, held, reference, margin=margin, layouts=layouts))
        if predictions is not None and recorded.predictions is not None:
            predictions["baseline"] = recorded.predictions
    if compared is not None and not len(compared):
        compared = None
    changes = images.changes(pictures[ran], compared) if len(ran) else []
    findings = findings_of(tiers, window, changes, predictions, reference, train_batch, broken)
    evidence = _evidence(reference, taps, window, ran, pictures, known, compared) if keep else None
    return DriftResult(
        bool(broken) or tiers[0].drifted,
        bool(broken) or tiers[0].judged,
        findings,
        tuple(tiers),
        len(pictures),
        window.effective if window else 0,
        window.length if window else 1,
        train_batch,
        changes,
        predictions,
        reference.left_out,
        evidence,
    )


def _evidence(
    reference: Reference,
    taps: Taps,
    window: Blocks | None,
    tested: NDArray[np.int64],
    pictures: NDArray[Any],
    known: NDArray[np.float32] | None,
    compared: NDArray[Any] | None,
) -> Evidence:
    kept = window.kept if window else np.zeros(0, dtype=np.int64)
    now = images.statistics(pictures[tested]) if len(tested) else None
    before = None if compared is None else images.statistics(compared)
    return Evidence(reference, taps, tested, kept, pictures, known, now or {}, before or {})


def _check_options(train_batch: int, blocks: int | None, margin: float) -> None:
    for name, value, least in (("train_batch", train_batch, 1), ("blocks", blocks, 1), ("margin", margin, 0)):
        if value is not None and not value >= least:
            raise UsageError("BNF-U143", f"{name} is {value}", where=name, fix=f"give at least {least}")


def _broken(seen: Observed) -> tuple[list[Finding], NDArray[np.bool_]]:
    """Findings of what is not finite, and which of the frames that ran can be tested."""
    found = []
    total = len(seen.ran)
    if not seen.ran.all():
        found.append(not_finite([int(i) for i in np.flatnonzero(~seen.ran)], total))
    usable = seen.taps.finite & seen.outputs_finite
    if not usable.all():
        origin = seen.taps.first_not_finite()
        where = "outputs" if origin is None else seen.reference.layers[origin[0]].name
        frames = np.flatnonzero(seen.ran)[~usable]
        found.append(broke(where, [int(i) for i in frames], int(seen.ran.sum())))
    return found, usable
