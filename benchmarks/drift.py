"""What bnfold.drift says without drift, and with it: false alarms, power, blame, run lengths, delays.

    python benchmarks/drift.py --data FOLDER_OF_MNIST_IDX_FILES [--only NAME,NAME] [--parts PART,PART]
        [--draws 100] [--pool 0] [--second-moments]

`make bench-drift DATA=FOLDER` runs all of it, and the peers (drift_peers.py). Windows and calibration sets
are drawn from held-out frames, whose taps are computed once. Every draw has its own calibration set, so that
the spread between calibration sets is part of every rate. A refusal to judge is no alarm, and a miss for
power; the share that was judged is stated.

Prints tables; every row is kept in out/drift as it is done, and a second run computes only those that are not
there.

What was chosen by rates, tier 0's constants, was chosen on other frames: ``--pool 1``. Pool 0 confirms.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from drift_networks import CACHE, SHIFTED, SUBJECTS  # noqa: E402
from drift_pools import Array, Bench, Pool, Record, bonferroni, planted, pool_of, rate, row, verdicts  # noqa: E402
from drift_streams import part_delay, part_online  # noqa: E402

from bnfold.drift.reference import SQUARES  # noqa: E402
from bnfold.drift.taps import Taps  # noqa: E402

WINDOWS = (8, 16, 32, 64, 128)
POWER_WINDOW = 64
NETWORKS = ("mnist_mlp", "densenet", "robot_camera", "natural_crops", "natural_flashes")


def false_alarms(bench: Bench, seed: list[int], draws: int, size: int, times: int) -> dict[str, int]:
    """Windows of ``size`` frames, each ``times`` over, like the calibration frames and disjoint from them."""
    counts = dict.fromkeys(("zero", "one", "naive", "judged"), 0)
    for draw in range(draws):
        order = np.random.default_rng([*seed, draw]).permutation(len(bench.clean))
        held = bench.held(draw)
        held_out = bench.clean.take(order[:held])
        window = bench.clean.take(np.repeat(order[held : held + size], times))
        a, b = verdicts(window, held_out, held_out.blocks(), bench.reference)
        for key, hit in zip(
            counts, (a.drifted, b.drifted, bonferroni(window, held_out), b.judged), strict=True
        ):
            counts[key] += hit
    return {**counts, "draws": draws}


def rates(bench: Bench, label: str, found: list[dict[str, int]]) -> None:
    """One row of rates over all of these."""
    total = {key: sum(one[key] for one in found) for key in found[0]}
    draws = total["draws"]
    row(bench.subject.name, label, *(rate(total[key], draws) for key in ("zero", "one", "naive")),
        f"{total['judged'] / draws:.0%}")  # fmt: skip


def part_null(bench: Bench) -> None:
    """Without drift."""
    draws, found = bench.count(1.0), []
    for size in WINDOWS:
        made = bench.record.get(
            ("null", size, draws), lambda size=size: false_alarms(bench, [11, size], draws, size, 1)
        )
        found.append(dict(made))
        rates(bench, str(size), found[-1:])
    rates(bench, "all", found)


def part_repeats(bench: Bench) -> None:
    """A slow camera: every frame eight times."""
    draws = bench.count(0.5)
    for size in (8, 16):
        made = bench.record.get(
            ("repeats", size, draws), lambda size=size: false_alarms(bench, [12, size], draws, size, 8)
        )
        rates(bench, f"{size} x 8", [dict(made)])


def seen(bench: Bench, pool: Pool, seed: list[int], draws: int, origin: str = "") -> dict[str, int]:
    """How often windows of a shift are seen; with ``origin``, how often that layer is blamed."""
    counts = {"zero": 0, "one": 0, "draws": draws}
    few = min(SHIFTED, len(bench.clean))
    for draw in range(draws):
        random = np.random.default_rng([*seed, draw])
        held_out = bench.clean.take(few + random.permutation(len(bench.clean) - few)[: bench.held(draw)])
        window = pool.take(random.permutation(len(pool))[:POWER_WINDOW])
        results = verdicts(window, held_out, held_out.blocks(), bench.reference)
        for key, result in zip(("zero", "one"), results, strict=True):
            right = result.origin is not None and result.origin.name.removesuffix(SQUARES) == origin
            counts[key] += right if origin else result.drifted
    return counts


def part_power(bench: Bench) -> None:
    """Windows of 64 frames of every shift; those that cost less than is to be seen in brackets."""
    powers(bench, "power", bench.subject.shifts, 0.3)


def part_real(bench: Bench) -> None:
    """Shifts between real data sets."""
    powers(bench, "real", bench.subject.real, 1.0)


def powers(bench: Bench, part: str, shifts: Any, share: float) -> None:
    draws, subject = bench.count(share), bench.subject
    for number, (name, make) in enumerate(shifts.items()):

        def compute(name: str = name, make: Any = make, number: int = number) -> dict[str, Any]:
            pool, error = bench.shifted(name, make)
            harmful = subject.harmful(bench.before, error)
            tries = draws if harmful else max(1, draws // 3)
            return {**seen(bench, pool, [13, number], tries), "error": error, "harmful": harmful}

        made = bench.record.get((part, name, draws), compute)
        cost = subject.cost(bench.before, made["error"])
        row(subject.name, name if made["harmful"] else f"({name})", cost,
            f"{made['zero']} of {made['draws']}", f"{made['one']} of {made['draws']}")  # fmt: skip


def part_blame(bench: Bench) -> None:
    """A shift of half a deviation in every other channel of what one BatchNorm gives."""
    draws, layers = bench.count(0.3), bench.reference.layers
    means = [place for place, layer in enumerate(layers) if layer.moment == 1]
    for index in np.array(means)[np.unique(np.linspace(0, len(means) - 1, 6).astype(int))]:
        name = layers[index].name

        def compute(index: int = int(index), name: str = name) -> dict[str, Any]:
            return seen(bench, planted(bench.subject, bench.reference, index), [14, index], draws, name)

        made = bench.record.get(("blame", name, draws), compute)
        row(bench.subject.name, name, f"{made['zero']} of {draws}", f"{made['one']} of {draws}")


PARTS = {
    "null": (part_null, ("network", "frames", "tier 0", "tier 1", "t, Bonferroni", "judged")),
    "repeats": (part_repeats, ("network", "frames", "tier 0", "tier 1", "t, Bonferroni", "judged")),
    "power": (part_power, ("network", "shift", "costs", "tier 0", "tier 1")),
    "real": (part_real, ("network", "shift", "costs", "tier 0", "tier 1")),
    "blame": (part_blame, ("network", "planted in", "tier 0", "tier 1")),
    "online": (part_online, ("network", "", "streams", "frames", "false alarms", "mean run", "at least")),
    "delay": (part_delay, ("network", "shift", "costs", "tier 0", "tier 1")),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--only", default=",".join(NETWORKS), help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas")
    parser.add_argument("--draws", type=int, default=100, help="calibration sets per size of the null part")
    parser.add_argument("--frames", type=int, default=3000, help="held-out frames to draw from")
    parser.add_argument("--pool", type=int, default=0, help="other held-out frames of the same kind: 1, 2")
    parser.add_argument("--second-moments", action="store_true", help="beside the means")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.only.split(","):
        subject = SUBJECTS[name](options.data, options.frames, options.pool)
        clean, reference = pool_of(subject, subject.frames, options.second_moments)
        record = f"{name}_{options.pool}" if options.pool else name
        record += "_squares" if options.second_moments else ""
        bench = Bench(subject, clean, reference, Record.of(CACHE, record), options.draws)
        print(
            f"\n{name}: {reference.channels:,} channels in {len(reference.layers)} layers, "
            f"error {bench.before:.3f}, {tails(clean.taps)}"
        )
        for part in options.parts.split(","):
            run, heads = PARTS[part]
            if part == "real" and not subject.real:
                continue
            print()
            row(*heads)
            row(*["---"] * len(heads))
            run(bench)
    return 0


def tails(taps: Taps) -> str:
    """How heavy the channels' tails are: kurtosis, 3 for a normal one."""
    deviation = np.maximum(taps.values.std(axis=0, dtype=float), 1e-12)
    kurtosis: Array = np.square(np.square((taps.values - taps.values.mean(axis=0)) / deviation)).mean(axis=0)
    median, high, most = np.quantile(kurtosis, [0.5, 0.99, 1])
    return f"kurtosis {median:.1f} in the median channel, {high:.0f} at 99%, {most:.0f} at most"


if __name__ == "__main__":
    sys.exit(main())
