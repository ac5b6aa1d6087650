"""Makes the pages that `make test-pages` opens, with the command line and from the sample models.

    python tests/pages/make.py FOLDER

Broken and healthy networks, drift and none, a stream that changes half way, and a file of 90 layers with long
and hostile names.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_models"
LUNGS, ROBOT, DIGITS = SAMPLES / "lung_ct", SAMPLES / "robot_camera", SAMPLES / "mnist_mobilenet"

HOSTILE = ("a<script>alert(1)<!--script", '"><img src=x onerror=alert(1)>', "$\\frac{x}{", "層 ノルム")


def main(folder: Path) -> int:
    """Every page, each with the exit status that it must have; returns how many had another."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.html"), *folder.glob("*.png")):
        old.unlink()
    made = folder / "made"
    made.mkdir(exist_ok=True)
    wide(made / "wide.pt")
    monitored = made / "locator.monitor.onnx"
    wrong = call(0, "convert", ROBOT / "locator.safetensors", "--model", f"{ROBOT / 'model.py'}:locator",
                 "--input", "1x3x48x64", "--color", "rgb", "--samples", ROBOT / "frames" / "home.npz",
                 "--dynamic-batch", "--monitor", "-o", made)  # fmt: skip
    home, fog, night = (ROBOT / "frames" / f"{name}.npz" for name in ("home", "fog", "night"))
    stream(made / "stream.npy", home, fog)
    few(made / "few.npy", home)
    lungs = ("--model", f"{LUNGS / 'model.py'}:lung_net")
    digits = ("--model", f"{DIGITS / 'model.py'}:mobilenet", "--input", "1x1x28x28")
    pages: dict[str, tuple[int, tuple[object, ...]]] = {
        "audit-broken": (1, ("audit", LUNGS / "broken.safetensors", *lungs)),
        "audit-healthy": (0, ("audit", DIGITS / "mobilenet.safetensors", *digits)),
        "audit-wide": (1, ("audit", made / "wide.pt")),
        "diagnose-broken": (
            1,
            ("diagnose", LUNGS / "broken.safetensors", *lungs, "--samples", LUNGS / "held_out.npy"),
        ),
        "diagnose-healthy": (
            0,
            ("diagnose", DIGITS / "mobilenet.safetensors", *digits, "--samples",
             SAMPLES / "frames_1000.npz", "--color", "gray"),
        ),
        "drift-home": (0, ("drift", monitored, "--frames", home)),
        "drift-night": (1, ("drift", monitored, "--frames", night, "--baseline", home)),
        "drift-stream": (1, ("drift", monitored, "--frames", made / "stream.npy", "--baseline", home,
                             "--blocks", 2)),
        "drift-few": (0, ("drift", monitored, "--frames", made / "few.npy")),
    }  # fmt: skip
    for name, (status, arguments) in pages.items():
        wrong += call(status, *arguments, "--format", "html", "-o", folder / f"{name}.html")
    return wrong


def call(status: int, *arguments: object) -> int:
    """One command, with what it prints where its exit status is another; 1 then, else 0."""
    command = [sys.executable, "-m", "bnfold_cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == status:
        return 0
    print(f"FAILED  bnfold {' '.join(command[3:])}: status {done.returncode}, not {status}")
    print(done.stdout + done.stderr)
    return 1


def wide(path: Path) -> None:
    """A checkpoint of 90 BatchNorms with up to 1,280 channels: some dead, one constant, one poisoned."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for number in range(90):
        norm = nn.BatchNorm2d((16, 64, 320, 1280)[number % 4])
        with torch.no_grad():
            norm.weight.uniform_(0.05, 2)
            norm.running_mean.normal_()
            norm.running_var.uniform_(10.0 ** -(number % 5), 3)
            norm.num_batches_tracked.fill_(5000)
            if number == 30:
                norm.weight[::3] = 0
            if number == 12:
                norm.running_var[3] = 1e-9
            if number == 50:
                norm.running_mean[7] = norm.running_var[7] = math.nan
        name = f"encoder.stages_with_a_long_name.{number:02d}.blocks.normalisation_layer_{number}"
        if number < 4 * len(HOSTILE) and number % 4 == 0:
            name = f"encoder.{number:02d}.{HOSTILE[number // 4]}"
        state |= {f"{name}.{key}": value for key, value in norm.state_dict().items()}
    torch.save(state, path)


def stream(path: Path, *archives: Path) -> None:
    """Frames of several places after each other."""
    np.save(path, np.concatenate([np.load(archive)["image"] for archive in archives]))


def few(path: Path, archive: Path) -> None:
    """Too few for a verdict."""
    np.save(path, np.load(archive)["image"][:5])


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1]).resolve()) else 0)
