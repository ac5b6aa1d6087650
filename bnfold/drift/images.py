"""What the frames themselves look like, in the user's words: brighter, noisier, blurred.

Six numbers per frame, all of the frame as the network is given it, after any normalisation: so differences
are told, and not whether an image is good.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAMES = ("brightness", "contrast", "noise", "sharpness", "saturation", "clipped")
_WORDS = {
    "brightness": ("brighter", "darker"),
    "contrast": ("more contrast", "less contrast"),
    "noise": ("noisier", "smoother"),
    "sharpness": ("sharper", "blurred"),
    "saturation": ("more colourful", "paler"),
    "clipped": ("more clipped pixels", "fewer clipped pixels"),
}
_LEAST = 1.0  # deviations between frames that a change must reach to be worth a word


@dataclass(frozen=True)
class Change:
    """One statistic of the image, here and in the baseline.

    Attributes:
        name: one of ``NAMES``.
        now, before: means over the frames; ``before`` is None without a baseline.
        effect: (now - before) over the deviation between the frames of the baseline.
        words: as ``darker``; empty where the change is small.
    """

    name: str
    now: float
    before: float | None = None
    effect: float | None = None
    words: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def statistics(frames: NDArray[Any]) -> dict[str, Array] | None:
    """Each statistic for each frame, shape (frames,); None where the frames are no images.

    Args:
        frames: (frames, channels, height, width) or (frames, height, width, channels), with 1 or 3 channels
            and at least 4 x 4 pixels.

    - brightness: the mean; contrast: the standard deviation of the grey image.
    - noise: Immerkaer's estimate, from the image filtered by the difference of two Laplacians (1996).
    - sharpness: the mean square of the Laplacian over that of the gradient; blur removes the first sooner.
    - saturation: the mean difference of the largest and the smallest colour; left out for grey images.
    - clipped: the share of pixels at the frames' common least or largest value.
    """
    images = as_images(frames)
    if images is None:
        return None
    grey = images.mean(axis=-1)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    corners = grey[:, :-2, :-2] + grey[:, :-2, 2:] + grey[:, 2:, :-2] + grey[:, 2:, 2:]
    crosses = laplacian + 4 * inner
    filtered = corners - 2 * crosses + 4 * inner
    dx, dy = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    slope = np.square(dx).mean(axis=(1, 2)) + np.square(dy).mean(axis=(1, 2))
    edges = (images <= images.min()) | (images >= images.max())
    found = {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "noise": math.sqrt(math.pi / 2) / 6 * np.abs(filtered).mean(axis=(1, 2)),
        "sharpness": np.square(laplacian).mean(axis=(1, 2)) / np.maximum(slope, 1e-12),
        "clipped": edges.mean(axis=(1, 2, 3)),
    }
    if images.shape[-1] == 3:
        found["saturation"] = (images.max(axis=-1) - images.min(axis=-1)).mean(axis=(1, 2))
    return {name: found[name] for name in NAMES if name in found}


def changes(frames: NDArray[Any], baseline: NDArray[Any] | None = None) -> list[Change]:
    """What the frames show, against a baseline of frames where there is one; empty for other than images."""
    now = statistics(frames)
    before = None if baseline is None else statistics(baseline)
    if now is None:
        return []
    if before is None:
        return [Change(name, float(values.mean())) for name, values in now.items()]
    found = []
    for name, values in now.items():
        if name not in before:
            continue
        reference = before[name]
        apart = float(values.mean() - reference.mean())
        scale = max(float(reference.std()), 1e-3 * abs(float(reference.mean())), 1e-9)
        effect = apart / scale
        words = "" if abs(effect) < _LEAST else _WORDS[name][0 if effect > 0 else 1]
        found.append(Change(name, float(values.mean()), float(reference.mean()), effect, words))
    return found


def as_images(frames: NDArray[Any]) -> Array | None:
    """(frames, height, width, channels) in float64; None where they are no images of 1 or 3 channels."""
    if frames.ndim != 4:
        return None
    if frames.shape[1] in (1, 3):
        images = np.moveaxis(frames, 1, -1)
    elif frames.shape[-1] in (1, 3):
        images = frames
    else:
        return None
    if min(images.shape[1:3]) < 4:
        return None
    return np.asarray(images, dtype=np.float64)
