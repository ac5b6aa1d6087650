"""Do the artifacts answer on arm64 as they do here? Runs the command line on both.

    python tests/arm64/compare.py ARTIFACTS ENVIRONMENT TFLITE_PYTHON

ARTIFACTS is what tests/device/artifacts.py made, ENVIRONMENT what environment.py made, with the wheel
unpacked in ``wheel``; TFLITE_PYTHON is a Python of this machine with tflite-runtime, and the one that runs
this script has the other two interpreters. Both sides run the wheel's code. `bnfold run` answers every
frame and the self-test, `bnfold bench` a few frames, `bnfold drift` and `bnfold monitor` watch the frames
through the monitored file.

The answers of float32 files may differ by the tolerance that the manifest records, 8 noise floors: what
`bnfold verify` allows between two artifacts. They are told in noise floors (what float32 does to the network
itself): the difference, and in brackets how far each side is from the network in float64, this machine
first. Files in lower precisions may differ by the tolerance of their golden frame, and are told in it. The
exit status is 1 where two differ by more, or where a command fails on either side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bnfold import manifest

BENCH_FRAMES = 16
FRAMES = "digits.npz"
# what must be the same in the documents of drift and monitor
SAME = ("passed", "drifted", "judged", "frames", "alarms", "counts")
# environment, suffix, --runtime
INTERPRETERS = (
    ("onnx", ".onnx", "onnxruntime"),
    ("litert", ".tflite", "ai-edge-litert"),
    ("tflite", ".tflite", "tflite-runtime"),
)


class Failed(Exception):
    """A command that failed, or a difference; the message says which."""


def bnfold(python: Path, code: Path, *words: str) -> dict[str, Any]:
    """The JSON document of one command."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(code), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-m", "bnfold_cli", *words, "--format", "json"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = f"{done.stderr}{done.stdout}"
        raise Failed(f"{python.name}: bnfold {' '.join(words)} ended with {done.returncode}\n{said}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def limits(about: manifest.Manifest) -> dict[str, tuple[float, float]]:
    """By output, the unit that differences are told in, and the most that they may be."""
    if about["precision"] != "fp32":
        golden = about["golden"]["outputs"]
        return {name: (entry["tolerance"], entry["tolerance"]) for name, entry in golden.items()}
    entries = about["parity"]
    return {entry["output"]: (entry["noise_floor"], entry["tolerance"]) for entry in entries}


def answers(document: dict[str, Any]) -> dict[str, np.ndarray]:
    """By output, one row per frame."""
    found: dict[str, list[Any]] = {}
    for frame in document["frames"]:
        for output in frame["outputs"]:
            found.setdefault(output["output"], []).append(output["values"])
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


def compare(
    here: dict[str, Any],
    there: dict[str, Any],
    about: manifest.Manifest,
    truth: dict[str, np.ndarray],
) -> str:
    """By output, how far the two are apart and, where the truth is known, each from it; in the unit.

    Raises:
        Failed: they are further apart than is allowed, or not the same outputs.
    """
    left, right, allowed = answers(here), answers(there), limits(about)
    if not left.keys() == right.keys() == allowed.keys():
        raise Failed(f"outputs: {sorted(left)} here, {sorted(right)} on arm64, {sorted(allowed)} recorded")
    shown = []
    for name, (unit, most) in allowed.items():
        a, b = left[name], right[name]
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise Failed(f"{name}: {a.shape} here, {b.shape} on arm64, or not finite")
        apart = float(np.abs(a - b).max())
        if apart > most:
            raise Failed(f"{name}: {apart:g} apart, {most:g} is allowed")
        text = f"{apart / unit:.2f}"
        if name in truth:
            exact = truth[name].reshape(a.shape)
            text += f" ({np.abs(a - exact).max() / unit:.2f}, {np.abs(b - exact).max() / unit:.2f})"
        shown.append(text)
    return "; ".join(shown)


class Sides:
    """One interpreter, here and on arm64, running the same code."""

    def __init__(self, here: Path, there: Path, code: Path, runtime: str) -> None:
        self._here, self._there, self._code, self.runtime = here, there, code, runtime

    def both(self, command: str, path: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.one(self._here, command, path, *words), self.there(command, path, *words)

    def there(self, command: str, path: Path, *words: str) -> dict[str, Any]:
        return self.one(self._there, command, path, *words)

    def one(self, python: Path, command: str, path: Path, *words: str) -> dict[str, Any]:
        return bnfold(python, self._code, command, os.fspath(path), *words, "--runtime", self.runtime)


def clean(sides: Sides, path: Path, told: dict[str, Any], *, bench: bool) -> tuple[int, str]:
    """Answers, the self-test and, where asked for, the clock: the frames, and what to print."""
    here, there = sides.both("run", path, os.fspath(path.parent / told["frames"]), "--self-test")
    truth = {name: np.load(path.parent / file) for name, file in told["outputs"].items()}
    shown = compare(here, there, manifest.read(path), truth)
    if bench:
        machine = sides.there("bench", path, "--count", str(BENCH_FRAMES))["machine"]
        if machine["processor"] != "aarch64":
            raise Failed(f"bench ran on {machine['processor']}")
        shown += ", bench"
    return len(there["frames"]), shown


def monitored(sides: Sides, path: Path, command: str) -> tuple[int, str]:
    """What drift or monitor says of the frames."""
    told, answered = sides.both(command, path, "--frames", os.fspath(path.parent / FRAMES))
    for key in SAME:
        if told.get(key) != answered.get(key):
            raise Failed(f"{command}: {key} is {told.get(key)} here, {answered.get(key)} on arm64")
    return answered["frames"], f"{command}: the same"


def main(artifacts: Path, environment: Path, tflite: Path) -> int:
    expected = json.loads((artifacts / "expected.json").read_text("utf-8"))
    print(f"{'artifact':<31}{'interpreter':<16}{'frames':>7}  {'noise floors':<38}{'s':>6}")
    failures = 0
    for name, suffix, runtime in INTERPRETERS:
        here = tflite if name == "tflite" else Path(sys.executable)
        sides = Sides(here, environment / f"python-{name}", environment / "wheel", runtime)
        steps: list[tuple[Path, Callable[[], tuple[int, str]]]] = []
        for path in sorted(artifacts.glob(f"*{suffix}")):
            if ".monitor." in path.name:
                steps += [
                    (path, partial(monitored, sides, path, command)) for command in ("drift", "monitor")
                ]
                continue
            # a file in a lower precision answers the same frames, and nobody says what is exact
            told = expected.get(path.name, {"frames": FRAMES, "outputs": {}})
            steps.append((path, partial(clean, sides, path, told, bench=path.stem == "mnist_mobilenet")))
        for path, step in steps:
            begun = time.monotonic()
            try:
                count, shown = step()
            except Failed as error:
                failures += 1
                print(f"{path.name:<31}{runtime:<16}FAILED: {error}", flush=True)
                continue
            took = time.monotonic() - begun
            print(f"{path.name:<31}{runtime:<16}{count:>7}  {shown:<38}{took:>6.1f}", flush=True)
    print(f"{failures} failed" if failures else "arm64 answers as this machine does")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(*(Path(argument).absolute() for argument in sys.argv[1:])))
