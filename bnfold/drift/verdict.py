"""A drift check in words: tiers, images and predictions to findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bnfold.drift.blocks import Blocks
from bnfold.drift.images import Change
from bnfold.drift.labels import moved
from bnfold.drift.reference import Reference
from bnfold.drift.result import LayerDrift, TierResult
from bnfold.finding import Finding, by_severity
from bnfold.wording import count

_SHOWN = 8
_SAID = 4


def findings_of(
    tiers: Sequence[TierResult],
    blocks: Blocks | None,
    images: Sequence[Change],
    predictions: Mapping[str, tuple[int, ...]] | None,
    reference: Reference,
    train_batch: int,
    broken: Sequence[Finding],
) -> list[Finding]:
    """All findings, errors first."""
    found = list(broken)
    decides = tiers[0] if tiers else None
    if decides is not None:
        found += _verdict(decides, images, train_batch)
        found += _labels(decides, predictions)
        for other in tiers[1:]:
            found += _second(decides, other, train_batch)
    if blocks is not None and blocks.effective < blocks.frames:
        found.append(_correlated(blocks))
    if reference.left_out:
        found.append(_left_out(reference))
    return by_severity(found)


def not_finite(frames: Sequence[int], total: int) -> Finding:
    """Frames that hold NaN or infinity, as they come in."""
    return Finding(
        "BNF-D010",
        "error",
        "input",
        f"{len(frames)} of {count(total, 'frame')} have values that are not finite, the first is "
        f"frame {frames[0]}",
        {"frames": list(frames[:100]), "total": total},
        "look at the camera and at what prepares its frames; such a frame is not run",
    )


def broke(where: str, frames: Sequence[int], total: int) -> Finding:
    """Finite frames that give NaN or infinity inside the network."""
    return Finding(
        "BNF-D011",
        "error",
        where,
        f"finite frames give values that are not finite: {len(frames)} of {total}, first seen here "
        f"with frame {frames[0]}",
        {"frames": list(frames[:100]), "total": total},
        "bnfold diagnose says where they come from: statistics, weights or range",
    )


def _verdict(tier: TierResult, images: Sequence[Change], train_batch: int) -> list[Finding]:
    if not tier.judged:
        return [
            Finding(
                "BNF-D001",
                "info",
                "frames",
                f"no verdict: {tier.reason}",
                {"tier": tier.tier, "frames": tier.frames, "baseline_frames": tier.baseline_frames},
                "give more frames, of different scenes",
            )
        ]
    basis = _basis(tier, train_batch)
    if tier.drifted:
        return [_drift(tier, images, basis)]
    unseen = tier.detectable
    means = [layer for layer in tier.layers if not layer.second_moments]
    where = max(means, key=lambda layer: layer.detectable).name if means else ""
    said = f"up to {unseen:.2f} deviations" if math.isfinite(unseen) else "of any size"
    return [
        Finding(
            "BNF-D006",
            "info",
            "frames",
            f"no drift seen {basis}; with so many frames a shift {said} (root mean square over the channels "
            f"of one layer) could have gone unseen",
            {
                "tier": tier.tier,
                "p": tier.p,
                "detectable": _number(unseen),
                "layer": where,
                "train_batch": train_batch,
            },
            "with more frames smaller shifts are seen",
        )
    ]


def _basis(tier: TierResult, train_batch: int) -> str:
    frames = count(tier.frames, "independent frame")
    if tier.tier:
        return f"in {frames} against {tier.baseline_frames} held-out ones (tier 1, p = {tier.p:.3g})"
    return f"in {frames} against the population statistics (tier 0, training batch {train_batch})"


def _drift(tier: TierResult, images: Sequence[Change], basis: str) -> Finding:
    origin, picture = tier.origin, _picture(tier)
    if origin is None:
        return _moved(tier, images, basis, picture)
    later = [layer for layer in tier.layers if layer.significant and layer is not origin]
    words = [change.words for change in images if change.words]
    where = origin.name + (f"[{', '.join(map(str, origin.channels[:_SHOWN]))}]" if origin.channels else "")
    parts = [f"the frames differ from training {basis}: first here, {_what(origin)}"]
    if later:
        largest = max(later, key=lambda layer: layer.effect)
        parts.append(
            f"and in {count(len(later), 'later layer')}, up to {largest.effect:.2f} in {largest.name}"
        )
    message = " ".join(parts) + (f"; the image is {', '.join(words)}" if words else "")
    # "almost everywhere" is what the statistics of the whole image say better
    told = [word for word in picture if not (words and word.endswith("everywhere"))]
    message += f"; in the picture: {', '.join(told[:_SAID])}" if told else ""
    return Finding(
        "BNF-A017",
        "error",
        where,
        message,
        {
            "tier": tier.tier,
            "p": tier.p,
            "effect": origin.effect,
            "by": list(origin.by),
            "channels": list(origin.channels),
            "shifts": list(origin.shifts),
            "propagated": [layer.name for layer in later],
            "frames": tier.frames,
            "baseline_frames": tier.baseline_frames,
            "images": words,
            "layout": picture,
        },
        "look at the camera and the preparation of its frames; if the change is to stay, collect frames of "
        "it, and train or recalibrate with them",
    )


def _picture(tier: TierResult) -> list[str]:
    return list(tier.layout.words) if tier.layout is not None and tier.layout.significant else []


def _moved(tier: TierResult, images: Sequence[Change], basis: str, picture: list[str]) -> Finding:
    """The layout of the picture has changed, and no layer's channels by themselves."""
    layout = tier.layout
    assert layout is not None, "a tier that drifted has a layer or the layout to blame"
    said = f": {', '.join(picture[:_SAID])}" if picture else ""
    words = [change.words for change in images if change.words]
    return Finding(
        "BNF-A017",
        "error",
        "input",
        f"the frames differ from training {basis}: the layout of the picture has changed{said}"
        + (f"; the image is {', '.join(words)}" if words else ""),
        {
            "tier": tier.tier,
            "p": tier.p,
            "effect": layout.effect,
            "by": list(layout.by),
            "channels": [],
            "shifts": [],
            "propagated": [],
            "frames": tier.frames,
            "baseline_frames": tier.baseline_frames,
            "images": words,
            "layout": picture,
        },
        "look whether the camera was moved or turned, at its lens, and at what crops or scales its frames; "
        "if the change is to stay, collect frames of it, and train with them",
    )


