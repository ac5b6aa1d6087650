"""The order of layers in a file that sorts its tensors by name."""

from __future__ import annotations

import random

import pytest

from bnfold.statistics.ordering import by_custom, is_by_name


@pytest.mark.parametrize(
    "names",
    [
        ["features.1", "features.2.0", "features.2.1", "features.10", "features.11"],
        [
            "stem.1",
            "blocks.0.layers.0.1",
            "blocks.0.layers.1.1",
            "blocks.0.shortcut.1",
            "blocks.11.layers.0.1",
        ],
        ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0.downsample.1", "layer2.0.bn1", "layer10.0.bn1"],
        ["bn1", "blocks.0.0.bn1", "blocks.0.0.bn2", "blocks.1.0.bn1", "bn2"],
        ["encoder.0.bn", "middle.bn", "decoder.0.bn", "decoder.1.bn", "head.bn"],
        ["norm0", "denseblock1.denselayer2.norm1", "denseblock1.denselayer11.norm1", "transition1.norm"],
    ],
)
def test_names_of_usual_networks_come_in_the_order_of_their_networks(names: list[str]) -> None:
    mixed = list(names)
    random.Random(0).shuffle(mixed)
    assert sorted(mixed, key=by_custom) == names


def test_only_a_sorted_list_is_sorted() -> None:
    assert is_by_name(["a.10", "a.2"])
    assert not is_by_name(["a.2", "a.10"])
    assert not is_by_name(["a"])
