"""Bilinear resampling: known values, and bit for bit what Pillow gives for each of the two passes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bnfold.runtime.resize import resize


def column(*pixels: int) -> np.ndarray:
    return np.array(pixels, dtype=np.uint8).reshape(-1, 1, 1)


def test_enlarging_takes_the_weighted_mean_of_two_neighbours() -> None:
    # centres at 1/4, 3/4, 5/4, 7/4 of two pixels: 0, 63.75, 191.25, 255
    assert resize(column(0, 255), 4, 1).ravel().tolist() == [0, 64, 191, 255]
    assert resize(column(0, 255).transpose(1, 0, 2), 1, 4).ravel().tolist() == [0, 64, 191, 255]


def test_shrinking_widens_the_filter_so_that_no_pixel_is_skipped() -> None:
    # 8 to 2: the triangle over the first centre has the weights 5, 7, 7, 5, 3, 1, of 28
    for place, weight in enumerate((5, 7, 7, 5, 3, 1, 0, 0)):
        spike = [0] * 8
        spike[place] = 252
        assert resize(column(*spike), 2, 1)[0, 0, 0] == 9 * weight
        assert resize(column(*spike[::-1]), 2, 1)[1, 0, 0] == 9 * weight


def test_the_same_size_is_the_same_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, 5, 7), image)


@pytest.mark.parametrize("before", [(1, 1), (2, 3), (28, 28), (37, 64), (120, 160)])
@pytest.mark.parametrize("after", [(1, 1), (3, 2), (28, 28), (64, 37), (97, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_pillow_the_width_first(before: tuple[int, int], after: tuple[int, int], channels: int) -> None:
    generator = np.random.default_rng(before[0] * 1000 + after[1])
    noise = generator.integers(0, 256, (*before, channels), dtype=np.uint8)
    for image in (noise, np.where(noise > 127, 255, 0).astype(np.uint8)):  # the second tries the clipping
        picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
        wide = picture.resize((after[1], before[0]), Image.Resampling.BILINEAR)
        expected = np.asarray(wide.resize(after[::-1], Image.Resampling.BILINEAR)).reshape(*after, channels)
        got = resize(image, *after)
        assert np.array_equal(got, expected)
        # in one call Pillow 13 may take the height first, and then rounds otherwise in between
        at_once = np.asarray(picture.resize(after[::-1], Image.Resampling.BILINEAR)).reshape(*after, channels)
        assert np.abs(got.astype(int) - at_once).max() <= 1
