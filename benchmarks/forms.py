"""The forms that a leftover affine can be written in, against each other, by interpreter and size.

    python benchmarks/forms.py write FOLDER [--only onnx|tflite]    the models (minutes; needs torch)
    python benchmarks/forms.py time FOLDER [--rounds 31]            with every interpreter that is installed

Each model is ``conv 1x1, relu -> form -> conv 1x1`` with 16 channels at both ends: the form stands where a
fold leaves it, between two layers, so that a change of memory layout which it brings about is counted.
Printed is the processor time of the whole over that of the same without the form: the median over rounds in
which every model runs, in an order drawn for each. 1.00 is a form that costs nothing. ``time`` needs numpy
and an interpreter alone: run it with tflite-runtime in an environment of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHAPES = [
    (16, 112),
    (16, 28),
    (16, 7),
    (24, 28),
    (40, 14),
    (64, 56),
    (64, 14),
    (128, 28),
    (512, 14),
    (512, 7),
]
"""Channels; height and width."""

FORMS = [
    "mul, add",
    "depthwise",
    "mul, add, relu",
    "depthwise, relu",
    "maximum",
    "mul",
    "add",
    "add, relu",
    "mul, add, relu6",
    "depthwise, relu6",
    "clamp",
    "sum",
    "mul, sum",
    "depthwise, sum",
    "BatchNormalization",
    "BatchNormalization, relu",
]
"""Steps. Depthwise is a 1x1 convolution with a bias, a channel at a time; it serves a multiplication or an
addition alone as well. Sum adds a second convolution's result, which the plain model does not have."""

NOTHING = "nothing"


# --- writing ---------------------------------------------------------------------------------------------


def module(form: str, channels: int) -> Any:
    import torch
    from torch import nn

    class Form(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.other = nn.Conv2d(16, channels, 1), nn.Conv2d(16, channels, 1)
            self.last = nn.Conv2d(channels, 16, 1)
            self.depthwise = nn.Conv2d(channels, channels, 1, groups=channels)
            self.norm = nn.BatchNorm2d(channels)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)
            nn.init.normal_(self.norm.bias)
            self.scale = nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)
            self.shift = nn.Parameter(torch.randn(1, channels, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            steps: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
                "mul": lambda y: y * self.scale,
                "add": lambda y: y + self.shift,
                "relu": torch.relu,
                "relu6": nn.functional.relu6,
                "maximum": lambda y: torch.maximum(y, self.shift),
                "clamp": lambda y: torch.clamp(y, self.shift, self.shift + 1),
                "depthwise": self.depthwise,
                "sum": lambda y: y + torch.relu(self.other(x)),
                "BatchNormalization": self.norm,
            }
            y = torch.relu(self.first(x))
            for step in [] if form == NOTHING else form.split(", "):
                y = steps[step](y)
            result: torch.Tensor = self.last(y)
            return result

    torch.manual_seed(0)
    return Form().eval()


def write(folder: Path, only: str | None) -> None:
    import torch
    from fold import litert, torch_onnx

    folder.mkdir(parents=True, exist_ok=True)
    exporters = {"onnx": torch_onnx, "tflite": litert}
    for number, form in enumerate([NOTHING, *FORMS]):
        for channels, size in SHAPES:
            example = (torch.randn(1, 16, size, size),)
            for suffix in [only] if only else exporters:
                data = exporters[suffix](module(form, channels), example)
                (folder / f"{number:02}_{channels}_{size}.{suffix}").write_bytes(data)
        print(form, flush=True)


# --- timing ----------------------------------------------------------------------------------------------


def onnx_run(path: Path, x: np.ndarray, level: str) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)


def tflite_run(path: Path, x: np.ndarray, package: str) -> Callable[[], object]:
    kind = importlib.import_module(f"{package}.interpreter").Interpreter
    interpreter = kind(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    invoke: Callable[[], object] = interpreter.invoke
    return invoke


def interpreters() -> Iterator[tuple[str, str, Callable[..., Callable[[], object]], str]]:
    """Heading, suffix, how to make a run, and its last argument."""
    if importlib.util.find_spec("onnxruntime"):
        yield "onnxruntime", "onnx", onnx_run, "ORT_ENABLE_ALL"
        # what it is where the processor has no kernels for blocked layouts
        yield "onnxruntime without blocked layouts", "onnx", onnx_run, "ORT_ENABLE_EXTENDED"
    for package in ("ai_edge_litert", "tflite_runtime"):
        if importlib.util.find_spec(package):
            yield package, "tflite", tflite_run, package


def once(run: Callable[[], object], calls: int) -> float:
    started = time.thread_time()  # processor time: other processes take none of it
    for _ in range(calls):
        run()
    return (time.thread_time() - started) / calls


def relative(runs: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median over rounds of each run's time over the first's."""
    for run in runs:
        once(run, 3)
    calls = max(1, round(0.002 / once(runs[0], 10)))
    order, found = list(range(len(runs))), []
    for _ in range(rounds):
        random.shuffle(order)
        seconds = {number: once(runs[number], calls) for number in order}
        found.append([seconds[number] / seconds[0] for number in range(len(runs))])
    return [statistics.median(column) for column in zip(*found, strict=True)]


def measure(folder: Path, rounds: int) -> None:
    for heading, suffix, make, detail in interpreters():
        columns = []
        for channels, size in SHAPES:
            x = np.random.default_rng(0).standard_normal((1, 16, size, size), dtype=np.float32)
            paths = [folder / f"{n:02}_{channels}_{size}.{suffix}" for n in range(len(FORMS) + 1)]
            columns.append(relative([make(path, x, detail) for path in paths], rounds))
        print(f"\n| {heading} | " + " | ".join(f"{c} x {s}²" for c, s in SHAPES) + " |")
        print("|---" * (len(SHAPES) + 1) + "|")
        for number, form in enumerate(FORMS, start=1):
            print(
                f"| {form} | " + " | ".join(f"{column[number]:.2f}" for column in columns) + " |", flush=True
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("step", choices=("write", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("onnx", "tflite"), help="write this kind alone")
    parser.add_argument("--rounds", type=int, default=31, help="rounds of measurements")
    options = parser.parse_args()
    if options.step == "write":
        write(options.folder, options.only)
    else:
        measure(options.folder, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
