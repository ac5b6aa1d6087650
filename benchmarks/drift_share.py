"""What drift_peers.py compares: frames, outputs and taps of a network as .npz, and our results on them.

    python benchmarks/drift_share.py --data FOLDER_OF_MNIST_IDX_FILES [--only NAME,NAME]

Two environments cannot share objects, so which frames are in which calibration set, window and stream is
written down as well: out/drift/shared/NAME.npz. Our own verdicts on them go to NAME.ours.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from drift_networks import CACHE, ROOT, SHIFTED, SUBJECTS  # noqa: E402
from drift_pools import Array, Bench, Pool, Record, pool_of  # noqa: E402
from drift_streams import stream  # noqa: E402

from bnfold.drift import Baseline, Monitor  # noqa: E402
from bnfold.drift.layout import layout_of  # noqa: E402
from bnfold.drift.taps import Taps  # noqa: E402
from bnfold.drift.tiers import tier_0, tier_1  # noqa: E402

NETWORKS = ("mnist_mlp",)
HELD = 200
WINDOW = 64
NULL, POWER = 60, 5
STREAMS, DELAYS = 4, 4
LONGEST, BEFORE, PATIENCE = 4000, 64, 200
FRAMES = 2000


def share(bench: Bench, folder: Path) -> dict[str, Any]:
    """Writes the frames of one network, and returns them with the draws."""
    shifts: dict[str, Pool] = {}
    for name, make in {**bench.subject.shifts, **bench.subject.real}.items():
        pool, error = bench.shifted(name, make)
        if bench.subject.harmful(bench.before, error):
            shifts[name] = pool.take(np.arange(SHIFTED))
    pools = [bench.clean, *shifts.values()]
    scores = np.concatenate([np.asarray(pool.taps.scores) for pool in pools])
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    random = np.random.default_rng(21)
    clean = np.arange(SHIFTED, len(bench.clean))
    starts = len(bench.clean) + SHIFTED * np.arange(len(shifts))
    orders = np.stack([random.permutation(clean) for _ in range(NULL)])
    shared = {
        "pixels": np.concatenate([pool.frames.reshape(len(pool), -1) for pool in pools]),
        "outputs": (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32),
        "taps": np.concatenate([pool.taps.values for pool in pools]),
        "shifts": np.array(list(shifts)),
        "held": orders[:, :HELD],
        "null": orders[:, HELD : HELD + WINDOW],
        "power": np.stack(
            [[at + random.permutation(SHIFTED)[:WINDOW] for _ in range(POWER)] for at in starts]
        ),
        "clean": np.stack([random.choice(orders[s, HELD:], LONGEST) for s in range(STREAMS)]),
        "before": np.stack([random.choice(orders[s, HELD:], BEFORE) for s in range(DELAYS)]),
        "after": np.stack([[at + random.choice(SHIFTED, PATIENCE) for _ in range(DELAYS)] for at in starts]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{bench.subject.name}.npz", **shared)
    return shared


def ours(bench: Bench, shared: dict[str, Any]) -> dict[str, Any]:
    """Both tiers on the windows and streams of ``shared``."""
    sizes, channels = bench.clean.taps.sizes, bench.clean.taps.channels
    shape = bench.clean.frames.shape[1:]
    pixels = shared["pixels"].reshape(-1, *shape)
    everything = Pool(pixels, Taps(shared["taps"], sizes, channels), layout_of({"": pixels}))
    reference = bench.reference
    document = len(json.dumps(reference.to_json()))
    first = everything.take(shared["held"][0])
    held_out = Baseline.of(first.taps.values, None, first.layout)
    shipped = {0: document, 1: document + len(json.dumps(held_out.to_json()))}
    found: dict[str, Any] = {}
    for tier in (0, 1):
        spent, looks = 0.0, 0

        def drifted(chosen: Array, held: Array, tier: int = tier) -> bool:
            nonlocal spent, looks
            window, others = everything.take(chosen), everything.take(held)
            before = others.blocks()  # of the reference: once, not for each window
            begun = time.process_time()
            now = window.blocks()
            if tier:
                layouts = layout_of({"": window.frames}), others.layout
                result = tier_1(window.taps, now, others.taps.values, before, reference, layouts=layouts)
            else:
                result = tier_0(window.taps, now, reference, train_batch=32)
            spent, looks = spent + time.process_time() - begun, looks + 1
            return result.drifted

        null = sum(drifted(window, held) for window, held in zip(shared["null"], shared["held"], strict=True))
        power = [
            sum(drifted(window, shared["held"][at]) for at, window in enumerate(windows))
            for windows in shared["power"]
        ]
        found[f"bnfold tier {tier}"] = {
            "on": "taps", "null": null, "nulls": NULL, "power": power, "powers": POWER,
            "ms": 1e3 * spent / looks / WINDOW, "bytes": shipped[tier],
        }  # fmt: skip
        found[f"bnfold monitor, tier {tier}"] = online(everything, reference, shared, tier, shipped[tier])
    return found


def online(
    everything: Pool, reference: Any, shared: dict[str, Any], tier: int, shipped: int
) -> dict[str, Any]:
    """Run lengths on the clean streams, and delays."""

    def fresh(draw: int) -> Monitor:
        held = everything.taps.values[shared["held"][draw]]
        return Monitor(reference, baseline=Baseline.of(held) if tier else None)

    runs = []
    begun = time.process_time()
    for draw, chosen in enumerate(shared["clean"]):
        # All of the stream, with a new monitor after every alarm
        at = 0
        while at < LONGEST:
            alarm = stream(fresh(draw), everything, chosen[at:])
            runs.append([alarm or LONGEST - at, alarm is not None])
            at += runs[-1][0]
    ms = 1e3 * (time.process_time() - begun) / (STREAMS * LONGEST)
    delays = []
    for shift in shared["after"]:
        row = []
        for draw in range(DELAYS):
            monitor = fresh(draw)
            stream(monitor, everything, shared["before"][draw])
            if monitor.drifted:
                monitor.reset()
            row.append(stream(monitor, everything, shift[draw]))
        delays.append(row)
    return {"on": "taps", "runs": runs, "delays": delays, "ms": ms, "bytes": shipped}


def installed() -> int:
    """Bytes of what the check needs on a device beside Python: numpy and this package."""
    numpy = sum(Path(str(item.locate())).stat().st_size for item in files("numpy") or [] if
                Path(str(item.locate())).is_file())  # fmt: skip
    return numpy + sum(path.stat().st_size for path in (ROOT / "bnfold").rglob("*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = CACHE / "shared"
    for name in options.only.split(","):
        subject = SUBJECTS[name](options.data, FRAMES)
        clean, reference = pool_of(subject, subject.frames)
        record = Record.of(CACHE, f"{name}.peers")
        bench = Bench(subject, clean, reference, record, NULL)
        shared = share(bench, folder)
        results = record.get(("peers", NULL, POWER, LONGEST), lambda b=bench, s=shared: ours(b, s))
        (folder / f"{name}.ours.json").write_text(
            json.dumps({"results": results, "installed": installed()}, indent=1)
        )
        print(f"{name}: {len(shared['pixels'])} frames, {len(shared['shifts'])} shifts", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
