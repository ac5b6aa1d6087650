"""The page of a diagnosis, from what the command itself would write."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from bnfold.report.html.diagnosis import diagnosis_page
from bnfold.statistics.diagnose import examine
from tests.statistics.diagnose.networks import frames, sound

from .reading import read


def document(module: nn.Module, count: int = 64, **more: Any) -> dict[str, Any]:
    result = examine(module, [frames(count, seed=1)], worst_channels=6, **more)
    source = {"path": "/home/someone/net.pt", "sha256": "0123456789abcdef", "format": "torch"}
    return {**result.to_json(channels=True), "source": source}


def stale() -> nn.Module:
    module = sound()
    with torch.no_grad():
        module.conv2.weight *= 3
    return module


def test_a_sound_network() -> None:
    said = document(sound())
    page = diagnosis_page(said)
    found = read(page)
    assert "Diagnosis of net.pt" in found.text
    assert "The statistics fit these frames." in found.text
    assert "/home" not in page
    row = next(row for row in found.rows if row[0] == "bn2")
    gap = said["layers"][1]["gap"]
    assert row[1:6] == ["5", "0", f"{gap['typical']:.3g}", f"{gap['largest']:.3g}", str(gap["worst_channel"])]
    assert "deployment" not in found.rows[0]
    assert any("64 frames" in text for text in found.texts)
    assert any("all are finite" in text for text in found.values("aria-label"))
    assert {"train mode", "eval mode", "root mean square of the output", "margin 0.25"} <= set(found.texts)
    for module in said["modules"]:
        assert module["name"] in found.texts
    for one in said["histograms"]:
        assert f"{one['name']} [{one['channel']}]" in found.texts
    assert page == diagnosis_page(said)


def test_wrong_statistics_lead() -> None:
    said = document(stale())
    found = read(diagnosis_page(said))
    head = found.text[: found.text.index("Findings")]
    assert "FAILED" in head
    assert said["findings"][0]["code"] in head
    assert "bn2" in head
    assert "recalibrate" in head
    beyond = sum(
        math.hypot(mean, scale) > 0.25
        for layer in said["layers"]
        for mean, scale in zip(
            layer["by_channel"]["gap_in_mean"], layer["by_channel"]["gap_in_scale"], strict=True
        )
    )
    assert beyond > 0
    assert any(f"{beyond} channels are beyond 0.25" in text for text in found.values("aria-label"))


def test_the_first_value_that_is_not_finite_is_marked() -> None:
    module = sound()
    module.bn2.running_mean[3] = module.bn2.running_var[3] = math.nan
    found = read(diagnosis_page(document(module)))
    labels = found.values("aria-label")
    assert any("the first that is not finite in eval mode: bn2" in text for text in labels)
    assert {"first not finite", "not finite in eval mode", "eval: 100% not finite"} <= set(found.texts)
    chain = [row for row in found.rows if row[1:2] == ["native_batch_norm"]]
    assert chain[0][0] == "bn2"
    assert "running_mean is NaN already" in chain[0][3]


def test_deployment_has_a_column_and_dots() -> None:
    said = document(sound(), deployment=[0.3 * frames(60, seed=2)])
    found = read(diagnosis_page(said))
    shift = said["layers"][0]["shift"]["largest"]
    row = next(row for row in found.rows if row[0] == "bn1")
    assert row[-1] == f"{shift:.3g}"
    assert "60 from the deployment" in found.text
    assert found.texts.count("deployment") >= 2


def test_too_few_frames_are_not_compared() -> None:
    found = read(diagnosis_page(document(sound(), 4)))
    assert "not compared" in found.text
    assert "Growth through the depth" in found.text
    assert "The worst channels, train against eval" not in found.text


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac{"]
)
def test_hostile_names_are_text(hostile: str) -> None:
    said = document(sound())
    plain = read(diagnosis_page(said))
    said["layers"][0]["name"] = said["modules"][0]["name"] = said["histograms"][0]["name"] = hostile
    said["source"]["path"] = f"x/{hostile.replace('/', '')}"
    found = read(diagnosis_page(said))
    assert found.tags == plain.tags
    assert hostile in found.texts


def test_a_network_that_gives_nothing_finite() -> None:
    said = document(sound())
    for module in said["modules"]:
        module["eval"] = {"rms": None, "largest": None}
        module["train"] = None
    for layer in said["layers"]:
        layer["gap"] |= {"typical": None, "largest": None, "at_least": None}
        layer["output"] = {"eval": {"rms": None, "largest": None}, "train": None}
    found = read(diagnosis_page(said))
    assert "not finite in eval mode" in found.texts
    assert "train mode" not in found.texts[found.texts.index("Growth through the depth") :][:12]
    assert any(
        f"not finite in eval mode: {said['modules'][0]['name']}" in t for t in found.values("aria-label")
    )


def test_a_network_that_cannot_run_on_its_frames() -> None:
    said = {**document(sound()), "layers": [], "modules": [], "histograms": []}
    found = read(diagnosis_page(said))
    assert "not compared" in found.text
    assert "svg" not in found.tags


def test_many_layers_with_long_names() -> None:
    said = document(sound())
    first, module = said["layers"][0], said["modules"][0]
    names = [f"backbone.stages.{i}.blocks.with.a.long.name.bn{i}" for i in range(130)]
    said["layers"] = [{**first, "name": name} for name in names]
    said["modules"] = [{**module, "name": name} for name in names]
    found = read(diagnosis_page(said))
    assert len(next(text for text in found.texts if text.endswith(".bn0"))) == 24
    assert [row[0] for row in found.rows[1:]] == names
