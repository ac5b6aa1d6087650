from __future__ import annotations

from typing import Any

from bnfold.report import Style
from bnfold.report.drift import render_drift


def layer(name: str, **more: Any) -> dict[str, Any]:
    said = {
        "name": name, "effect": 0.0, "limit": 0.05, "significant": False, "by": [], "strength": 0.1,
        "detectable": 0.4, "p": 1.0, "channels": [], "shifts": [],
    }  # fmt: skip
    return {**said, **more}


def document(layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    tier = {"tier": 0, "judged": True, "drifted": True, "reason": "", "frames": 64, "baseline_frames": 0,
            "layers": layers}  # fmt: skip
    said = {
        "artifact": "a.monitor.onnx", "runtime": "onnxruntime 1.32.0", "frames": 64, "effective_frames": 64,
        "judged": True, "drifted": True, "findings": [], "tiers": [tier], "images": [],
    }  # fmt: skip
    return {**said, **more}


def test_the_layers_that_drifted_are_shown_in_their_order() -> None:
    drifted = [
        layer(
            f"layer{i}.bn",
            significant=True,
            effect=1.0 + i,
            by=["shift"],
            channels=[7, 3],
            shifts=[2.0, -1.5],
        )
        for i in range(10)
    ]
    text = render_drift(document([layer("stem"), *drifted]), Style())
    assert "against the population statistics: 10 of 11 layers drifted" in text
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  layer") and "." in line]
    assert shown == [f"layer{i}.bn" for i in range(8)]
    assert "and 2 more, later" in text
    assert "7 +2.0, 3 -1.5" in text
    assert "stem" not in text
    assert text.endswith("\ndrift\n")
    assert all(len(line) <= 80 for line in text.splitlines())


def test_without_drift_the_nearest_are_shown() -> None:
    layers = [layer(f"l{i}", strength=i / 10) for i in range(12)]
    text = render_drift(document(layers, drifted=False), Style())
    assert "none of 12 layers drifted" in text
    assert "l11 " in text
    assert "l0 " not in text
    assert text.endswith("\nno drift\n")


def test_no_verdict_is_no_pass() -> None:
    said = document([layer("a")], judged=False, drifted=False, effective_frames=3)
    said["tiers"][0]["judged"] = False
    text = render_drift(said, Style())
    assert "64 frames worth 3 independent ones" in text
    assert text.endswith("\nno verdict\n")


def test_broken_frames_beside_good_ones_are_not_called_drift() -> None:
    said = document([layer("a")])
    said["tiers"][0]["drifted"] = False
    assert render_drift(said, Style()).endswith("\nvalues that are not finite\n")
    few = {**said, "judged": False}
    assert render_drift(few, Style()).endswith("\nvalues that are not finite\n")


def test_what_changed_in_the_image_is_said() -> None:
    text = render_drift(
        document([layer("a", significant=True)], images=[{"words": "darker"}, {"words": ""}]), Style()
    )
    assert "The image is darker." in text
