"""``bnfold drift`` where there is no torch, on both formats."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import bnfold

from .conftest import Case, Cli

pytestmark = pytest.mark.device


@pytest.fixture(scope="session")
def monitored(folder: Path, target: str) -> Path:
    return folder / f"mnist_mobilenet.monitor.{target}"


def test_the_monitored_file_gives_the_same_answers(digits: Case, monitored: Path) -> None:
    model = bnfold.open(monitored)
    assert [spec.name for spec in model.answers] == ["output"]
    for index in range(4):
        clean = digits.model.predict(digits.frames[index])["output"]
        outputs = model.predict(digits.frames[index])
        np.testing.assert_allclose(outputs["output"], clean, atol=digits.tolerance["output"])
        assert len(outputs) == 1 + 19
    assert all(check.passed for check in model.self_test())


def test_frames_like_those_of_training_are_no_drift(monitored: Path, folder: Path, cli: Cli) -> None:
    result = cli("drift", monitored, "--frames", folder / "digits.npz", "--format", "json")
    assert (result.status, result.err) == (0, "")
    document = result.document
    assert (document["drifted"], document["judged"], document["passed"]) == (False, True, True)
    assert [tier["tier"] for tier in document["tiers"]] == [1, 0]  # the recorded frames decide
    assert document["tiers"][0]["baseline_frames"] == 64


def test_another_camera_is_drift(
    monitored: Path, folder: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(folder / "digits.npz") as archive:
        frames = archive["frames"]
    np.save(tmp_path / "bright.npy", np.clip(frames.astype(int) + 90, 0, 255).astype(np.uint8))
    result = cli("drift", monitored, "--frames", tmp_path / "bright.npy", "--format", "json")
    assert result.status == 1
    document = result.document
    assert (document["drifted"], document["passed"]) == (True, False)
    first = document["findings"][0]
    assert (first["code"], first["severity"]) == ("BNF-A017", "error")
    assert first["where"].startswith("features.1[")
    monkeypatch.chdir(monitored.parent)
    words = cli("drift", monitored.name, "--frames", tmp_path / "bright.npy")
    assert words.status == 1
    assert words.out.rstrip().endswith("drift")
    assert all(len(line) <= 80 for line in words.out.splitlines())


def test_where_things_stand_is_looked_at_too(
    monitored: Path, folder: Path, tmp_path: Path, cli: Cli
) -> None:
    with np.load(folder / "digits.npz") as archive:
        frames = archive["frames"]
    same = cli("drift", monitored, "--frames", folder / "digits.npz", "--format", "json").document
    assert same["tiers"][0]["layout"]["p"] == 1
    assert not same["tiers"][0]["layout"]["significant"]
    assert same["tiers"][1]["layout"] is None  # the population statistics know nothing of it
    lit = frames.astype(int)
    lit[:, :14, :14] += 60
    np.save(tmp_path / "lit.npy", np.clip(lit, 0, 255).astype(np.uint8))
    result = cli("drift", monitored, "--frames", tmp_path / "lit.npy", "--format", "json")
    assert result.status == 1
    layout = result.document["tiers"][0]["layout"]
    assert layout["significant"]
    assert "brighter in the upper left" in layout["words"]


def test_a_clean_file_is_refused_with_the_command_that_makes_the_other(
    digits: Case, folder: Path, cli: Cli
) -> None:
    result = cli("drift", digits.path, "--frames", folder / "digits.npz")
    assert result.status == 2
    assert "BNF-U140" in result.err
    assert "--monitor" in result.err


def test_run_shows_the_answers_alone(monitored: Path, folder: Path, cli: Cli) -> None:
    document = cli("run", monitored, folder / "digit.npy", "--format", "json").document
    assert [entry["output"] for entry in document["frames"][0]["outputs"]] == ["output"]


def test_too_few_frames_give_no_verdict(monitored: Path, folder: Path, tmp_path: Path, cli: Cli) -> None:
    with np.load(folder / "digits.npz") as archive:
        np.save(tmp_path / "few.npy", archive["frames"][:3])
    document = cli("drift", monitored, "--frames", tmp_path / "few.npy", "--format", "json").document
    assert (document["judged"], document["drifted"]) == (False, False)
    assert cli("drift", monitored, "--frames", tmp_path / "few.npy").out.rstrip().endswith("no verdict")


def test_junit_for_a_build_server(monitored: Path, folder: Path, tmp_path: Path, cli: Cli) -> None:
    with np.load(folder / "digits.npz") as archive:
        frames = archive["frames"]
    np.save(tmp_path / "bright.npy", np.clip(frames.astype(int) + 90, 0, 255).astype(np.uint8))
    result = cli("drift", monitored, "--frames", tmp_path / "bright.npy", "--format", "junit")
    assert (result.status, result.err) == (1, "")
    suite = ElementTree.fromstring(result.out)
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "0")
    failure = suite.find("testcase[@name='tier 1: held-out frames']/failure")
    assert failure is not None
    assert failure.get("type") == "BNF-A017"
    assert str(tmp_path) not in result.out

    report = tmp_path / "drift.xml"
    same = cli("drift", monitored, "--frames", folder / "digits.npz", "--format", "junit", "-o", report)
    assert same.status == 0
    assert same.out.splitlines()[-3] == "no drift"
    assert same.out.splitlines()[-1].startswith(f"{report}: ")
    assert ElementTree.fromstring(report.read_text("ascii")).get("failures") == "0"
    np.save(tmp_path / "few.npy", frames[:3])
    few = cli("drift", monitored, "--frames", tmp_path / "few.npy", "--format", "junit")
    assert few.status == 0
    assert ElementTree.fromstring(few.out).get("skipped") == "2"


def test_a_page_needs_its_packages(monitored: Path, folder: Path, cli: Cli) -> None:
    arguments = ("drift", monitored, "--frames", folder / "digits.npz", "--format", "html")
    result = cli(*arguments)
    if all(find_spec(name) for name in ("jinja2", "matplotlib")):
        assert (result.status, result.err) == (0, "")
        assert "Frames from both ends" in result.out
        assert "digits.npz[" in result.out
        assert cli(*arguments).out == result.out
    else:
        assert (result.status, result.out) == (2, "")
        assert "error[BNF-P030]: --format html needs jinja2 and matplotlib" in result.err
        assert "pip install 'bnfold[report]'" in result.err
