"""fp16 and int8 against float32 on the trained sample models, in every interpreter: agreement, error, size.

    python benchmarks/precision.py [--older .venv-tflite/bin/python] [NETWORK ...]

Each network is converted in fp16 and in int8, calibrated on its frames and, as ``int8 -``, without any: from
the population statistics. All are then run on all frames and compared with the original network in float64.
``--older`` names a Python that has tflite-runtime, to run the TFLite files there as well.

agree   share of frames with the same best class; for numbers, of values within 5% of the range (fp16: 0.5%)
off     largest error, in percent of the output's range
kB      of the file without its manifest, and what is allowed: 0.5 (fp16) or 0.25 (int8) times the bytes of
        the float32 weights, and 64 kB
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1] / "sample_models"
GRAY = {"layout": "NCHW", "color": "gray", "resize": "stretch", "scale": 1 / 255, "mean": [0.0], "std": [1.0]}
DIGIT = (1, 1, 28, 28)
ARCHITECTURES = (
    "vgg", "inception_bn", "resnet", "preactivation_resnet", "densenet", "mobilenet_v2", "efficientnet",
    "repvgg",
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A trained network: its files below ``sample_models``, and whether it answers with scores of classes."""

    weights: str
    source: str
    shape: tuple[int, ...] = DIGIT
    frames: str = "frames_1000.npz"
    normalisation: dict[str, Any] | None = field(default_factory=lambda: dict(GRAY))
    scores: bool = True


def _of(folder: str, name: str, source: str = "model.py", **more: Any) -> Network:
    return Network(f"{folder}/{name}.safetensors", f"{folder}/{source}:{name}", **more)


NETWORKS: dict[str, Network] = {
    **{f"mnist_mlp/{name}": _of("mnist_mlp", name) for name in ("plain", "before", "after")},
    "mnist_mobilenet": _of("mnist_mobilenet", "mobilenet"),
    **{name: _of("architectures", name, "models.py") for name in ARCHITECTURES},
    "robot_camera": _of(
        "robot_camera", "locator", shape=(1, 3, 48, 64), frames="robot_camera/frames/home.npz",
        normalisation={**GRAY, "color": "rgb"}, scores=False,
    ),
    "lung_ct": Network(
        "lung_ct/clean.safetensors", "lung_ct/model.py:lung_net", (1, 1, 16, 32, 32), "lung_ct/held_out.npy",
        None, False,
    ),
}  # fmt: skip
WAYS = {"fp16": ("fp16", True), "int8": ("int8", True), "int8 -": ("int8", False)}
SHARES = {"fp16": 0.5, "int8": 0.25}
AGREEING = {"fp16": 0.005, "int8": 0.05}


def make(name: str, folder: Path) -> dict[str, Any]:
    """Convert one network in every way; the inputs and the answers of the original are left in the folder."""
    import torch

    import bnfold
    from bnfold.errors import UsageError
    from bnfold.samples import frames_of
    from bnfold.signature import TensorSpec

    torch.set_num_threads(1)
    network = NETWORKS[name]
    module = bnfold.load(ROOT / network.weights, f"{ROOT / network.source}")
    samples = np.load(ROOT / network.frames)
    if network.frames.endswith(".npz"):
        samples = samples["frames" if "frames" in samples else "image"]
    taken = samples if samples.dtype == np.uint8 else samples.astype(np.float32)
    inputs = (TensorSpec("x", network.shape, "float32"),)
    calls = np.concatenate([call["x"] for call in frames_of(taken, inputs, {"x": network.normalisation})])
    module.double()
    with torch.no_grad():
        exact = np.concatenate([module(torch.from_numpy(one[None]).double()).numpy() for one in calls])
    module.float()
    np.savez(folder / "material.npz", calls=calls, exact=exact)
    size = sum(parameter.numel() * 4 for parameter in module.parameters())
    ways: dict[str, Any] = {}
    for way, (precision, calibrated) in WAYS.items():
        try:
            result = bnfold.convert(
                module, (torch.zeros(network.shape),), to=("onnx", "tflite"), output=folder,
                name=way.replace(" -", "_free"), samples=taken if calibrated else None,
                normalisation=network.normalisation, precision=precision,
            )  # fmt: skip
        except UsageError as error:
            ways[way] = {"refused": error.code}
            continue
        losses = dict(sorted({loss.target: loss for loss in reversed(result.losses)}.items()))
        ways[way] = {
            "files": {artifact.target: artifact.path.name for artifact in result.artifacts},
            "passed": result.passed,
            "worst": {target: f"{loss.layer} ({loss.snr_db:.1f} dB)" for target, loss in losses.items()},
        }
    return {"scores": network.scores, "weights": size, "ways": ways}


