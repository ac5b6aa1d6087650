"""A frame becomes a model input: every number by another way, with Pillow and plain loops."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bnfold.errors import InputError
from bnfold.runtime.preprocess import Preprocessor, prepare
from bnfold.signature import TensorSpec

Array = NDArray[Any]
SIZE = (6, 9)
MEANS, STDS = [0.25, 0.5, 0.125], [0.5, 2.0, 0.3]


def how(layout: str = "NCHW", color: str = "rgb", resize: str = "stretch", **more: Any) -> dict[str, Any]:
    channels = 1 if color == "gray" else 3
    values = {"scale": 1 / 255, "mean": MEANS[:channels], "std": STDS[:channels]}
    return {"layout": layout, "color": color, "resize": resize, **values, **more}


def spec_of(said: dict[str, Any], dtype: str = "float32") -> TensorSpec:
    channels = 1 if said["color"] == "gray" else 3
    shape = (1, channels, *SIZE) if said["layout"] == "NCHW" else (1, *SIZE, channels)
    return TensorSpec("image", shape, dtype)


def half_up(value: Fraction) -> int:
    return max(1, floor(value + Fraction(1, 2)))


def resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The width first: left to itself, Pillow 13 takes the height first where that is faster."""
    wide = picture.resize((width, picture.height), Image.Resampling.BILINEAR)
    return wide.resize((width, height), Image.Resampling.BILINEAR)


