from __future__ import annotations

from typing import Any

from bnfold.report import Style
from bnfold.report.diagnosis import render_diagnosis


def gap(largest: float | None, off: list[int]) -> dict[str, Any]:
    return {"typical": largest, "largest": largest, "at_least": largest, "off": off, "worst_channel": 0}


def layer(name: str, own: dict[str, Any] | None, rms: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "channels": 16, "gap": own, "eval_gap": own, "shift": None,
        "output": {"eval": {"rms": rms, "largest": rms}, "train": {"rms": 1.0, "largest": 3.0}}, **more,
    }  # fmt: skip


def document(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "passed": True, "frames": 64, "deployment_frames": 0, "findings": [], "breakdown": None,
        "layers": list(layers), "source": {"path": "net.safetensors"}, **more,
    }  # fmt: skip


ERROR = {
    "code": "BNF-A032", "severity": "error", "where": "b.running_mean[3]", "message": "off", "evidence": {},
    "remedy": "recalibrate",
}  # fmt: skip


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_only_what_stands_out_has_a_row() -> None:
    quiet, loud = layer("a", gap(0.02, []), 1.0), layer("b", gap(0.5, [3, 4]), 1.0)
    text = render_diagnosis(document(quiet, loud, findings=[ERROR], passed=False), Style())
    assert "Act first on BNF-A032 at b.running_mean[3]." in text
    assert ["b", "16", "2", "0.5", "0.5", "0.5", "1", "1"] in rows(text)
    assert not [row for row in rows(text) if row[:2] == ["a", "16"]]
    everything = render_diagnosis(document(quiet, loud), Style(), everything=True)
    assert ["a", "16", "0", "0.02", "0.02", "0.02", "1", "1"] in rows(everything)
    assert "--verbose" in text
    assert "--verbose" not in everything


def test_growth_and_values_that_are_not_finite_stand_out() -> None:
    text = render_diagnosis(
        document(layer("grown", gap(0.0, []), 40.0), layer("lost", gap(None, []), None)), Style()
    )
    assert ["grown", "16", "0", "0", "0", "0", "1", "40"] in rows(text)
    assert ["lost", "16", "0", "nan", "nan", "nan", "1", "nan"] in rows(text)


def test_a_sound_network_has_no_table() -> None:
    text = render_diagnosis(document(layer("a", gap(0.02, []), 1.0)), Style())
    assert "The statistics fit these frames." in text
    assert "No layer stands out among 1" in text


def test_what_was_not_judged_is_not_praised() -> None:
    unjudged = layer("a", None, 1.0)
    text = render_diagnosis(document({**unjudged, "eval_gap": None}, frames=8), Style())
    assert "fit these frames" not in text
    assert "net.safetensors: 8 frames" in text


def test_the_shift_of_the_deployment_has_a_column() -> None:
    text = render_diagnosis(
        document(layer("a", gap(0.0, []), 1.0, shift=gap(1.25, [1])), deployment_frames=60), Style()
    )
    assert "64 frames, 60 from the deployment" in text
    assert ["a", "16", "0", "0", "0", "0", "1.2", "1", "1"] in rows(text)


def test_a_long_chain_is_cut_in_the_middle() -> None:
    def step(number: int) -> dict[str, Any]:
        return {"module": f"m{number}", "operator": "add", "values": 1, "of": 2, "why": ""}

    chain = {"frame": "frame 3", "origin": step(0), "chain": [step(i) for i in range(1, 30)]}
    text = render_diagnosis(document(layer("a", gap(None, []), None), breakdown=chain), Style())
    assert ["m0", "add", "1", "of", "2"] in rows(text)
    assert ["m29", "add", "1", "of", "2"] in rows(text)
    assert "18 steps in between are left out." in text
    assert all(len(line) <= 80 for line in text.splitlines())
