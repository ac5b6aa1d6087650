"""The page of a drift check, from what the check keeps."""

from __future__ import annotations

import base64
import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bnfold
from bnfold.report.html.drift import drift_page
from bnfold.report.html.frames import data_uri
from tests.drift.test_check import Net, frames, net  # noqa: F401

from .reading import Reading, read


def pages(module: Any, given: Any, names: list[str] | None = None, **more: Any) -> tuple[dict[str, Any], str]:
    result = bnfold.drift.check(module, given, keep=True, **more)
    document = {"artifact": "/home/someone/net.monitor.onnx", "runtime": "onnxruntime 1", **result.to_json()}
    assert result.evidence is not None
    page = drift_page(document, result.evidence, names or [f"f{i}.png" for i in range(len(given))])
    return document, page


def pictures(found: Reading) -> list[np.ndarray]:
    decoded = [
        base64.b64decode(value.partition(",")[2])
        for tag, name, value in found.attributes
        if (tag, name) == ("img", "src")
    ]
    return [np.asarray(Image.open(io.BytesIO(data))) for data in decoded]


def test_drift(net: Net) -> None:  # noqa: F811
    given = frames(40, 1) * 0.5
    given[11] *= 0.2
    document, page = pages(net, given, baseline=frames(60, 2))
    found = read(page)
    head = found.text[: found.text.index("Findings")]
    for said in ("Drift check with net.monitor.onnx", "drift", "BNF-A017", "darker", "What to do:"):
        assert said in head
    assert "/home" not in page
    tier, other = document["tiers"]
    for layer, second in zip(tier["layers"], other["layers"], strict=True):
        row = next(row for row in found.rows if row[0] == layer["name"])
        assert row[1:4] == [
            f"{layer['effect']:.3f}",
            f"{layer['limit']:.3f}",
            "yes" if layer["significant"] else "no",
        ]
        assert f"{second['effect']:.3f}" in row
    labels = found.values("aria-label")
    drifted = sum(layer["significant"] for layer in tier["layers"])
    assert any(f"{drifted} of 4 layers drifted" in text for text in labels)
    # the frame that was darkened most is the furthest, and comes first
    alts = found.values("alt")
    assert len(alts) == 8
    assert alts[0] == "furthest from training: f11.png"
    assert alts[-1].startswith("nearest to training: ")
    expected = np.rint(255 * np.clip(given[11].transpose(1, 2, 0), 0, 1))
    assert np.abs(pictures(found)[0].astype(float) - expected).max() <= 1
    assert {
        "brightness",
        "contrast",
        "noise",
        "saturation",
        "90% of held-out frames",
        "margin",
        "tier 0",
    } <= set(found.texts)
    assert page == pages(net, given, baseline=frames(60, 2))[1]


def test_no_drift_says_what_could_have_gone_unseen(net: Net) -> None:  # noqa: F811
    document, page = pages(net, frames(64, 1), baseline=frames(100, 2))
    found = read(page)
    head = found.text[: found.text.index("Findings")]
    assert "no drift" in head
    assert "could have gone unseen" in head
    assert "not drifted" in found.texts
    assert not document["drifted"]


def test_without_held_out_frames_the_bell_curve_stands_for_training(net: Net) -> None:  # noqa: F811
    found = read(pages(net, frames(64, 1))[1])
    assert "tier 0: 64 frames against the population statistics" in " ".join(found.values("aria-label"))
    assert "the bell curve of the population statistics" in found.text
    assert "90% of held-out frames" not in found.texts
    assert "p" not in found.rows[0]


def test_too_little_evidence(net: Net) -> None:  # noqa: F811
    found = read(pages(net, frames(5, 1), baseline=frames(60, 2))[1])
    head = found.text[: found.text.index("Findings")]
    assert "no verdict" in head
    assert "8 are needed" in head
    assert "Layers by effect" not in found.text
    assert found.values("alt")[0].startswith("furthest")
    assert len(found.values("alt")) == 5


def test_nothing_that_can_be_tested(net: Net) -> None:  # noqa: F811
    found = read(pages(net, np.full((4, 3, 12, 12), np.nan, dtype=np.float32))[1])
    assert "BNF-D010" in found.text
    assert "values that are not finite" in found.text
    assert "svg" not in found.tags


def test_values_beyond_pixels_are_said(net: Net) -> None:  # noqa: F811
    found = read(pages(net, frames(20, 1) * 3 - 2)[1])
    assert "are shown from dark to bright" in found.text


def test_a_stream_of_many_frames_is_drawn_in_groups(net: Net) -> None:  # noqa: F811
    found = read(pages(net, np.concatenate([frames(400, 1), 0.4 * frames(400, 2)]), blocks=4)[1])
    assert "smallest to largest" in found.texts
    assert "4 successive frames count as one scene" in found.text
    repeated = read(pages(net, np.repeat(frames(12, 1), 3, axis=0))[1])
    assert "repeats" in repeated.texts
    assert "worth 12 independent ones" in repeated.text


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_a_hostile_file_name_is_text(net: Net, hostile: str) -> None:  # noqa: F811
    plain = read(pages(net, frames(20, 1))[1])
    found = read(pages(net, frames(20, 1), [hostile] * 20)[1])
    assert found.tags == plain.tags
    assert (
        found.values("alt")
        == [f"furthest from training: {hostile}"] * 4 + [f"nearest to training: {hostile}"] * 4
    )


def test_pictures_are_exact_and_small() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    uri, width, height = data_uri(pixels)
    assert (width, height) == (30, 20)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))), pixels
    )
    assert data_uri(np.zeros((400, 300, 1), dtype=np.uint8))[1:] == (100, 134)


def test_one_frame(net: Net) -> None:  # noqa: F811
    found = read(pages(net, frames(1, 1))[1])
    assert found.values("alt") == ["furthest from training: f0.png"]
    assert "In the order of time" in found.text


def test_frames_that_all_look_the_same(net: Net) -> None:  # noqa: F811
    found = read(pages(net, np.full((16, 3, 12, 12), 0.5, dtype=np.float32), blocks=1)[1])
    assert "clipped" in found.texts


def test_a_network_without_a_living_channel(net: Net) -> None:  # noqa: F811
    dead = copy.deepcopy(net)
    for part in dead.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.zeros_(part.weight)
    document, page = pages(dead, frames(32, 1))
    found = read(page)
    assert "The worst channels" not in found.text
    assert all(layer["effect"] == 0 for layer in document["tiers"][0]["layers"])
    assert "any" in found.texts


def test_vectors_are_no_pictures() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4)).eval()
    rows = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    found = read(pages(module, rows)[1])
    assert "no image of 1 or 3 channels" in found.text
    assert "img" not in found.tags
    assert "What the frames look like" not in found.text
    assert "In the order of time" in found.text
