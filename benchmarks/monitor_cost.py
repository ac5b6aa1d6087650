"""What the monitored file costs on the device: ResNet-18 and MobileNetV2 at 224 x 224, both formats.

    python benchmarks/monitor_cost.py [--only NAME,NAME] [--pairs 60] [--every 10] [--second-moments]

Milliseconds of a frame through the clean and the monitored file, one thread, and what the monitor itself
takes (tier 1 with 100 held-out frames); the share that a stream costs more where every k-th frame is
monitored. What is measured is processor time of the thread: the median over interleaved pairs, the order
alternating, and both interpreters made anew several times.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from fold import drawn, onnx_run, tflite_run  # noqa: E402
from full_size import FULL_SIZE  # noqa: E402

import bnfold  # noqa: E402
from bnfold.drift import Baseline, Monitor  # noqa: E402
from bnfold.drift.layout import layout_of  # noqa: E402
from bnfold.drift.reference import Reference  # noqa: E402
from bnfold.manifest import read  # noqa: E402

INSTANCES = 4
HELD_OUT, STREAM = 100, 400
LOADS = {"onnx": onnx_run, "tflite": tflite_run}


def once(run: object) -> float:
    begun = time.thread_time()
    run()  # type: ignore[operator]
    return 1e3 * (time.thread_time() - begun)


def pairs(
    clean: bytes, monitored: bytes, suffix: str, count: int
) -> tuple[float, float, float, float, float]:
    """Milliseconds of each, the median ratio, and its 95% interval by bootstrap."""
    x = (torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1)),)
    found: list[tuple[float, float]] = []
    for _ in range(INSTANCES):
        runs = [LOADS[suffix](data, x) for data in (clean, monitored)]
        for run in runs:
            run()
            run()
        for number in range(-(-count // INSTANCES)):
            order = (0, 1) if number % 2 else (1, 0)
            took = {which: once(runs[which]) for which in order}
            found.append((took[0], took[1]))
    ratios = [b / a for a, b in found]
    random.seed(0)
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(1000))
    return (
        statistics.median(a for a, _ in found), statistics.median(b for _, b in found),
        statistics.median(ratios), medians[25], medians[974],
    )  # fmt: skip


def monitor_cost(path: Path) -> tuple[float, int]:
    """Milliseconds of a frame in the monitor itself, looks included, and the bytes of its state."""
    reference = Reference.from_json(read(path)["drift_reference"])
    random_ = np.random.default_rng(0)
    alive = sum(int(layer.alive.sum()) for layer in reference.layers)
    pictures = random_.random((HELD_OUT, 3, 224, 224), dtype=np.float32)
    held_out = Baseline.of(
        0.3 * random_.standard_normal((HELD_OUT, alive)), layout=layout_of({"image": pictures})
    )
    monitor = Monitor(reference, baseline=held_out, arl=1000)
    frames = [
        [
            layer.mean + 0.3 * layer.deviation * random_.standard_normal(layer.channels)
            for layer in reference.layers
        ]
        for _ in range(STREAM)
    ]
    image = [random_.random((1, 3, 224, 224), dtype=np.float32) for _ in range(4)]
    begun = time.thread_time()
    for number, means in enumerate(frames):
        monitor.update(means, frame=image[number % 4])
    return 1e3 * (time.thread_time() - begun) / STREAM, len(monitor.state.to_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(FULL_SIZE), help="networks, with commas")
    parser.add_argument("--to", default="onnx,tflite", help="formats, with commas")
    parser.add_argument("--pairs", type=int, default=60, help="of frames, per network and format")
    parser.add_argument("--every", type=int, default=10, help="k: one frame in k is monitored")
    parser.add_argument("--second-moments", action="store_true", help="in the monitored files")
    parser.add_argument("--keep", type=Path, help="folder for the files; made once, and then used again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    k = options.every
    heads = ("network", "file", "BatchNorms seen", "clean ms", "monitored ms", "ratio", "monitor ms",
             f"stream, k = {k}", "state KiB")  # fmt: skip
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        formats = options.to.split(",")
        for name in options.only.split(","):
            if not all((folder / f"{name}.monitor.{suffix}").exists() for suffix in formats):
                torch.manual_seed(0)
                module = drawn(FULL_SIZE[name]())
                example = (torch.rand(1, 3, 224, 224),)
                bnfold.convert(
                    module, example, to=formats, output=folder, name=name,
                    monitor=True, second_moments=options.second_moments,
                )  # fmt: skip
            for suffix in formats:
                clean, monitored = folder / f"{name}.{suffix}", folder / f"{name}.monitor.{suffix}"
                a, b, ratio, low, high = pairs(
                    clean.read_bytes(), monitored.read_bytes(), suffix, options.pairs
                )
                own, state = monitor_cost(monitored)
                reference = Reference.from_json(read(monitored)["drift_reference"])
                means = sum(layer.moment == 1 for layer in reference.layers)
                seen = f"{means} of {means + len(reference.left_out)}"
                more = ((ratio - 1) * a + own) / (k * a)
                interval = f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
                print(f"| {name} | {suffix} | {seen} | {a:.2f} | {b:.2f} | {interval} | {own:.2f} | "
                      f"+{more:.1%} | {state / 1024:.0f} |", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
