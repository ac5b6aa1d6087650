"""Where things stand in a picture: the numbers, the words, and tier 1 with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold.drift import Baseline, LayerReference, Reference, Taps
from bnfold.drift.blocks import Blocks
from bnfold.drift.layout import CELLS, COLUMNS, QUANTITIES, layout_of, words
from bnfold.drift.result import TierResult
from bnfold.drift.tiers import tier_1
from bnfold.drift.verdict import findings_of

Array = NDArray[Any]
ROWS, SIDES = np.meshgrid(np.arange(32.0), np.arange(48.0), indexing="ij")


def numbers(picture: Array) -> dict[str, Array]:
    """Of one grey picture: each quantity, (4, 4)."""
    found = layout_of({"x": picture[None, None]})
    assert found is not None
    assert found.shape == (1, COLUMNS)
    return dict(zip(QUANTITIES, found.reshape(len(QUANTITIES), CELLS, CELLS).astype(float), strict=True))


def test_a_slope_has_its_own_numbers_everywhere() -> None:
    found = numbers(0.3 * SIDES + 0.4 * ROWS)
    assert found["edges across"] == pytest.approx(np.full((4, 4), 0.6), rel=1e-6)
    assert found["edges down"] == pytest.approx(np.full((4, 4), 0.8), rel=1e-6)
    assert found["slant"] == pytest.approx(np.full((4, 4), 0.6 * 0.8), rel=1e-6)  # of a sum of squares of 1
    assert found["fineness"] == pytest.approx(np.zeros((4, 4)), abs=1e-6)
    middles = 0.3 * (12 * np.arange(4) + 5.5) + 0.4 * (8 * np.arange(4)[:, None] + 3.5)
    assert found["brightness"] == pytest.approx(middles, rel=1e-6)
    other = numbers(0.3 * SIDES - 0.4 * ROWS)
    assert other["slant"] == pytest.approx(-found["slant"], rel=1e-6)


def test_fine_detail_is_told_from_coarse() -> None:
    # cos(w x): differences 2 sin(w) sin(wx), Laplacian 2 (cos w - 1) cos(wx); over whole periods tan(w / 2)
    for period in (4, 12):
        w = 2 * np.pi / period
        inner = numbers(np.cos(w * SIDES))["fineness"][:, 1:3]
        assert inner == pytest.approx(np.full((4, 2), np.tan(w / 2)), rel=0.15)


def test_only_the_cell_that_changes_changes() -> None:
    random = np.random.default_rng(0)
    picture = random.uniform(size=(32, 48))
    brighter = picture.copy()
    brighter[10:14, 26:34] += 1  # inside of row 1, column 2
    before, now = numbers(picture), numbers(brighter)
    for quantity in QUANTITIES:
        moved = np.abs(now[quantity] - before[quantity]) > 1e-9
        assert moved[1, 2]
        assert moved.sum() == 1
    assert now["brightness"][1, 2] - before["brightness"][1, 2] == pytest.approx(32 / 96, rel=1e-5)


def test_any_layout_and_dtype_and_one_frame_at_a_time() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (70, 3, 23, 31), dtype=np.uint8)
    first = layout_of({"x": frames})
    assert first is not None
    for other in (np.moveaxis(frames, 1, -1), frames.astype(np.float32), frames.astype(np.int64)):
        assert np.array_equal(layout_of({"x": other}), first)
    alone = [layout_of({"x": frame[None]}) for frame in frames]
    assert np.array_equal(np.concatenate([one for one in alone if one is not None]), first)
    small = layout_of({"x": frames[:, :, :10, :11]})
    assert small is not None
    assert small.shape == (70, COLUMNS)


def test_several_inputs_by_their_names() -> None:
    random = np.random.default_rng(2)
    left, right = random.uniform(size=(2, 5, 1, 16, 16))
    vector, volume = random.uniform(size=(5, 7)), random.uniform(size=(5, 1, 16, 16, 16))
    both = layout_of({"right": right, "vector": vector, "left": left, "volume": volume})
    assert both is not None
    assert np.array_equal(both[:, :COLUMNS], layout_of({"": left}))
    assert np.array_equal(both[:, COLUMNS:], layout_of({"": right}))
    assert layout_of({"vector": vector, "volume": volume}) is None


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 4, 16, 16)), np.zeros((5, 1, 9, 16)), np.zeros((5, 1, 16, 9)), np.zeros((5, 256)),
        np.zeros((5, 1, 16, 16), dtype=bool), np.full((5, 1, 16, 16), 1e200), np.full((5, 1, 16, 16), np.nan),
    ],
)  # fmt: skip
def test_what_is_no_picture_has_no_layout(array: Array) -> None:
    picture = array if array.dtype == bool else array * (1 + np.arange(array.shape[-1]))
    assert layout_of({"x": picture}) is None


def test_a_flat_picture_is_no_division_by_zero() -> None:
    found = numbers(np.full((32, 48), 0.7))
    assert found["brightness"] == pytest.approx(np.full((4, 4), 0.7))
    assert all(not found[name].any() for name in QUANTITIES[1:])


CASES: list[tuple[dict[str, list[int]], float, list[str]]] = [
    ({"brightness": [0, 1, 4]}, 1, ["brighter in the upper left"]),
    ({"brightness": [12, 13, 14, 15]}, -1, ["darker in the lower part"]),
    ({"brightness": [3, 7, 11, 15]}, -1, ["darker on the right"]),
    ({"edges across": [10], "edges down": [15]}, -1, ["less detail in the lower right"]),
    ({"edges down": list(range(16))}, 1, ["more detail almost everywhere"]),
    ({"fineness": [5, 6, 9, 10]}, -1, ["blurred in the middle"]),
    ({"slant": [0, 15]}, 1, ["edges lean another way in places"]),
    ({"slant": [5], "brightness": [0]}, -1,
     ["darker in the upper left", "edges lean another way in the middle"]),
    ({}, 1, []),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "sign", "said"), CASES)
def test_words(changed: dict[str, list[int]], sign: float, said: list[str]) -> None:
    columns = [16 * QUANTITIES.index(name) + cell for name, cells in changed.items() for cell in cells]
    assert words(columns, [sign] * len(columns)) == said
    # of a second picture as of the first
    assert words([column + COLUMNS for column in columns], [sign] * len(columns)) == said


def test_both_signs_are_said_apart() -> None:
    assert words([0, 15], [1.0, -1.0]) == ["brighter in the upper left", "darker in the lower right"]


# --- tier 1 ----------------------------------------------------------------------------------------------

REFERENCE = Reference((LayerReference("a", np.zeros(12), np.ones(12), 100),))


def scenes(count: int, seed: int, turned: float = 0.0) -> Array:
    """Grey pictures (count, 1, 32, 48): a floor that gets finer to the top, and a lamp anywhere."""
    random = np.random.default_rng(seed)
    down = np.cos(turned) * (ROWS - 16) + np.sin(turned) * (SIDES - 24)
    across = np.cos(turned) * (SIDES - 24) - np.sin(turned) * (ROWS - 16)
    phases, at = random.uniform(0, 6, (2, count, 1, 1)), random.uniform(0, 32, (2, count, 1, 1))
    floor = np.sin(across * (1.2 - down / 40) + phases[0]) * np.sin(0.3 * down + phases[1])
    lamp = np.exp(-(np.square(ROWS - at[0]) + np.square(SIDES - 1.5 * at[1])) / 200)
    return (0.3 * floor + lamp + 0.05 * random.normal(size=(count, 32, 48)))[:, None]


def taps_of(count: int, seed: int) -> Taps:
    """Channels that have nothing to do with where things stand."""
    values = 0.3 * np.random.default_rng(seed).normal(size=(count, 12)).astype(np.float32)
    return Taps(values, (12,), (np.arange(12),))


def blocks(count: int, automatic: bool = True) -> Blocks:
    return Blocks(count, np.arange(count), 1, automatic)


def judged(now: Array, before: Array, seed: int, *, automatic: bool = True) -> TierResult:
    n, n0 = len(now), len(before)
    held_out = taps_of(n0, 5000 + seed).values
    layouts = layout_of({"": now}), layout_of({"": before})
    return tier_1(
        taps_of(n, seed), blocks(n, automatic), held_out, blocks(n0), REFERENCE, deals=199, layouts=layouts
    )  # fmt: skip


def test_a_turned_camera_is_seen_where_no_channel_shifts() -> None:
    for seed in range(5):
        result = judged(scenes(64, seed, turned=0.2), scenes(80, 900 + seed), seed)
        assert result.drifted
        assert result.layout is not None
        assert result.layout.significant
        assert not result.layers[0].significant
        assert len(result.layers) == 1
        assert result.origin is None
        (found,) = findings_of([result], None, [], None, REFERENCE, 32, [])
        assert (found.code, found.severity, found.where) == ("BNF-A017", "error", "input")
        assert "the layout of the picture has changed: " in found.message
        assert found.evidence["layout"] == list(result.layout.words)
        assert "camera" in found.remedy


def test_without_drift_the_family_with_the_layout_keeps_its_level() -> None:
    alarms = sum(judged(scenes(16, 2000 + s), scenes(40, 4000 + s), s).drifted for s in range(60))
    assert alarms <= 8  # at 5%: 3 expected, more than 8 with probability 0.003


def test_a_layer_that_drifts_is_blamed_and_the_layout_said_beside_it() -> None:
    now, before = scenes(64, 1, turned=0.3), scenes(80, 901)
    taps = taps_of(64, 1)
    taps.values[:, 3] += 1
    layouts = layout_of({"": now}), layout_of({"": before})
    result = tier_1(
        taps, blocks(64), taps_of(80, 7).values, blocks(80), REFERENCE, deals=199, layouts=layouts
    )
    assert result.layout is not None
    assert result.layout.significant
    (found,) = findings_of([result], None, [], None, REFERENCE, 32, [])
    assert found.where.startswith("a[3")
    assert "; in the picture: " in found.message


def test_a_background_that_stands_still_is_no_evidence() -> None:
    """Neighbouring frames whose background is much alike, while the taps are independent."""
    random = np.random.default_rng(0)
    mix = np.exp(-np.abs(np.arange(64)[:, None] - np.arange(64)) / 8)
    still = np.einsum("ij,jchw->ichw", np.linalg.cholesky(mix), random.normal(size=(64, 1, 32, 48)))
    still = still + 3 * scenes(1, 3)
    assert judged(still, scenes(80, 901), 1).layout is None
    assert judged(still, scenes(80, 901), 1, automatic=False).layout is not None  # the user says: independent
    assert judged(scenes(64, 5), scenes(80, 901), 1).layout is not None


def test_without_pictures_or_an_older_baseline_it_is_as_it_was() -> None:
    taps, held_out, picture = taps_of(64, 1), taps_of(80, 7).values, layout_of({"": scenes(64, 1)})
    plain = tier_1(taps, blocks(64), held_out, blocks(80), REFERENCE, deals=199)
    other_inputs = np.zeros((80, 2 * COLUMNS), np.float32)
    for layouts in (
        (None, None),
        (picture, None),
        (None, layout_of({"": scenes(80, 2)})),
        (picture, other_inputs),
    ):
        other = tier_1(taps, blocks(64), held_out, blocks(80), REFERENCE, deals=199, layouts=layouts)
        assert other == plain
        assert other.layout is None
    old = Baseline.of(held_out).to_json()
    assert "layout" not in old
    assert Baseline.from_json(old).layout is None


def test_the_baseline_keeps_it() -> None:
    held_out, pictures = taps_of(40, 7).values, layout_of({"": scenes(40, 1)})
    assert pictures is not None
    kept = Baseline.of(held_out, None, pictures)
    back = Baseline.from_json(kept.to_json())
    assert back.to_json() == kept.to_json()
    assert back.layout is not None
    spread = np.ptp(pictures, axis=0)
    assert (np.abs(back.layout.values - pictures) <= spread / 255 + 1e-6).all()
    assert np.array_equal(back.layout.rounded(pictures), back.layout.values.astype(np.float32))
    with pytest.raises(ValueError, match="a layout of 39 frames, and taps of 40"):
        Baseline.of(held_out, None, pictures[1:])
    for damage in ({"frames": 39}, {"codes": "AAAA"}, {"step": "AAAA"}):
        document = kept.to_json()
        document["layout"] = {**document["layout"], **damage}
        with pytest.raises(ValueError, match=r".+"):
            Baseline.from_json(document)
    document["layout"] = Baseline.of(pictures[1:]).to_json()
    with pytest.raises(ValueError, match="a layout of 39 frames"):
        Baseline.from_json(document)


def test_of_a_large_picture_every_so_manyth_pixel_counts() -> None:
    """64 on the shorter side are enough: the numbers are those of the thinned picture."""
    picture = np.random.default_rng(3).uniform(size=(2, 3, 224, 300)).astype(np.float32)
    found = layout_of({"x": picture})
    assert found is not None
    assert found.tolist() == np.asarray(layout_of({"x": picture[:, :, ::3, ::3]})).tolist()
    last = layout_of({"x": np.moveaxis(picture, 1, -1)})
    assert last == pytest.approx(found, rel=1e-5, abs=1e-6)
    small = picture[:, :, :127, :127]
    assert not np.array_equal(layout_of({"x": small}), layout_of({"x": small[:, :, ::2, ::2]}))