def answers(folder: Path, made: dict[str, Any], interpreters: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run every file on all frames in these interpreters."""
    from bnfold import manifest
    from bnfold.runtime import Model

    with np.load(folder / "material.npz") as material:
        calls, exact = material["calls"], material["exact"]
    spread = float(np.ptp(exact))
    rows = []
    for way, one in made["ways"].items():
        for target, file in one.get("files", {}).items():
            data = (folder / file).read_bytes()
            document = manifest.parse(data)
            for runtime in interpreters:
                if (runtime == "onnxruntime") != (target == "onnx"):
                    continue
                model = Model(data, document, runtime=runtime)
                given = np.concatenate([next(iter(model.predict_raw(c[None]).values())) for c in calls])
                error = np.abs(given - exact)
                if made["scores"]:
                    agree = float(np.mean(given.argmax(1) == exact.argmax(1)))
                else:
                    agree = float(np.mean(error <= AGREEING[WAYS[way][0]] * spread))
                row = {"way": way, "target": target, "runtime": runtime, "agree": agree}
                row |= {"off": float(error.max()) / spread, "size": document["integrity"]["model_bytes"]}
                rows.append(row)
    return rows


def measure(name: str, older: str | None) -> None:
    """One network: a line per way."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = make(name, folder)
        rows = answers(folder, made, ("onnxruntime", "ai-edge-litert"))
        if older:
            (folder / "made.json").write_text(json.dumps(made))
            command = [older, __file__, "--answers", place]
            rows += json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for way, one in made["ways"].items():
        if "refused" in one:
            print(f"| `{name}` | {way} | refused, {one['refused']} |")
            continue
        cells = {row["runtime"]: f"{row['agree']:.1%}, {row['off']:.2%}" for row in rows if row["way"] == way}
        sizes = {row["target"]: row["size"] for row in rows if row["way"] == way}
        allowed = SHARES[WAYS[way][0]] * made["weights"] + 64000
        told = [cells.get(runtime, "-") for runtime in ("onnxruntime", "ai-edge-litert", "tflite-runtime")]
        told += [f"{sizes['onnx'] / 1e3:.0f}, {sizes['tflite'] / 1e3:.0f} of {allowed / 1e3:.0f}"]
        told += ["; ".join(one["worst"].values()) + ("" if one["passed"] else "; rejected")]
        print(f"| `{name}` | {way} | {' | '.join(told)} |", flush=True)


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--older", metavar="PYTHON", help="with tflite-runtime 2.14.0")
    parser.add_argument("--answers", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.answers:
        folder = Path(options.answers)
        made = json.loads((folder / "made.json").read_text())
        print(json.dumps(answers(folder, made, ("tflite-runtime",))))
        return
    heads = ("network", "precision", "onnxruntime", "ai-edge-litert", "tflite-runtime", "kB", "loses most in")
    print(f"| {' | '.join(heads)} |")
    print(f"|{'---|' * len(heads)}")
    for name in options.networks:
        measure(name, options.older)


if __name__ == "__main__":
    sys.exit(main())
