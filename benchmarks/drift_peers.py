"""alibi-detect's KS, MMD and online MMD beside bnfold's two tiers and its monitor, on the same frames.

    .venv-peers/bin/python benchmarks/drift_peers.py

`make bench-drift` makes that environment, and with drift_share.py the frames in out/drift/shared. The peers
see pixels, the network's outputs (softmax), and our taps, with the same calibration set of 200 frames. They
run as their documentation has them: KS with Bonferroni's correction, MMD with 100 permutations, both at 5%;
online MMD with a window of 32, as our monitor has, and an expected run time of 1,000 frames. Because run
lengths come out unequal, online MMD's threshold is also moved in hindsight to the run length that our tier 1
monitor had, which no user could do, and its delay at that is stated too.

Per frame: processor time of the check, without the network; one core.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alibi_detect.cd import KSDrift, MMDDrift, MMDDriftOnline

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "out" / "drift" / "shared"
SPACES = ("taps", "outputs", "pixels")
LEVEL, ERT, WINDOW, BOOTSTRAPS = 0.05, 1000, 32, 3000
Array = Any


def offline(make: Callable[[Array], Any], values: Array, shared: Any) -> dict[str, Any]:
    """False alarms and power of one detector on one kind of values."""
    spent, looks = 0.0, 0

    def alarms(detector: Any, windows: Array) -> int:
        nonlocal spent, looks
        begun = time.process_time()
        found = sum(int(detector.predict(values[window])["data"]["is_drift"]) for window in windows)
        spent, looks = spent + time.process_time() - begun, looks + len(windows)
        return found

    null, power = 0, np.zeros(len(shared["shifts"]), dtype=int)
    for draw, held in enumerate(shared["held"]):
        detector = make(values[held])
        null += alarms(detector, shared["null"][draw][None])
        if draw < shared["power"].shape[1]:
            for shift, windows in enumerate(shared["power"]):
                power[shift] += alarms(detector, windows[draw][None])
    return {
        "null": null, "nulls": len(shared["held"]), "power": power.tolist(),
        "powers": int(shared["power"].shape[1]), "ms": 1e3 * spent / looks / shared["null"].shape[1],
        "bytes": values[shared["held"][0]].nbytes,
    }  # fmt: skip


def traces(values: Array, shared: Any) -> dict[str, Any]:
    """Online MMD's statistic over its threshold, for every frame of every stream."""
    clean, shifted = [], [[] for _ in shared["shifts"]]
    spent, steps = 0.0, 0
    for draw, chosen in enumerate(shared["clean"]):
        torch.manual_seed(draw)
        detector = MMDDriftOnline(
            values[shared["held"][draw]], ert=ERT, window_size=WINDOW, backend="pytorch",
            n_bootstraps=BOOTSTRAPS, verbose=False,
        )  # fmt: skip

        def follow(indices: Array, detector: Any = detector) -> list[float]:
            nonlocal spent, steps
            begun, found = time.process_time(), []
            for index in indices:
                data = detector.predict(values[index])["data"]
                found.append(float(data["test_stat"] - data["threshold"]))
            spent, steps = spent + time.process_time() - begun, steps + len(indices)
            return found

        clean.append(follow(chosen))
        for shift, streams in enumerate(shared["after"]):
            detector.reset_state()
            follow(shared["before"][draw])
            shifted[shift].append(follow(streams[draw]))
    return {"clean": clean, "shifted": shifted, "ms": 1e3 * spent / steps,
            "bytes": values[shared["held"][0]].nbytes}  # fmt: skip


def run_lengths(clean: list[list[float]], above: float) -> list[list[Any]]:
    """Frames to each alarm; after one the window must fill with new frames before the next."""
    found: list[list[Any]] = []
    for stream in clean:
        begun, at = 0, 0
        while at < len(stream):
            if stream[at] > above:
                found.append([at + 1 - begun, True])
                begun = at + 1
                at += WINDOW
            at += 1
        if begun < len(stream):
            found.append([len(stream) - begun, False])
    return found


def mean_run(runs: list[list[Any]]) -> float:
    alarms = sum(alarm for _, alarm in runs)
    return sum(frames for frames, _ in runs) / alarms if alarms else math.inf


def delays(shifted: list[list[list[float]]], above: float) -> list[list[int | None]]:
    return [
        [next((at + 1 for at, value in enumerate(stream) if value > above), None) for stream in streams]
        for streams in shifted
    ]


def threshold_for(clean: list[list[float]], target: float) -> float:
    """The lowest of the statistics seen above which the mean run is at least ``target``."""
    seen = np.unique(np.concatenate([np.asarray(stream) for stream in clean]))
    low, high = 0, len(seen) - 1
    while low < high:
        middle = (low + high) // 2
        if mean_run(run_lengths(clean, float(seen[middle]))) >= min(target, 1e12):
            high = middle
        else:
            low = middle + 1
    return float(seen[high])