def fitted(picture: Image.Image, resize: str) -> Image.Image:
    """The picture in the model's size."""
    height, width = SIZE
    if picture.size == (width, height):
        return picture
    if resize == "crop":  # the largest window of the model's aspect ratio, in the middle
        kept_width = min(picture.width, half_up(Fraction(picture.height * width, height)))
        kept_height = min(picture.height, half_up(Fraction(picture.width * height, width)))
        left, top = (picture.width - kept_width) // 2, (picture.height - kept_height) // 2
        picture = picture.crop((left, top, left + kept_width, top + kept_height))
    if resize == "letterbox":  # the whole picture, on black
        inner_width = min(width, half_up(Fraction(picture.width * height, picture.height)))
        inner_height = min(height, half_up(Fraction(picture.height * width, picture.width)))
        canvas = Image.new(picture.mode, (width, height))
        small = resized(picture, inner_width, inner_height)
        canvas.paste(small, ((width - inner_width) // 2, (height - inner_height) // 2))
        return canvas
    return resized(picture, width, height)


def expected(frame: Array, said: dict[str, Any], dtype: str) -> Array:
    picture = Image.fromarray(frame[:, :, 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame)
    picture = picture.convert("L" if said["color"] == "gray" else "RGB")
    pixels = np.asarray(fitted(picture, said["resize"])).reshape(*SIZE, -1)
    if said["color"] == "bgr":
        pixels = pixels[:, :, ::-1]
    result = np.empty(pixels.shape, dtype=dtype)
    for row, column, channel in np.ndindex(*pixels.shape):
        value = int(pixels[row, column, channel]) * said["scale"]
        mean, std = (said[key][channel % len(said[key])] for key in ("mean", "std"))
        result[row, column, channel] = (value - mean) / std
    return (result if said["layout"] == "NHWC" else result.transpose(2, 0, 1))[np.newaxis]


def frames() -> list[Array]:
    """Grey, grey with an axis, RGB and RGBA; of the model's size, smaller, larger, wide, tall, one pixel."""
    generator = np.random.default_rng(3)
    sizes = [SIZE, (3, 4), (24, 36), (25, 31), (5, 40), (41, 7), (1, 1)]
    kinds: list[tuple[int, ...]] = [(), (1,), (3,), (4,)]
    return [generator.integers(0, 256, (*size, *kind), dtype=np.uint8) for size in sizes for kind in kinds]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["gray", "rgb", "bgr"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_way_of_preparing_every_kind_of_frame(layout: str, color: str, resize: str, dtype: str) -> None:
    said = how(layout, color, resize)
    preprocessor = Preprocessor(spec_of(said, dtype), said)
    for frame in frames():
        kept = frame.copy()
        got = preprocessor(frame)
        assert got.dtype == dtype
        assert np.array_equal(got, expected(frame, said, dtype)), frame.shape
        assert np.array_equal(frame, kept)


def test_pixels_known_by_heart() -> None:
    frame = np.zeros((*SIZE, 3), dtype=np.uint8)
    frame[0, 1] = (255, 51, 0)
    said = how("NCHW", "bgr", mean=[0.0, 0.2, 0.5], std=[1.0, 2.0, 4.0])
    got = prepare(frame, spec_of(said), said)
    assert got[0, :, 0, 1].tolist() == pytest.approx([0.0, 0.0, 0.125])
    assert got[0, :, 0, 0].tolist() == pytest.approx([0.0, -0.1, -0.125])


@pytest.mark.parametrize(
    ("rgb", "luma"),
    [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((255, 255, 255), 255), ((1, 2, 3), 2)],
)
def test_grey_of_colours(rgb: tuple[int, int, int], luma: int) -> None:
    said = how("NCHW", "gray", scale=1, mean=[0], std=[1])
    got = prepare(np.full((*SIZE, 3), rgb, dtype=np.uint8), spec_of(said), said)
    assert np.unique(got).tolist() == [luma]


def test_letterbox_pads_with_black_pixels_not_with_zeros_of_the_input() -> None:
    said = how("NCHW", "gray", "letterbox", mean=[0.5], std=[0.25])
    got = prepare(np.full((6, 3), 255, dtype=np.uint8), spec_of(said), said)[0, 0]
    assert np.unique(got[:, 3:6]).tolist() == [2.0]
    assert np.unique(got[:, [0, 1, 2, 6, 7, 8]]).tolist() == [-2.0]


def test_crop_keeps_the_middle() -> None:
    frame = np.zeros((6, 27), dtype=np.uint8)
    frame[:, 9:18] = 255
    said = how("NCHW", "gray", "crop", mean=[0], std=[1])
    assert np.unique(prepare(frame, spec_of(said), said)).tolist() == [1.0]


def test_one_mean_serves_three_channels() -> None:
    said = how(mean=[0.5], std=[0.25])
    got = prepare(np.full((*SIZE, 3), (0, 51, 255), dtype=np.uint8), spec_of(said), said)
    assert got[0, :, 3, 4].tolist() == pytest.approx([-2.0, -1.2, 2.0])


@pytest.mark.parametrize(
    "shape", [(6,), (6, 9, 2), (6, 9, 5), (1, 6, 9, 3), (3, 6, 9), (0, 9), (6, 0, 3)], ids=str
)
def test_not_a_frame(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        prepare(np.zeros(shape, dtype=np.uint8), spec_of(how()), how())
    assert caught.value.code == "BNF-R015"
    assert str(shape) in caught.value.what


def test_not_uint8() -> None:
    with pytest.raises(InputError) as caught:
        prepare(np.zeros(SIZE, dtype=np.int8), spec_of(how()), how())  # type: ignore[arg-type]
    assert caught.value.code == "BNF-R011"


def test_without_a_normalisation() -> None:
    with pytest.raises(InputError) as caught:
        Preprocessor(TensorSpec("image", (1, 3, 6, 9), "float32"), None)
    assert caught.value.code == "BNF-R014"
    assert "image: float32 (1, 3, 6, 9)" in caught.value.what
    assert caught.value.fix == "give float32 values, or convert with --color, --scale, --mean and --std"
    with pytest.raises(InputError) as caught:  # convert would refuse these options for such an input
        Preprocessor(TensorSpec("image", (1, 4, 6, 9), "float32"), None)
    assert caught.value.fix == "give float32 values"
