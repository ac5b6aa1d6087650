"""Example frames from both ends: the ones most and least like training."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bnfold.drift import Evidence
from bnfold.drift.images import as_images
from bnfold.report.html.page import Image, Plot, name

_OF_EACH = 4
_LARGEST = 160  # pixels of the longer side; a larger frame is made smaller


def examples(evidence: Evidence, names: Sequence[str]) -> Plot | None:
    """The frames furthest from training, then the nearest; None where they are no images.

    Args:
        evidence: with at least one tested frame.
        names: of all frames that were given.
    """
    order = np.argsort(evidence.distances, kind="stable")
    far, near = order[::-1][:_OF_EACH], order[: max(min(_OF_EACH, len(order) - _OF_EACH), 0)]
    chosen = [
        *((int(at), "furthest from training") for at in far),
        *((int(at), "nearest to training") for at in near[::-1]),
    ]
    frames = evidence.tested[[at for at, _ in chosen]]
    pictures = as_images(evidence.pictures[frames])
    if pictures is None:
        return None
    low, high = float(pictures.min()), float(pictures.max())
    whole = low >= 0 and high <= 1
    if whole:
        low, high = 0.0, 1.0
    shown = []
    for (at, end), frame, picture in zip(chosen, frames, pictures, strict=True):
        pixels = np.clip((picture - low) / max(high - low, 1e-12), 0, 1)
        source, width, height = data_uri(np.rint(255 * pixels).astype(np.uint8))
        distance = evidence.distances[at]
        label = f"{name(names[frame])}: {distance:.2f}"
        shown.append(Image(source, width, height, f"{end}: {name(names[frame])}", label))
    caption = (
        f"The {len(far)} frames furthest from training, then the {len(near)} nearest, each with its distance "
        "(see below). "
        if len(near)
        else "All frames, the furthest from training first, each with its distance (see below). "
    )
    caption += "As the network is given them" + (
        "." if whole else f"; the values from {low:.3g} to {high:.3g} are shown from dark to bright."
    )
    return Plot("Frames from both ends", caption, images=shown, wide=True)


def data_uri(pixels: NDArray[np.uint8]) -> tuple[str, int, int]:
    """A picture of shape (height, width, 1 or 3) as a PNG in a data URI, its width and its height."""
    from PIL import Image as Pillow

    height, width, channels = pixels.shape
    picture = Pillow.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    factor = math.ceil(max(height, width) / _LARGEST)
    if factor > 1:
        picture = picture.reduce(factor)
    target = io.BytesIO()
    picture.save(target, "PNG", optimize=True)
    encoded = base64.b64encode(target.getvalue()).decode("ascii")
    return f"data:image/png;base64,{encoded}", picture.width, picture.height
