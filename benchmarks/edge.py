"""What bnfold costs on a device, over the interpreter alone: per frame, at the start, and in memory.

    python benchmarks/edge.py write FOLDER [--precision fp32,int8] [--nhwc]
    python benchmarks/edge.py time FOLDER [--frames 800] [--starts 40]

The first needs torch; the second needs numpy, bnfold and an interpreter.

``time`` runs every file of the folder in every interpreter that this Python has, on one thread. The bare
side is what somebody writes who has the file and no bnfold: open it by its path, set the input, run, read
the outputs, with the interpreter's own defaults but for the threads.

per frame   processor time of `Model.predict_raw` over the bare call of the same interpreter (two of the same
            file differ by more than what is looked for): the median of interleaved pairs, the order
            alternating, opened anew several times, and its 95% interval by bootstrap over these and the pairs
start       processor time of importing and opening over the bare interpreter's, fresh processes in turn. BLAS
            has one thread in both: a second one waits for work by spinning, which doubles what is counted
memory      the most that these processes held, after a few frames

The goals: at most 2% or 20 microseconds a frame, whichever is larger; at most 1.2 times the start; at most
1.1 times the memory. The exit status is 1 where one is missed by the whole interval. Last comes how fast
each precision and the other layout are.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

INTERPRETERS = {
    "onnxruntime": (".onnx", "onnxruntime"),
    "ai-edge-litert": (".tflite", "ai_edge_litert.interpreter"),
    "tflite-runtime": (".tflite", "tflite_runtime.interpreter"),
}
INSTANCES = 20
OF_A_FRAME, AT_LEAST_US, OF_THE_START, OF_THE_MEMORY = 0.02, 20.0, 1.2, 1.1
_RESAMPLES = 1000

# What a fresh process does, and what it prints: ms of processor time, bytes
_PROCESS = """
import sys, time
path, suffix = sys.argv[1:]
begun = time.process_time()
{start}
opened = time.process_time()
{frames}
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(1e3 * (opened - begun), 1024 * peak)
"""
_BARE = {
    ".onnx": (
        "import numpy, onnxruntime\n"
        "options = onnxruntime.SessionOptions()\n"
        "options.intra_op_num_threads = options.inter_op_num_threads = 1\n"
        "options.log_severity_level = 3\n"
        "session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])",
        "feed = {{node.name: numpy.zeros(node.shape, 'float32') for node in session.get_inputs()}}\n"
        "for _ in range(8): session.run(None, feed)",
    ),
    ".tflite": (
        "import numpy, {module} as module\n"
        "interpreter = module.Interpreter(model_path=path, num_threads=1)\n"
        "interpreter.allocate_tensors()",
        "for _ in range(8):\n"
        "    for told in interpreter.get_input_details():\n"
        "        interpreter.set_tensor(told['index'], numpy.zeros(told['shape'], told['dtype']))\n"
        "    interpreter.invoke()\n"
        "    [interpreter.get_tensor(told['index']) for told in interpreter.get_output_details()]",
    ),
}
_OURS = (
    "import numpy, bnfold\nmodel = bnfold.open(path, runtime={runtime!r})",
    "given = {{spec.name: numpy.zeros(spec.shape, spec.dtype) for spec in model.inputs}}\n"
    "for _ in range(8): model.predict_raw(given)",
)


# --- the files -------------------------------------------------------------------------------------------


def write(folder: Path, precisions: list[str], only: list[str], nhwc: bool) -> None:
    """The digit reader and two networks of full size, in both formats; in float32 also channels last."""
    import torch

    sys.path[:0] = [str(Path(__file__).resolve().parent)]
    from fold import drawn
    from full_size import FULL_SIZE

    import bnfold

    torch.set_num_threads(1)
    models = Path(__file__).parents[1] / "sample_models"
    digits = torch.from_numpy(np.load(models / "frames_1000.npz")["frames"]).unsqueeze(1) / 255
    for precision in precisions:
        end = "" if precision == "fp32" else f".{precision}"
        for name in only:
            if name == "mnist_mobilenet":
                network = bnfold.load(
                    models / "mnist_mobilenet/mobilenet.safetensors",
                    f"{models / 'mnist_mobilenet/model.py'}:mobilenet",
                )
                samples = digits.numpy()[:64]
            else:
                torch.manual_seed(0)
                network = drawn(FULL_SIZE[name]())
                samples = np.random.default_rng(0).random((16, 3, 224, 224), dtype=np.float32)
            result = bnfold.convert(
                network, (torch.from_numpy(samples[:1]),), to=("onnx", "tflite"), output=folder,
                name=f"{name}{end}", samples=samples, precision=precision,
            )  # fmt: skip
            print(f"{name}{end}: {'passed' if result.passed else 'not passed'}", flush=True)
            if nhwc and precision == "fp32":
                bnfold.convert(
                    network, (torch.from_numpy(samples[:1]),), to="tflite", output=folder,
                    name=f"{name}.nhwc", samples=samples, layout="nhwc",
                )  # fmt: skip


# --- one frame -------------------------------------------------------------------------------------------


def bare(path: Path, interpreter: Any, frame: np.ndarray) -> Callable[[], Any]:
    """What answers ``frame`` without bnfold; the outputs are read, too."""
    if path.suffix == ".onnx":
        (name,) = (node.name for node in interpreter.get_inputs())
        return lambda: interpreter.run(None, {name: frame})
    (given,) = (told["index"] for told in interpreter.get_input_details())
    wanted = [told["index"] for told in interpreter.get_output_details()]

    def answer() -> list[np.ndarray]:
        interpreter.set_tensor(given, frame)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in wanted]

    return answer


def pairs(path: Path, runtime: str, count: int) -> np.ndarray:
    """Microseconds of the bare call and of `predict_raw`, shape (INSTANCES, pairs, 2)."""
    import bnfold

    clock, found = time.thread_time_ns, []
    for _ in range(INSTANCES):
        model = bnfold.open(path, runtime=runtime)
        (spec,) = model.inputs
        # as after a normalisation: where nothing is negative the look for NaN is half as long
        frame = 4 * np.random.default_rng(1).random(spec.shape, dtype=np.float32) - 2
        calls = (
            bare(path, model._session.interpreter, frame),
            lambda model=model, frame=frame: model.predict_raw(frame),
        )
        same = zip(calls[0](), calls[1]().values(), strict=True)
        assert all(np.array_equal(a, b) for a, b in same), f"{path.name}: the two answers differ"
        took = np.zeros((-(-count // INSTANCES) + 8, 2))
        for number in range(len(took)):
            for side in (0, 1) if number % 2 else (1, 0):
                begun = clock()
                calls[side]()
                took[number, side] = (clock() - begun) / 1e3
        found.append(took[8:])
    return np.array(found)


def interval(found: np.ndarray) -> tuple[float, float, float]:
    """What bnfold takes more, in microseconds: median and 95% interval; instances are drawn, then pairs."""
    over = found[..., 1] - found[..., 0]
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(_RESAMPLES):
        chosen = over[generator.integers(0, len(over), len(over))]
        medians.append(np.median(chosen[:, generator.integers(0, over.shape[1], over.shape[1])]))
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(np.median(over)), float(low), float(high)


# --- one start -------------------------------------------------------------------------------------------


def process(code: tuple[str, str], path: Path, **names: str) -> tuple[float, float]:
    """Milliseconds until a fresh process has opened the file, and the most memory that it held."""
    start, frames = (part.format(**names) for part in code)
    # byte code is kept, as after an install
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS.format(start=start, frames=frames), str(path), path.suffix],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    took, held = done.stdout.split()
    return float(took), float(held)


def starts(path: Path, runtime: str, module: str, count: int) -> np.ndarray:
    """Milliseconds and bytes of the bare start and of bnfold's, shape (count, 2, 2)."""
    sides = ((_BARE[path.suffix], {"module": module}), (_OURS, {"runtime": runtime}))
    found = np.zeros((count, 2, 2))
    for number in range(-1, count):  # the first round writes byte code, and warms the files
        for side in (0, 1) if number % 2 else (1, 0):
            code, names = sides[side]
            took = process(code, path, **names)
            if number >= 0:
                found[number, side] = took
    return found


