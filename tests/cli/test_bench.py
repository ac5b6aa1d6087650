from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .conftest import Cli

QUICK = ("--count", 120, "--warm-up", 1)


def test_the_document_has_every_figure(cli: Cli, halves: Path) -> None:
    result = cli("bench", halves, *QUICK, "--format", "json")
    assert (result.status, result.err) == (0, "")
    document = result.document
    assert document["passed"] is True
    assert document["frames_source"] == "stand-in"
    assert (document["threads"], document["precision"]) == (1, "fp32")
    assert document["machine"]["cores"] >= 1
    for stream in ("without_preprocessing", "with_preprocessing"):
        figures = document["latency"][stream]
        assert figures["frames"] == 120
        assert 0 < figures["p50_ms"] <= figures["p90_ms"] <= figures["max_ms"]
        assert figures["p99_ms"] is None
        assert figures["frames_per_second"] == pytest.approx(1000 / figures["mean_ms"])
    start = document["cold_start"]
    assert min(start["import_ms"], start["open_ms"], start["first_frame_ms"]) > 0
    # numpy and an interpreter are in memory, and torch, which this process may hold, is not
    assert 10e6 < start["peak_memory_bytes"] < 200e6
    assert document["against"] is None
    assert document["ratio"] == {}


def test_in_words(cli: Cli, halves: Path) -> None:
    result = cli("bench", halves, *QUICK)
    assert result.status == 0
    assert "onnxruntime" in result.out
    assert "one frame at a time" in result.out
    assert "with preprocessing" in result.out
    assert "peak memory" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_two_artifacts_frame_by_frame(cli: Cli, halves: Path, wrong_halves: Path, left_bright: Path) -> None:
    document = cli(
        "bench", halves, "--against", wrong_halves, "--frames", left_bright, *QUICK, "--format", "json"
    ).document
    assert document["frames_source"] == "samples"
    other = document["against"]
    assert other["artifact"] == str(wrong_halves)
    assert other["latency"]["with_preprocessing"]["frames"] == 120
    for ratio in document["ratio"].values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    words = cli("bench", halves, "--against", wrong_halves, *QUICK).out
    assert "as long as B" in words


def test_one_pair_of_frames_tells_nothing(cli: Cli, halves: Path) -> None:
    alone = ("bench", halves, "--against", halves, "--count", 1)
    document = cli(*alone, "--format", "json").document
    assert document["latency"]["with_preprocessing"]["frames"] == 1
    assert all((ratio["low"], ratio["high"]) == (None, None) for ratio in document["ratio"].values())
    assert "too few frames to tell" in cli(*alone).out


def test_a_limit_is_a_gate(cli: Cli, halves: Path) -> None:
    passed = cli("bench", halves, *QUICK, "--p90-max", "10s")
    assert passed.status == 0
    assert passed.out.rstrip().endswith("passed")
    failed = cli("bench", halves, *QUICK, "--p90-max", "0.000001us", "--format", "json")
    assert failed.status == 1
    assert failed.document["passed"] is False
    assert failed.document["findings"][0]["code"] == "BNF-P042"
    assert failed.document["findings"][0]["evidence"]["p90_max_ms"] == pytest.approx(1e-9)


def test_arrays_have_nothing_to_prepare(cli: Cli, sensors: Path) -> None:
    document = cli("bench", sensors, *QUICK, "--format", "json").document
    assert list(document["latency"]) == ["without_preprocessing"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--p90-max", "12"), "BNF-U010"),
        (("--p90-max", "12min"), "BNF-U010"),
        (("--p90-max", "-1ms"), "BNF-U010"),
        (("--count", "0"), "BNF-U010"),
        (("--seconds", "0"), "BNF-U010"),
        (("--count", "99", "--p90-max", "1ms"), "BNF-U091"),
        (("--frames", "nowhere"), "BNF-R001"),
        (("--runtime", "tflite-runtime"), "BNF-U060"),
    ],
)
def test_mistakes(cli: Cli, halves: Path, arguments: tuple[str, ...], code: str) -> None:
    result = cli("bench", halves, *arguments, "--format", "json")
    assert result.status == 2
    assert result.document["error"]["code"] == code


def test_too_few_frames_for_a_limit_are_told_before_any_is_measured(
    cli: Cli, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnfold.runtime.coldstart.measure", lambda *_, **__: pytest.fail("measured"))
    result = cli("bench", halves, "--count", "99", "--p90-max", "1ms")
    assert result.status == 2
    assert "BNF-U091" in result.err
    # enough were asked for, and the time was up before
    monkeypatch.undo()
    result = cli("bench", halves, "--seconds", "0.000001", "--p90-max", "1ms")
    assert result.status == 2
    assert "BNF-U091" in result.err


def test_artifacts_for_other_frames_are_not_compared(cli: Cli, halves: Path, sensors: Path) -> None:
    result = cli("bench", halves, "--against", sensors, "--format", "json")
    assert result.status == 2
    assert result.document["error"]["code"] == "BNF-U090"


def test_a_frame_that_does_not_fit_is_named(cli: Cli, sensors: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "f.npz", accelerometer=np.zeros((2, 5), np.float32), barometer=np.zeros((2, 5), np.float32)
    )
    result = cli("bench", sensors, "--frames", tmp_path / "f.npz")
    assert result.status == 2
    assert "f.npz[0]" in result.err
