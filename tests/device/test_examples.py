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
PROGRAM = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "onnx"} & set(sys.modules)
"""


def test_the_camera_loop(digits: Case, folder: Path, tmp_path: Path) -> None:
    """With a folder as the camera: every frame is answered, and another camera is noticed."""
    source = EXAMPLES / "camera.py"
    assert len(source.read_text("utf-8").splitlines()) < 40
    calm, glaring = tmp_path / "calm", tmp_path / "glaring"
    for place, light in ((calm, 0), (glaring, 90)):
        place.mkdir()
        for number in range(400):
            frame = digits.frames[number % 64].astype(int) + light
            np.save(place / f"{number:04}.npy", np.clip(frame, 0, 255).astype(np.uint8))

    def run(frames: Path) -> subprocess.CompletedProcess[str]:
        monitored = folder / f"mnist_mobilenet.monitor{digits.path.suffix}"
        arguments = [source, monitored, digits.path, frames, tmp_path / "state"]
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    before = run(calm)
    assert (before.returncode, before.stderr) == (0, "")
    assert before.stdout.splitlines()[0].startswith("0 output [[")
    assert sum(" output " in line for line in before.stdout.splitlines()) == 400
    assert State.load(tmp_path / "state").counts.kept == 40
    after = run(glaring)
    assert after.returncode == 1
    assert after.stderr.count("error BNF-A017") == 1
    assert sum(" output " in line for line in after.stdout.splitlines()) == 400


def test_the_camera_loop_without_arguments_says_how() -> None:
    said = subprocess.run(
        [sys.executable, EXAMPLES / "camera.py"], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (1, "")
    assert "python examples/camera.py NAME.monitor.onnx NAME.onnx FRAMES [STATE]" in said.stderr
    assert "Traceback" not in said.stderr
