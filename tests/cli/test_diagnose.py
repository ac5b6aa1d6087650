"""``bnfold diagnose``: files in, one document or one page out, and the exit status."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bnfold.report import html
from tests.report.html.reading import read
from tests.statistics.diagnose.networks import frames, sound

from .conftest import Cli

MODEL = """
from tests.statistics.diagnose.networks import Small as net
"""
NET = ("--model", "net.py:net")


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    """The network, 200 frames like those of its training, and 60 that are not."""
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "held_out.npy", frames(200, seed=1).numpy())
    np.save(tmp_path / "dark.npy", 0.3 * frames(60, seed=2).numpy())


def save(module: nn.Module, path: Path) -> str:
    save_file(module.state_dict(), path)
    return path.name


def stale() -> nn.Module:
    module = sound()
    with torch.no_grad():
        module.conv2.weight *= 3
    return module


def test_a_sound_network_passes(cli: Cli, tmp_path: Path) -> None:
    path = save(sound(), tmp_path / "net.safetensors")
    result = cli("diagnose", path, *NET, "--samples", "held_out.npy", "--format", "json")
    assert result.status == 0
    document = result.document
    assert (document["schema"], document["passed"], document["frames"]) == (1, True, 200)
    assert [layer["name"] for layer in document["layers"]] == ["bn1", "bn2", "bn3"]
    assert not any(layer["gap"]["off"] for layer in document["layers"])
    assert document["source"]["path"] == path
    text = cli("diagnose", path, *NET, "--samples", "held_out.npy")
    assert "The statistics fit these frames." in text.out
    assert text.out.endswith("passed\n")


def test_wrong_statistics_fail_with_what_to_act_on_first(cli: Cli, tmp_path: Path) -> None:
    path = save(stale(), tmp_path / "net.safetensors")
    result = cli("diagnose", path, *NET, "--samples", "held_out.npy")
    assert result.status == 1
    assert "Act first on BNF-A032 at bn2." in result.out
    assert result.out.endswith("FAILED\n")
    assert all(len(line) <= 80 for line in result.out.splitlines()), result.out
    rows = [line.split() for line in result.out.splitlines() if line.strip().startswith("bn2")]
    assert rows[0][2] == "5"  # all five channels are off


def test_another_checkpoint_tells_more(cli: Cli, tmp_path: Path) -> None:
    path, before = save(stale(), tmp_path / "net.safetensors"), save(sound(), tmp_path / "before.safetensors")
    arguments = ("diagnose", path, *NET, "--samples", "held_out.npy", "--against", before, "--format", "json")
    result = cli(*arguments)
    assert result.status == 1
    assert [finding["code"] for finding in result.document["findings"]] == ["BNF-A014"]


def test_deployment_frames(cli: Cli, tmp_path: Path) -> None:
    path = save(sound(), tmp_path / "net.safetensors")
    arguments = (*NET, "--samples", "held_out.npy", "--deployment", "dark.npy")
    result = cli("diagnose", path, *arguments, "--format", "json")
    assert result.status == 1
    (found,) = result.document["findings"]
    assert (found["code"], found["evidence"]["layer"]) == ("BNF-A017", "bn1")
    assert result.document["deployment_frames"] == 60
    text = cli("diagnose", path, *arguments)
    assert "shift" in text.out
    assert "60 from the deployment" in text.out
    assert all(len(line) <= 80 for line in text.out.splitlines()), text.out


def test_values_that_are_not_finite_are_traced(cli: Cli, tmp_path: Path) -> None:
    module = sound()
    module.bn2.running_mean[1] = float("nan")
    path = save(module, tmp_path / "net.safetensors")
    result = cli("diagnose", path, *NET, "--samples", "held_out.npy", "--format", "json")
    assert result.status == 1
    chain = result.document["breakdown"]
    assert (chain["origin"]["module"], chain["source"]) == ("bn2", "bn2.running_mean")
    text = cli("diagnose", path, *NET, "--samples", "held_out.npy")
    assert "Values that are not finite" in text.out
    assert all(len(line) <= 80 for line in text.out.splitlines()), text.out


def test_a_frame_that_is_not_finite_is_named_by_its_file(cli: Cli, tmp_path: Path) -> None:
    path = save(sound(), tmp_path / "net.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, frame in enumerate(frames(20, seed=1).numpy()):
        if number == 7:
            frame[1, 2, 3] = np.inf
        np.save(folder / f"scan_{number:02}.npy", frame)
    result = cli("diagnose", path, *NET, "--samples", folder, "--format", "json")
    assert result.status == 0
    (found,) = result.document["findings"]
    assert found["code"] == "BNF-A042"
    assert found["evidence"]["frames"][0]["frame"] == "scan_07.npy"
    assert result.document["frames"] == 19


def test_every_number_on_request(cli: Cli, tmp_path: Path) -> None:
    path = save(sound(), tmp_path / "net.safetensors")
    arguments = ("--samples", "held_out.npy", "--channels", "--batch", 50, "--format", "json")
    result = cli("diagnose", path, *NET, *arguments)
    assert len(result.document["layers"][0]["by_channel"]["stored_mean"]) == 6
    assert "every layer" not in cli("diagnose", path, *NET, "--samples", "held_out.npy", "--verbose").out


def test_frames_that_do_not_fit_are_the_user_s_error(cli: Cli, tmp_path: Path) -> None:
    path = save(sound(), tmp_path / "net.safetensors")
    np.save(tmp_path / "wide.npy", np.zeros((20, 5, 9, 9), np.float32))
    result = cli("diagnose", path, *NET, "--samples", "wide.npy", "--format", "json")
    assert result.status == 2
    assert result.document["error"]["code"] == "BNF-C004"
    assert result.document["findings"] == []


def test_an_artifact_has_nothing_to_diagnose(cli: Cli, halves: Path) -> None:
    result = cli("diagnose", halves, *NET, "--samples", "held_out.npy", "--format", "json")
    assert (result.status, result.document["error"]["code"]) == (2, "BNF-U030")


def test_frames_in_half_precision_are_given_in_the_network_s_own(cli: Cli, tmp_path: Path) -> None:
    path = save(sound(), tmp_path / "net.safetensors")
    np.save(tmp_path / "half.npy", frames(64, seed=1).numpy().astype(np.float16))
    result = cli("diagnose", path, *NET, "--samples", "half.npy", "--format", "json")
    assert (result.status, result.document["findings"]) == (0, [])


def test_a_page(cli: Cli, tmp_path: Path) -> None:
    path = save(stale(), tmp_path / "net.safetensors")
    arguments = ("diagnose", path, *NET, "--samples", "held_out.npy")
    result = cli(*arguments, "--format", "html", "-o", "page.html")
    assert result.status == 1
    assert result.out.startswith(cli(*arguments).out)
    written = (tmp_path / "page.html").read_text("ascii")
    found = read(written)
    assert "Diagnosis of net.safetensors" in found.text
    assert {"bn1", "bn2", "bn3", "train mode", "eval mode"} <= set(found.texts)
    again = cli(*arguments, "--format", "html")
    assert (again.status, again.out) == (1, written)
    assert str(tmp_path) not in written


def test_a_page_without_its_packages_is_refused_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "find_spec", lambda name: None if name == "jinja2" else object())
    result = cli("diagnose", "gone.safetensors", *NET, "--samples", "held_out.npy", "--format", "html")
    assert (result.status, result.out) == (2, "")
    assert "error[BNF-P030]: --format html needs jinja2" in result.err
