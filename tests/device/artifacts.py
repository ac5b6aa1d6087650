"""Makes, on a machine with torch, what the device tests need on one without.

    python tests/device/artifacts.py FOLDER

The folder then holds

- ``mnist_mlp``, ``mnist_mobilenet`` and ``sensor`` as ``.onnx`` and ``.tflite``, and
  ``mnist_mobilenet.monitor``; ``mnist_mobilenet_fp16`` and ``mnist_mobilenet_int8``, the same in lower
  precisions, calibrated on the frames; ``mnist_mobilenet_nhwc.tflite``, which takes channels last;
- ``digits.npz`` (``frames`` uint8 (N, 28, 28), ``labels``) and its first frame as ``digit.pgm`` and
  ``digit.npy``; ``sensor_frames.npz`` (one float32 array per input, the first axis counts the frames);
- ``expected.json``: artifact -> ``{"frames": file, "top1": [class per frame] or null,
  "outputs": {name: file}, "tolerance": {name: absolute}}``; the files are ``.npy`` with one answer per frame,
  computed by the *original* network in float64, before any folding.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_MODELS = Path(__file__).parents[2] / "sample_models"
DIGITS = 64
NETWORKS = {
    "mnist_mlp": ("mnist_mlp/after.safetensors", "mnist_mlp/model.py:after"),
    "mnist_mobilenet": ("mnist_mobilenet/mobilenet.safetensors", "mnist_mobilenet/model.py:mobilenet"),
}
# far above what float32 rounding does to these networks, far below what a wrong fold would
RELATIVE_TOLERANCE = 1e-4


def make(folder: Path) -> None:
    """Writes everything into ``folder``."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    expected = {**_digits(folder), **_sensor(folder)}
    text = json.dumps(expected, indent=1, sort_keys=True)
    (folder / "expected.json").write_text(f"{text}\n", encoding="utf-8")


def _digits(folder: Path) -> dict[str, Any]:
    import torch

    import bnfold

    with np.load(SAMPLE_MODELS / "frames_1000.npz") as archive:
        frames, labels = archive["frames"][:DIGITS], archive["labels"][:DIGITS]
    np.savez_compressed(folder / "digits.npz", frames=frames, labels=labels)
    np.save(folder / "digit.npy", frames[0])
    height, width = frames[0].shape
    (folder / "digit.pgm").write_bytes(b"P5\n%d %d\n255\n" % (width, height) + frames[0].tobytes())
    names = (SAMPLE_MODELS / "labels.txt").read_text(encoding="utf-8").split()
    normalisation = {
        "layout": "NCHW", "color": "gray", "resize": "stretch",
        "scale": 1 / 255, "mean": [0.0], "std": [1.0],
    }  # fmt: skip
    expected: dict[str, Any] = {}
    for name, (weights, source) in NETWORKS.items():
        network = bnfold.load(SAMPLE_MODELS / weights, f"{SAMPLE_MODELS / source}")
        result = bnfold.convert(
            network, (torch.zeros(1, 1, 28, 28),), to=("onnx", "tflite"), output=folder, name=name,
            samples=folder / "digits.npz", normalisation=normalisation, labels=names,
            monitor=name == "mnist_mobilenet",
        )  # fmt: skip
        assert result.passed, result.findings
        for precision in ("fp16", "int8") if name == "mnist_mobilenet" else ():
            result = bnfold.convert(
                network, (torch.zeros(1, 1, 28, 28),), to=("onnx", "tflite"), output=folder,
                name=f"{name}_{precision}", samples=folder / "digits.npz", normalisation=normalisation,
                labels=names, precision=precision, min_agreement=0.98,
            )  # fmt: skip
            assert result.passed, result.findings
        if name == "mnist_mobilenet":
            result = bnfold.convert(
                network, (torch.zeros(1, 1, 28, 28),), to="tflite", output=folder, name=f"{name}_nhwc",
                samples=folder / "digits.npz", normalisation=normalisation, labels=names, layout="nhwc",
            )  # fmt: skip
            assert result.passed, result.findings
        with torch.no_grad():
            answer = network.double()(torch.from_numpy(frames).double().unsqueeze(1) / 255).numpy()
        told = _told(folder, name, {"output": answer})
        for target in ("onnx", "tflite"):
            expected[f"{name}.{target}"] = {
                "frames": "digits.npz", "top1": answer.argmax(1).tolist(), **told,
            }  # fmt: skip
    expected["mnist_mobilenet_nhwc.tflite"] = expected["mnist_mobilenet.tflite"]
    return expected


def _sensor(folder: Path) -> dict[str, Any]:
    """Two inputs, nested outputs, no image: a time series of three axes and the ambient conditions."""
    import torch
    from torch import Tensor, nn

    import bnfold

    class Sensor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 8, 5, stride=2, bias=False)
            self.norm = nn.BatchNorm1d(8)
            self.head = nn.Linear(8 + 2, 4)

        def forward(self, series: Tensor, ambient: Tensor) -> dict[str, Any]:
            features = torch.relu(self.norm(self.conv(series)))
            mean = features.mean(2)
            return {"scores": self.head(torch.cat([mean, ambient], 1)), "aux": (features, mean * 2)}

    torch.manual_seed(7)
    network = Sensor()
    with torch.no_grad():
        for values, low, high in (
            (network.norm.running_mean, -0.5, 0.5),
            (network.norm.running_var, 0.3, 2.0),
            (network.norm.weight, 0.5, 1.5),
            (network.norm.bias, -0.5, 0.5),
        ):
            assert values is not None
            values.uniform_(low, high)
        network.norm.num_batches_tracked.fill_(1000)
    network.eval()
    generator = np.random.default_rng(7)
    frames = {
        "series": np.cumsum(generator.standard_normal((24, 3, 32)), axis=2).astype(np.float32),
        "ambient": (20 + 5 * generator.standard_normal((24, 2))).astype(np.float32),
    }
    np.savez_compressed(folder / "sensor_frames.npz", **frames)  # type: ignore[arg-type]
    result = bnfold.convert(
        network, (torch.zeros(1, 3, 32), torch.zeros(1, 2)), to=("onnx", "tflite"), output=folder,
        name="sensor", samples=folder / "sensor_frames.npz",
    )  # fmt: skip
    assert result.passed, result.findings
    with torch.no_grad():
        answer = network.double()(*(torch.from_numpy(array).double() for array in frames.values()))
    outputs = {"scores": answer["scores"], "aux.0": answer["aux"][0], "aux.1": answer["aux"][1]}
    told = _told(folder, "sensor", {name: value.numpy() for name, value in outputs.items()})
    return {
        f"sensor.{target}": {"frames": "sensor_frames.npz", "top1": None, **told}
        for target in ("onnx", "tflite")
    }


def _told(folder: Path, name: str, outputs: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """The entries ``outputs`` and ``tolerance``; the arrays are written next to the artifacts."""
    files = {output: f"{name}.{output}.npy" for output in outputs}
    for output, values in outputs.items():
        np.save(folder / files[output], values)
    tolerance = {o: RELATIVE_TOLERANCE * float(np.abs(values).max()) for o, values in outputs.items()}
    return {"outputs": files, "tolerance": tolerance}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