def peers(name: str, shared: Any, target: float) -> dict[str, Any]:
    """Every detector on every kind of values; what is done is kept."""
    kept = FOLDER / f"{name}.peers.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    # What was computed for other frames is no result for these
    stamp = [float(shared[space].sum(dtype=np.float64)) for space in SPACES]
    if found.get("stamp") != stamp:
        found = {"stamp": stamp}
    makes: dict[str, Callable[[Array], Any]] = {
        "KS": lambda held: KSDrift(held, p_val=LEVEL),
        "MMD": lambda held: MMDDrift(held, p_val=LEVEL, backend="pytorch"),
    }
    for kind, make in makes.items():
        for space in SPACES:
            if f"{kind}/{space}" not in found:
                torch.manual_seed(0)
                np.random.seed(0)
                found[f"{kind}/{space}"] = offline(make, shared[space], shared)
                kept.write_text(json.dumps(found))
    for space in SPACES:
        if f"online/{space}" not in found:
            found[f"online/{space}"] = traces(shared[space], shared)
            kept.write_text(json.dumps(found))
    results = {}
    for key, value in found.items():
        kind, _, space = key.partition("/")
        if kind in makes:
            results[f"{kind}, {space}"] = value
        elif kind == "online":
            for label, above in (("", 0.0), (", moved", threshold_for(value["clean"], target))):
                results[f"online MMD, {space}{label}"] = {
                    **{k: value[k] for k in ("ms", "bytes")},
                    "runs": run_lengths(value["clean"], above), "delays": delays(value["shifted"], above),
                }  # fmt: skip
    return results


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def table(name: str, shifts: Array, results: dict[str, Any]) -> None:
    print(f"\n{name}, windows of 64 frames; {len(shifts)} shifts that cost 10 points or more\n")
    row("", "false alarms", "shifts seen in 90% of windows", "windows seen", "KiB shipped", "ms per frame")
    row(*["---"] * 6)
    for label, one in results.items():
        if "null" in one:
            power = np.array(one["power"])
            row(label, f"{one['null']} of {one['nulls']}", f"{(power >= 0.9 * one['powers']).sum()}",
                f"{power.sum()} of {one['powers'] * len(power)}", f"{one['bytes'] / 1024:,.0f}",
                f"{one['ms']:.2f}")  # fmt: skip
    print(f"\n{name}, streams; mean run between false alarms, and delays in frames\n")
    row("", "mean run", "false alarms", "median delay", "shifts with a median of 40 or less", "never",
        "KiB shipped", "ms per frame")  # fmt: skip
    row(*["---"] * 8)
    for label, one in results.items():
        if "runs" in one:
            waits = np.array([[math.inf if d is None else d for d in row] for row in one["delays"]])
            middle = np.median(waits, axis=1)
            mean = mean_run(one["runs"])
            frames = sum(f for f, _ in one["runs"])
            row(label, f"{mean:,.0f}" if mean < math.inf else f"over {frames:,}",
                sum(alarm for _, alarm in one["runs"]), f"{np.median(waits):.0f}",
                f"{(middle <= 40).sum()} of {len(middle)}", f"{np.isinf(waits).sum()} of {waits.size}",
                f"{one['bytes'] / 1024:,.0f}", f"{one['ms']:.2f}")  # fmt: skip


def installed() -> dict[str, int]:
    """Bytes of this environment's packages, by name."""
    found = {}
    for one in distributions():
        name = one.metadata["Name"]
        if name not in ("pip", "setuptools"):
            paths = [Path(str(item.locate())) for item in one.files or []]
            found[name] = sum(path.stat().st_size for path in paths if path.is_file())
    return found


def main() -> int:
    torch.set_num_threads(1)
    sizes = installed()
    for path in sorted(FOLDER.glob("*.npz")):
        name = path.stem
        with np.load(path) as file:
            shared = {key: file[key] for key in file.files}
        own = json.loads((FOLDER / f"{name}.ours.json").read_text())
        ours: dict[str, Any] = own["results"]
        target = mean_run(ours["bnfold monitor, tier 1"]["runs"])
        table(name, shared["shifts"], {**ours, **peers(name, shared, target)})
        print(
            f"\nTo install: bnfold and numpy {own['installed'] / 2**20:,.0f} MiB; alibi-detect and what it "
            f"needs {sum(sizes.values()) / 2**20:,.0f} MiB, {len(sizes)} packages, of it torch "
            f"{sizes.get('torch', 0) / 2**20:,.0f} MiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
