"""A camera frame -> a model input, as the manifest's ``normalisation`` says: numpy only.

The order is: colour, size, then (pixel * scale - mean) / std per channel, layout, batch axis.

Colour. Grey from colour is ITU-R 601 luma in the integers that Pillow uses, (19595 R + 38470 G + 7471 B +
32768) >> 16; colour from grey repeats the channel. An alpha channel is dropped, as Pillow's
``convert("RGB")`` does, because training images are usually read that way. ``bgr`` means that the *model*
takes blue first; frames always come as RGB (from OpenCV: ``frame[..., ::-1]``).

Size. ``stretch`` resamples to the model's height and width. ``crop`` first cuts the largest centred window of
the model's aspect ratio. ``letterbox`` fits the whole frame in, centred, and pads with black (pixel value 0).
See :mod:`bnfold.runtime.resize` for the resampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import InputError
from bnfold.runtime.resize import Image, resize
from bnfold.runtime.session import Array
from bnfold.signature import TensorSpec


def prepare(frame: Array, spec: TensorSpec, normalisation: Mapping[str, Any] | None) -> Array:
    """One uint8 frame as the input ``spec``, with a batch axis of 1; see :class:`Preprocessor`."""
    return Preprocessor(spec, normalisation)(frame)


class Preprocessor:
    """Prepares frames for one input.

    Args:
        spec: the input: (batch, channels, height, width) or (batch, height, width, channels), floating.
        normalisation: as in the manifest; :mod:`bnfold.manifest_schema` checks it on reading.

    Raises:
        InputError: BNF-R014 there is no normalisation, so nothing says how a frame is to be prepared.
    """

    def __init__(self, spec: TensorSpec, normalisation: Mapping[str, Any] | None) -> None:
        if normalisation is None:
            fix = f"give {spec.dtype} values"
            if len(spec.shape) == 4 and {spec.shape[1], spec.shape[3]} & {1, 3}:  # gray or colour: an image
                fix += ", or convert with --color, --scale, --mean and --std"
            raise InputError(
                "BNF-R014",
                f"a uint8 frame was given, and nothing says how it becomes {spec.describe()}",
                where=f"input {spec.name!r}",
                fix=fix,
            )
        self._spec = spec
        self._layout = str(normalisation["layout"])
        self._color = str(normalisation["color"])
        self._resize = str(normalisation["resize"])
        height, width = spec.shape[self._layout.index("H")], spec.shape[self._layout.index("W")]
        assert height is not None, "only the batch axis is symbolic"
        assert width is not None, "only the batch axis is symbolic"
        self._size = height, width
        self._table = _table(
            1 if self._color == "gray" else 3, float(normalisation["scale"]),
            tuple(normalisation["mean"]), tuple(normalisation["std"]), spec.dtype,
        )  # fmt: skip

    def __call__(self, frame: Array) -> Array:
        """``frame``: uint8, (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of any size above zero.

        Raises:
            InputError: BNF-R011 not uint8; BNF-R015 not the shape of an image.
        """
        image = self._fit(self._colored(self._checked(frame)))
        channels = len(self._table)
        shape = (channels, *self._size) if self._layout == "NCHW" else (*self._size, channels)
        result: Array = np.empty((1, *shape), dtype=self._spec.dtype)
        for channel in range(channels):
            plane = result[0, channel] if self._layout == "NCHW" else result[0, :, :, channel]
            plane[...] = self._table[channel][image[:, :, channel]]
        return result

    def _checked(self, frame: Array) -> Image:
        if frame.dtype != np.uint8:
            raise InputError(
                "BNF-R011",
                f"a frame has uint8 pixels, this one has {frame.dtype}",
                where=f"input {self._spec.name!r}",
                fix="give pixels of 0 to 255 as uint8",
            )
        image = frame[:, :, np.newaxis] if frame.ndim == 2 else frame
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
            raise InputError(
                "BNF-R015",
                f"a frame has shape (H, W), (H, W, 3) or (H, W, 4), this one has {frame.shape}",
                where=f"input {self._spec.name!r}",
                fix="give one frame at a time, channels last (loop over a stack of frames)",
            )
        return image

    def _colored(self, image: Image) -> Image:
        """In the model's channels and their order."""
        if image.shape[2] == 1:
            return image if self._color == "gray" else np.repeat(image, 3, axis=2)
        if self._color == "rgb":
            return image[:, :, :3]
        if self._color == "bgr":
            return image[:, :, 2::-1]
        red, green, blue = (image[:, :, channel].astype(np.uint32) for channel in range(3))
        luma = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
        return luma.astype(np.uint8)[:, :, np.newaxis]

    def _fit(self, image: Image) -> Image:
        """In the model's height and width."""
        (height, width), (rows, columns) = self._size, image.shape[:2]
        if (rows, columns) == (height, width):
            return image
        if self._resize == "crop":
            kept_rows, kept_columns = _largest(height, width, rows, columns)
            top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
            image = image[top : top + kept_rows, left : left + kept_columns]
        elif self._resize == "letterbox":
            inner_height, inner_width = _largest(rows, columns, height, width)
            top, left = (height - inner_height) // 2, (width - inner_width) // 2
            canvas = np.zeros((height, width, image.shape[2]), dtype=np.uint8)
            canvas[top : top + inner_height, left : left + inner_width] = resize(
                image, inner_height, inner_width
            )
            return canvas
        return resize(image, height, width)


def _largest(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """The largest box of the aspect ratio height : width within rows x columns, rounded half up."""
    if rows * width <= columns * height:  # the rows limit it
        return rows, max(1, (2 * rows * width + height) // (2 * height))
    return max(1, (2 * columns * height + width) // (2 * width)), columns


@lru_cache(maxsize=32)
def _table(
    channels: int, scale: float, mean: tuple[float, ...], std: tuple[float, ...], dtype: str
) -> tuple[NDArray[Any], ...]:
    """Per channel, the input values of the 256 pixel values, computed in float64 and rounded once."""
    pixels = np.arange(256, dtype=np.float64) * scale
    return tuple(
        ((pixels - mean[channel % len(mean)]) / std[channel % len(std)]).astype(dtype)
        for channel in range(channels)
    )
