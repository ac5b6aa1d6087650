from __future__ import annotations

from typing import Any

from bnfold.report.recalibration import render_recalibration
from bnfold.report.style import Style


def layer(name: str, shift: float | None = 0.1, ratio: float | None = 1.1, broken: int = 0) -> dict[str, Any]:
    return {
        "name": name, "channels": 4, "calls": [name], "values": 80, "not_finite_before": broken,
        "largest_shift": shift, "shifted_channel": 2, "largest_ratio": ratio, "scaled_channel": 1,
    }  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    measure = {"finite": 5, "gap": 0.01, "right": None}
    base = {
        "schema": 1, "passed": True, "method": "one pass", "prior": None, "frames": 40, "batches": 1,
        "frames_per_second": 1234.5, "layers": [layer("a"), layer("b")],
        "not_recalibrated": [], "skipped": [],
        "held_out": {"frames": 5, "source": "held out", "before": dict(measure), "after": dict(measure),
                     "worse": None},
        "findings": [], "source": {"path": "net.pt"}, "batch": 40, "processes": 1,
        "output": {"path": "new file.pt", "size_bytes": 5000, "sha256": "ab" * 32, "changed": ["x"]},
    }  # fmt: skip
    return {**base, **changes}


def render(**changes: Any) -> str:
    text = render_recalibration(document(**changes), Style())
    assert max(map(len, text.splitlines())) <= 80
    return text


def test_a_healthy_one() -> None:
    text = render()
    assert text.startswith("2 layers: one pass, 40 frames in 1 batch, 1,234 frames/s\n")
    assert "not finite before" not in " ".join(text.split())
    assert "bnfold recalibrate 'new file.pt' --undo -o OLD" in text


def test_a_broken_one() -> None:
    held = {
        "frames": 5, "source": "the same", "worse": None,
        "before": {"finite": 0, "gap": None, "right": 0}, "after": {"finite": 5, "gap": 0.25, "right": 4},
    }  # fmt: skip
    text = " ".join(render(layers=[layer("", None, None, 3), layer("b")], held_out=held, output=None).split())
    assert "(the network) 4 80 from NaN [2] from NaN [1] 3" in text
    assert "Before and after on 5 of the same frames" in text
    assert "gap, nats per channel not finite 0.25" in text
    assert "right answers 0 of 5 4 of 5" in text
    assert "Nothing was written." in text


def test_many_layers_show_those_that_moved() -> None:
    layers = [layer(f"layer{i}", shift=i / 100) for i in range(40)]
    layers[3] = layer("layer3", shift=None)
    layers[5] = layer("layer5", shift=0.01, ratio=0.001)
    text = render(layers=layers)
    assert "28 layers that moved less" in " ".join(text.split())
    for name in ("layer3 ", "layer5 ", "layer39 "):
        assert name in text
    assert "layer7 " not in text
    assert "layer7 " in render_recalibration(document(layers=layers), Style(), every=True)


def test_without_data_with_a_prior_and_several_processes() -> None:
    debiased = render(method="debiased", frames=0, batches=0, frames_per_second=None, held_out=None)
    assert debiased.startswith("2 layers, corrected without data\n")
    text = render(prior=10.0, processes=3)
    assert ", 3 processes" in text
    assert "count for 10 frames: 20% old" in text
