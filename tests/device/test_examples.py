"""The programs in examples/, as their reader would run them, without torch and on both formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnfold.drift import State

from .conftest import Case

pytestmark = pytest.mark.device

EXAMPLES = next(
    folder / "examples" for folder in Path(__file__).parents if (folder / "examples/camera.py").exists()
)
CAMERA = EXAMPLES / "camera.py"
PROGRAM = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "onnx"} & set(sys.modules)
"""


def run(digits: Case, folder: Path, frames: Path, state: Path) -> subprocess.CompletedProcess[str]:
    monitored = folder / f"mnist_mobilenet.monitor{digits.path.suffix}"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, CAMERA, monitored, digits.path, frames, state],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_camera_loop(digits: Case, folder: Path, tmp_path: Path) -> None:
    """With a folder as the camera: every frame is answered, and another camera is noticed."""
    assert len(CAMERA.read_text("utf-8").splitlines()) < 40
    calm, glaring = tmp_path / "calm", tmp_path / "glaring"
    for place, light in ((calm, 0), (glaring, 90)):
        place.mkdir()
        for number in range(400):
            frame = digits.frames[number % 64].astype(int) + light
            np.save(place / f"{number:04}.npy", np.clip(frame, 0, 255).astype(np.uint8))

    before = run(digits, folder, calm, tmp_path / "state")
    assert (before.returncode, before.stderr) == (0, "")
    assert before.stdout.splitlines()[0].startswith("0 output [[")
    assert sum(" output " in line for line in before.stdout.splitlines()) == 400
    assert State.load(tmp_path / "state").counts.kept == 40
    after = run(digits, folder, glaring, tmp_path / "state")
    assert after.returncode == 1
    assert after.stderr.count("error BNF-A017") == 1
    assert sum(" output " in line for line in after.stdout.splitlines()) == 400


def test_the_camera_loop_goes_on_after_a_frame_that_cannot_be_used(
    digits: Case, folder: Path, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(6):
        np.save(frames / f"{number}.npy", digits.frames[number])
    whole = (frames / "2.npy").read_bytes()
    (frames / "2.npy").write_bytes(whole[: len(whole) // 2])
    np.save(frames / "4.npy", np.zeros((3, 3, 7), np.uint8))
    said = run(digits, folder, frames, tmp_path / "state")
    assert said.returncode == 0, said.stderr
    answers = said.stdout.splitlines()
    assert [line.split()[0] for line in answers if " output " in line] == ["0", "1", "3", "5"]
    assert [line for line in answers if line.isdigit()] == ["2", "4"]
    assert said.stderr.count("error BNF-D012") == 2
    assert "2.npy) cannot be used" in said.stderr
    assert State.load(tmp_path / "state").counts.unusable == 2


def test_the_camera_loop_that_cannot_begin_leaves_nothing(
    digits: Case, folder: Path, tmp_path: Path
) -> None:
    said = run(digits, folder, tmp_path / "nowhere", tmp_path / "state")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("[BNF-R001]")
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "state").exists()


def test_the_camera_loop_without_arguments_says_how() -> None:
    said = subprocess.run(
        [sys.executable, CAMERA], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (1, "")
    assert "python examples/camera.py NAME.monitor.onnx NAME.onnx FRAMES [STATE]" in said.stderr
    assert "Traceback" not in said.stderr
