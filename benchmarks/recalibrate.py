"""Recalibration against the same forward passes with the BatchNorms in train mode, in one run.

    python benchmarks/recalibrate.py [--only NAME,NAME] [--pairs 7] [--batch 64] [--frames 4096] [--seconds 1]

For each sample architecture, and for the network of lung_ct: the time of ``bnfold.recalibrate``, everything
included, as the ratio to what one would do by hand, the network in eval mode with its BatchNorms in train
mode over the same batches; processor time on one thread, the median of interleaved pairs and its 95%
interval. The goal is 1.15. Which of the two runs first alternates from pair to pair, so that a busy machine
disturbs both alike; beside it stands the least time of the one over the least of the other, which such a
machine moves less. Small networks go over the frames again and again, until the passes alone take a second.

What a run costs once, however many frames there are, is told beside it: the copy, the first pass, which
learns the names, and the writing; as what two batches of two frames take, less the passes.

Then the memory that the process needed at its peak for few and for many batches, each in a process of its
own.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ROOT / "sample_models" / "architectures"
sys.path[:0] = [str(ROOT), str(ARCHITECTURES)]

import bnfold  # noqa: E402
from bnfold.runtime.coldstart import peak_memory  # noqa: E402


def networks() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Factory, and the shape of one frame."""
    from models import ARCHITECTURES as TABLE

    from bnfold.modelspec import build

    lung = ROOT / "sample_models" / "lung_ct" / "model.py"
    return {**TABLE, "lung_ct": (lambda: build(f"{lung}:lung_net"), (1, 1, 16, 32, 32))}


def batches(shape: tuple[int, ...], size: int, count: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn((size, *shape[1:]), generator=generator)


def by_hand(module: nn.Module, source: list[torch.Tensor]) -> None:
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train()
    with torch.no_grad():
        for batch in source:
            module(batch)


def once(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def measure(name: str, pairs: int, size: int, count: int, seconds: float) -> float:
    factory, shape = networks()[name]
    torch.manual_seed(0)
    module = factory().eval()
    reference = copy.deepcopy(module)
    source = list(batches(shape, size, count))
    by_hand(reference, source[:2])  # the first passes set memory up
    source *= math.ceil(seconds / once(lambda: by_hand(reference, source)))

    def peer() -> None:
        by_hand(reference, source)

    def ours() -> None:
        bnfold.recalibrate(module, source)

    peer(), ours()
    took = []
    for pair in range(pairs):
        if pair % 2:
            b, a = once(ours), once(peer)
        else:
            a, b = once(peer), once(ours)
        took.append((a, b))
    found = sorted(b / a for a, b in took)
    least = min(b for _, b in took) / min(a for a, _ in took)
    reach, middle = round(0.98 * np.sqrt(pairs)), pairs // 2
    low, high = found[max(0, middle - reach)], found[min(pairs - 1, middle + reach)]
    result = statistics.median(found)
    few = list(batches(shape, 2, 2))
    fixed = min(once(lambda: bnfold.recalibrate(module, few)) for _ in range(5))
    fixed -= min(once(lambda: by_hand(reference, few)) for _ in range(5))
    told = f"least {least:.2f}x, {len(source)} batches, {1e3 * fixed:.0f} ms once"
    print(f"  {name:<24} {result:5.2f}x [{low:.2f}, {high:.2f}]  {told}", flush=True)
    return result


def peak(name: str, size: int, count: int) -> None:
    """Run in a process of its own: prints its peak of resident memory in MB."""
    factory, shape = networks()[name]
    module = factory().eval()
    bnfold.recalibrate(module, batches(shape, size, count))
    print((peak_memory() or 0) >> 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="names of architectures, with commas")
    parser.add_argument("--pairs", type=int, default=7, help="interleaved pairs of measurements")
    parser.add_argument("--batch", type=int, default=64, help="frames per batch")
    parser.add_argument("--frames", type=int, default=4096, help="frames in all")
    parser.add_argument("--seconds", type=float, default=1.0, help="that the passes alone take at least")
    parser.add_argument("--peak", type=int, metavar="BATCHES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = options.only.split(",") if options.only else list(networks())
    if options.peak:
        peak(names[0], options.batch, options.peak)
        return 0
    count = options.frames // options.batch
    print(f"recalibrate over batches of {options.batch}, as a ratio to the passes alone")
    found = [measure(name, options.pairs, options.batch, count, options.seconds) for name in names]
    print(f"  median {statistics.median(found):.2f}x, largest {max(found):.2f}x")
    again = [sys.executable, __file__, "--only", names[0], "--batch", str(options.batch), "--peak"]
    few, many = (
        subprocess.run([*again, str(count)], check=True, capture_output=True, text=True).stdout.strip()
        for count in (5, 100)
    )
    print(f"  peak memory of {names[0]}: {few} MB for 5 batches, {many} MB for 100")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