def ratio(found: np.ndarray) -> tuple[float, float, float]:
    """Median of bnfold's over the bare one's, and its 95% interval; shape (count, 2)."""
    ratios = found[:, 1] / found[:, 0]
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


# --- the table -------------------------------------------------------------------------------------------


def measure(folder: Path, frames: int, count: int) -> int:
    from bnfold.runtime import interpreters

    here = interpreters.at_hand()
    missed = 0
    heads = ("file", "interpreter", "bare, us", "bnfold over it", "goal", "start, ms", "memory, MB")
    print(f"| {' | '.join(heads)} |")
    print("|---" * 7 + "|")
    speed: dict[tuple[str, str], dict[str, float]] = {}
    for runtime in here:
        suffix, module = INTERPRETERS[runtime]
        for path in sorted(folder.glob(f"*{suffix}")):
            found = pairs(path, runtime, frames)
            over, low, high = interval(found)
            alone = float(np.median(found[..., 0]))
            begun = starts(path, runtime, module, count)
            start, memory = ratio(begun[..., 0]), ratio(begun[..., 1])
            goal = max(OF_A_FRAME * alone, AT_LEAST_US)
            missed += (low > goal) + (start[1] > OF_THE_START) + (memory[1] > OF_THE_MEMORY)
            cells = (
                path.name, runtime, f"{alone:.0f}", f"{over:+.1f} [{low:+.1f}, {high:+.1f}]", f"{goal:.0f}",
                f"{start[0]:.2f}x [{start[1]:.2f}, {start[2]:.2f}] "
                f"of {statistics.median(begun[:, 0, 0]):.0f}",
                f"{memory[0]:.2f}x [{memory[1]:.2f}, {memory[2]:.2f}] "
                f"of {statistics.median(begun[:, 0, 1]) / 1e6:.0f}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)
            name, _, precision = path.stem.partition(".")
            speed.setdefault((name, runtime), {})[precision or "fp32"] = alone
    for (name, runtime), took in speed.items():
        for precision in took.keys() - {"fp32"} if "fp32" in took else ():
            share = took[precision] / took["fp32"]
            print(f"{name} in {runtime}: {precision} takes {share:.2f} of float32's time")
    return int(missed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp32", help="with commas: fp32,fp16,int8")
    parser.add_argument("--nhwc", action="store_true", help="write the TFLite files with channels last, too")
    parser.add_argument(
        "--only", default="mnist_mobilenet,mobilenet_v2,resnet18", help="networks, with commas"
    )
    parser.add_argument("--frames", type=int, default=800, help="pairs of calls, per file and interpreter")
    parser.add_argument("--starts", type=int, default=40, help="pairs of processes, per file and interpreter")
    options = parser.parse_args()
    if options.what == "write":
        write(options.folder, options.precision.split(","), options.only.split(","), options.nhwc)
        return 0
    return measure(options.folder, options.frames, options.starts)


if __name__ == "__main__":
    sys.exit(main())
