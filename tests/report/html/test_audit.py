"""The page of an audit, from what the command itself would write."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import bnfold
from bnfold.report.html.audit import audit_page
from bnfold.statistics.audit import examine
from bnfold.statistics.folded import folded_weights
from tests.statistics.networks import healthy

from .reading import read


def document(network: Any, *, weights: bool = False, **more: Any) -> dict[str, Any]:
    result = examine(network)
    linear = folded_weights(bnfold.fold(network.eval(), (torch.zeros(1, 3, 12, 12),))) if weights else []
    return {
        "passed": result.passed, "path": "/home/someone/net.pt", "sha256": "0123456789abcdef",
        "states": [{"name": "", "batch_norms": 3}], "assumed": {},
        "findings": [found.to_json() for found in result.findings],
        "layers": [figures.to_json(channels=True) for figures in result.layers],
        "folded_weights": [each.to_json(channels=True) for each in linear], **more,
    }  # fmt: skip


def test_the_numbers_of_every_layer_are_on_it() -> None:
    network = healthy()
    with torch.no_grad():
        network.bn2.running_var.copy_(torch.tensor([0.25, 1.0, 4.0, 1.0]))
        network.bn2.weight.copy_(torch.tensor([3.0, 1.0, -12.0, 0.0]))
    page = audit_page(document(network))
    found = read(page)
    (row,) = [row for row in found.rows if row[:1] == ["bn2"]]
    # gains 6, 1, 6 and 0; their median 3.5
    assert row[1] == "4"
    assert row[4:] == ["0.25 to 4", "-", "6", "1.71", "1"]
    assert "Audit of net.pt" in found.text
    assert "/home" not in page
    assert "passed" in found.text
    drawings = found.values("aria-label")
    assert any("1 channels are dead" in text for text in drawings)
    assert any("at most 25% in bn2" in text for text in drawings)
    assert {"log10 of running_var", "|gain|", "dead channels, % of the layer"} <= set(found.texts)
    assert "--model and --input" in found.text
    assert page == audit_page(document(network))


def test_a_poisoned_network_leads_with_its_origin() -> None:
    network = healthy()
    network.bn2.running_mean[1] = network.bn2.running_var[1] = math.nan
    for tensor in (network.bn3.running_mean, network.bn3.running_var):
        tensor.fill_(math.nan)
    found = read(audit_page(document(network)))
    head = found.text[: found.text.index("Findings")]
    assert "FAILED" in head
    assert "BNF-A001" in head
    assert "bn2.running_mean[1]" in head
    assert "recalibrate" in head
    assert [row[5] for row in found.rows if row[0].startswith("bn")] == ["-", "1", "6"]
    assert any("7 channels without a usable value" in text for text in found.values("aria-label"))


def test_weights_after_folding() -> None:
    network = healthy()
    said = document(network, weights=True)
    said["folded_weights"][1]["by_channel"] = [1.0, 0.004, 0.0, 0.5]
    said["folded_weights"][1] |= {"channel_range": 250.0, "largest": 1.0}
    found = read(audit_page(said))
    assert any(
        "at most 250 times between the channels of conv2" in text for text in found.values("aria-label")
    )
    assert "beyond 127 times" in found.texts
    assert ["conv2", "4", "1", "250", "yes"] in found.rows


def test_several_state_dicts_are_told_apart() -> None:
    said = document(healthy())
    twice = [{**layer, "state": state} for state in ("model", "ema") for layer in said["layers"]]
    states = [{"name": name, "batch_norms": 3} for name in ("model", "ema")]
    found = read(audit_page({**said, "layers": twice, "states": states}))
    assert "3 BatchNorms in ema" in found.text
    assert "Running variance, in model" in found.text
    assert "Running variance, in ema" in found.text
    assert [row[:2] for row in found.rows if "bn1" in row] == [["model", "bn1"], ["ema", "bn1"]]


def test_nothing_to_draw_is_said() -> None:
    said = {**document(healthy()), "layers": [], "states": [{"name": "", "batch_norms": 0}]}
    found = read(audit_page(said))
    assert "no BatchNorm with stored statistics" in found.text
    assert "svg" not in found.tags


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac{"]
)
def test_a_hostile_layer_name_is_text(hostile: str) -> None:
    said = document(healthy())
    plain = read(audit_page(said))
    said["layers"][0]["name"] = hostile
    found = read(audit_page(said))
    assert found.tags == plain.tags
    assert hostile in found.texts