def _what(layer: LayerDrift) -> str:
    if layer.second_moments and layer.channels:
        times = 1 + math.sqrt(2) * layer.shifts[0]
        return f"the second moment of channel {layer.channels[0]} is {times:.2f} times that of training"
    if layer.second_moments or ("scale" in layer.by and not {"shift", "channel"} & set(layer.by)):
        return "where channels vary by more, or by less, than they did"
    if layer.channels and ("channel" in layer.by or layer.effect < layer.limit):
        return f"channel {layer.channels[0]} by {layer.shifts[0]:+.2f} deviations"
    if "shift" in layer.by or layer.effect > layer.limit:
        return f"by {layer.effect:.2f} deviations (root mean square over its channels)"
    return "in how far its frames lie apart"


def _second(decides: TierResult, other: TierResult, train_batch: int) -> list[Finding]:
    """Tier 0 beside tier 1, which decides."""
    origin = other.origin
    if not other.judged:
        said = f"tier 0 gives no verdict: {other.reason}"
    elif origin is None:
        said = f"tier 0 sees no drift (training batch {train_batch})"
    else:
        said = f"tier 0 sees drift too, first in {origin.name}, {origin.effect:.2f} deviations"
    if decides.judged and not decides.drifted and origin is not None:
        return [
            Finding(
                "BNF-D003",
                "warning",
                origin.name,
                f"the frames look like the held-out ones, and both differ from the population statistics by "
                f"{origin.effect:.2f} deviations: the statistics do not describe held-out data",
                {"effect": origin.effect, "channels": list(origin.channels)},
                "bnfold audit and bnfold diagnose look for the cause; bnfold recalibrate estimates them anew",
            )
        ]
    return [Finding("BNF-D002", "info", "frames", said, {"judged": other.judged, "drifted": other.drifted})]


def _labels(tier: TierResult, predictions: Mapping[str, tuple[int, ...]] | None) -> list[Finding]:
    if predictions is None or "baseline" not in predictions or not tier.drifted:
        return []
    now, before = predictions["frames"], predictions["baseline"]
    if not sum(now) or not sum(before) or len(now) != len(before):
        return []
    distance, p = moved(now, before)
    third = max(1, len(tier.layers) // 3)
    early = [layer for layer in tier.layers[:third] if layer.significant]
    if p > 0.01 or early:
        return []
    return [
        Finding(
            "BNF-D007",
            "warning",
            "predictions",
            f"the classes that the network gives have moved by {distance:.0%} (p = {p:.2g}) while its first "
            f"{count(third, 'layer')} see nothing new: other things may be in front of the camera, "
            "and not another camera",
            {"distance": distance, "p": p, "frames": list(now), "baseline": list(before)},
            "compare with a baseline of the same mix of classes",
        )
    ]


def _correlated(blocks: Blocks) -> Finding:
    repeats = blocks.frames - len(blocks.kept)
    how = "as given" if not blocks.automatic else "by their autocorrelation"
    parts = [f"{blocks.frames} frames are worth {blocks.effective} independent ones"]
    if repeats:
        parts.append(f"{repeats} repeat the frame before them")
    if blocks.length > 1:
        parts.append(f"a block is {blocks.length} frames, {how}")
    return Finding(
        "BNF-D004",
        "info",
        "frames",
        "; ".join(parts),
        {"frames": blocks.frames, "effective": blocks.effective, "repeats": repeats, "block": blocks.length},
    )


def _left_out(reference: Reference) -> Finding:
    names = list(reference.left_out)
    seen = sum(layer.moment == 1 for layer in reference.layers)
    return Finding(
        "BNF-D009",
        "info",
        names[0],
        f"{count(len(names), 'BatchNorm')} of {len(names) + seen} cannot be looked at: "
        f"{names[0]}: {reference.left_out[names[0]]}",
        {"left_out": dict(reference.left_out)},
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
