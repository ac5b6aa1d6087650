"""What bnfold.drift says without drift, and with it: false alarms, power, blame.

    python benchmarks/drift.py --data FOLDER_OF_IDX_FILES [--only NAME,NAME] [--draws 100]
        [--parts null,repeats,power,blame,online,delay]

Needs scikit-learn and scikit-image for the photographs of natural_crops. Taps are computed once for each
network and corruption; windows and calibration sets are then drawn from them. Every draw has its own
calibration set, so that the spread between calibration sets is part of every rate. A refusal to judge is no
alarm, and a miss for power; the share that was judged is stated.

Writes the tables to standard output, and the counts to out/drift/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

from corruptions import CORRUPTIONS  # noqa: E402
from drift_networks import CACHE, SUBJECTS, Subject  # noqa: E402

from bnfold.drift import Baseline, Monitor  # noqa: E402
from bnfold.drift.blocks import blocks_of  # noqa: E402
from bnfold.drift.distributions import clopper_pearson, t_quantile  # noqa: E402
from bnfold.drift.reference import Reference  # noqa: E402
from bnfold.drift.result import TierResult  # noqa: E402
from bnfold.drift.taps import Taps  # noqa: E402
from bnfold.drift.tiers import tier_0, tier_1  # noqa: E402
from bnfold.statistics.observe import Call, answering  # noqa: E402
from bnfold.statistics.taps import tap  # noqa: E402

WINDOWS = (8, 16, 32, 64, 128)
CALIBRATION = (50, 100, 200)
POWER_WINDOW = 64
HARM = 0.10
MANY = 10_000  # channels from which the corruptions without harm are left out, for the time they take
DEALS = 399
Array = NDArray[Any]


@dataclass
class Pool:
    """Frames and what they give."""

    frames: Array
    taps: Taps

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, chosen: Array) -> Pool:
        return Pool(self.frames[chosen], self.taps.take(chosen))


def pool_of(subject: Subject, frames: torch.Tensor) -> tuple[Pool, Reference]:
    parts = [tap(subject.module, part.numpy()) for part in frames.split(200)]
    reference = parts[0].reference
    taps = [Taps.of(part.means, reference, part.scores) for part in parts]
    scores = np.concatenate([part.scores for part in taps])
    values = np.concatenate([part.values for part in taps])
    return Pool(frames.numpy(), Taps(values, taps[0].sizes, taps[0].channels, scores)), reference


def accuracy(taps: Taps, labels: torch.Tensor) -> float:
    assert taps.scores is not None
    return float((taps.scores.argmax(1) == labels.numpy()[: len(taps)]).mean())


def verdicts(window: Pool, held_out: Pool, reference: Reference) -> tuple[TierResult, TierResult]:
    """What ``check`` says with a baseline."""
    now = blocks_of(window.frames, window.taps.values, window.taps.sizes)
    before = blocks_of(held_out.frames, held_out.taps.values, held_out.taps.sizes)
    return (
        tier_0(window.taps, now, reference, train_batch=32),
        tier_1(window.taps, now, held_out.taps.values, before, reference, deals=DEALS),
    )


def bonferroni(window: Pool, held_out: Pool) -> bool:
    """The usual test: one t for each channel, corrected for their number."""
    now, before = window.taps.values.astype(float), held_out.taps.values.astype(float)
    error = before.std(axis=0, ddof=1) * np.sqrt(1 / len(now) + 1 / len(before))
    t = np.abs(now.mean(axis=0) - before.mean(axis=0)) / np.maximum(error, 1e-12)
    return bool((t > t_quantile(0.025 / now.shape[1], len(before) - 1)).any())


def rate(hits: list[bool]) -> str:
    low, high = clopper_pearson(sum(hits), len(hits))
    return f"{np.mean(hits):.3f} [{low:.3f}, {high:.3f}]"


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def part_null(subject: Subject, clean: Pool, reference: Reference, draws: int, found: dict[str, Any]) -> None:
    """Windows like the calibration frames, disjoint from them."""
    random = np.random.default_rng(11)
    for size in WINDOWS:
        zero, one, naive, judged = [], [], [], []
        for draw in range(draws):
            held = CALIBRATION[draw % len(CALIBRATION)]
            order = random.permutation(len(clean))
            held_out, window = clean.take(order[:held]), clean.take(order[held : held + size])
            a, b = verdicts(window, held_out, reference)
            zero.append(a.drifted)
            one.append(b.drifted)
            judged.append(b.judged)
            naive.append(bonferroni(window, held_out))
        row(subject.name, size, rate(zero), rate(one), rate(naive), f"{np.mean(judged):.2f}")
        found.setdefault("null", []).append(
            [subject.name, size, sum(zero), sum(one), sum(naive), sum(judged), draws]
        )


def part_repeats(
    subject: Subject, clean: Pool, reference: Reference, draws: int, found: dict[str, Any]
) -> None:
    """A slow camera: every frame eight times."""
    random = np.random.default_rng(12)
    for size in (64, 128):
        zero, one, naive, judged = [], [], [], []
        for draw in range(draws):
            held = CALIBRATION[draw % len(CALIBRATION)]
            order = random.permutation(len(clean))
            held_out = clean.take(order[:held])
            window = clean.take(np.repeat(order[held : held + size // 8], 8))
            a, b = verdicts(window, held_out, reference)
            zero.append(a.drifted)
            one.append(b.drifted)
            judged.append(b.judged)
            naive.append(bonferroni(window, held_out))
        row(subject.name, f"{size // 8} x 8", rate(zero), rate(one), rate(naive), f"{np.mean(judged):.2f}")
        found.setdefault("repeats", []).append(
            [subject.name, size, sum(zero), sum(one), sum(naive), sum(judged), draws]
        )


def part_power(
    subject: Subject, clean: Pool, reference: Reference, draws: int, found: dict[str, Any]
) -> None:
    """Windows of 64 corrupted frames; the corruptions that cost 10 points, those that do not in brackets."""
    random = np.random.default_rng(13)
    before = accuracy(clean.taps, subject.labels)
    count = min(300, len(clean))
    for name, corrupt in CORRUPTIONS.items():
        frames = corrupt(subject.frames[:count])
        pool, _ = pool_of(subject, frames)
        cost = before - accuracy(pool.taps, subject.labels)
        if cost < HARM and reference.channels > MANY:
            continue
        zero, one = [], []
        for draw in range(draws):
            held = CALIBRATION[draw % len(CALIBRATION)]
            held_out = clean.take(count + random.permutation(len(clean) - count)[:held])
            a, b = verdicts(pool.take(random.permutation(count)[:POWER_WINDOW]), held_out, reference)
            zero.append(a.drifted)
            one.append(b.drifted)
        shown = name if cost >= HARM else f"({name})"
        row(subject.name, shown, f"{cost:+.3f}", f"{np.mean(zero):.2f}", f"{np.mean(one):.2f}")
        found.setdefault("power", []).append([subject.name, name, cost, sum(zero), sum(one), draws])


def part_blame(
    subject: Subject, clean: Pool, reference: Reference, draws: int, found: dict[str, Any]
) -> None:
    """A shift of half a deviation in every other channel of what one BatchNorm gives."""
    random = np.random.default_rng(14)
    layers = np.unique(np.linspace(0, len(reference.layers) - 1, 6).astype(int))
    count = min(300, len(clean))
    for index in layers:
        layer = reference.layers[index]

        def answer(call: Call, layer: Any = layer) -> torch.Tensor:
            result = call.as_called()
            if call.name == layer.name:
                by = torch.tensor(0.5 * layer.deviation * (np.arange(layer.channels) % 2), dtype=result.dtype)
                result = result + by.view(-1, *[1] * (result.dim() - 2))
            return result

        pool = planted(subject, subject.frames[:count], reference, answer)
        zero, one = [], []
        for draw in range(draws):
            held = CALIBRATION[draw % len(CALIBRATION)]
            held_out = clean.take(count + random.permutation(len(clean) - count)[:held])
            results = verdicts(pool.take(random.permutation(count)[:POWER_WINDOW]), held_out, reference)
            for right, result in zip((zero, one), results, strict=True):
                right.append(result.origin is not None and result.origin.name == layer.name)
        row(subject.name, layer.name, f"{np.mean(zero):.2f}", f"{np.mean(one):.2f}")
        found.setdefault("blame", []).append([subject.name, layer.name, sum(zero), sum(one), draws])


def planted(subject: Subject, frames: torch.Tensor, reference: Reference, answer: Any) -> Pool:
    """The taps of a network whose BatchNorms answer otherwise."""
    seen: dict[str, list[Array]] = {layer.name: [] for layer in reference.layers}

    def watch(call: Call) -> torch.Tensor:
        result: torch.Tensor = answer(call)
        if call.name in seen:
            seen[call.name].append(result.reshape(len(result), result.shape[1], -1).double().mean(2).numpy())
        return result

    with torch.no_grad(), answering(subject.module, watch):
        scores = torch.cat([subject.module(part) for part in frames.split(200)]).numpy()
    means = [np.concatenate(parts) for parts in seen.values()]
    return Pool(frames.numpy(), Taps.of(means, reference, scores))


LONGEST = 3000
ONSET = 64
PATIENCE = 400


def stream(monitor: Monitor, pool: Pool, chosen: Array) -> int | None:
    """Feed frames of the pool; at which of them the alarm came."""
    layers = monitor.reference.layers
    for number, index in enumerate(chosen):
        z = np.split(pool.taps.values[index], np.cumsum(pool.taps.sizes)[:-1])
        means = []
        for part, layer, live in zip(z, layers, pool.taps.channels, strict=True):
            row = layer.mean.copy()
            row[live] += part * layer.deviation[live]
            means.append(row)
        found = monitor.update(means, frame=pool.frames[index])
        if any(finding.code == "BNF-A017" for finding in found):
            return number
    return None


def monitors(clean: Pool, held: Array, reference: Reference) -> tuple[Monitor, Monitor]:
    return Monitor(reference), Monitor(reference, baseline=Baseline.of(clean.taps.values[held]))


def part_online(
    subject: Subject, clean: Pool, reference: Reference, draws: int, found: dict[str, Any]
) -> None:
    """Clean streams: frames drawn anew, up to 3,000 of them or to the first alarm."""
    random = np.random.default_rng(15)
    runs: dict[int, list[int]] = {0: [], 1: []}
    ended: dict[int, int] = {0: 0, 1: 0}
    for draw in range(draws):
        held = CALIBRATION[draw % len(CALIBRATION)]
        order = random.permutation(len(clean))
        for monitor in monitors(clean, order[:held], reference):
            at = stream(monitor, clean, random.choice(order[held:], LONGEST))
            runs[monitor.tier].append(LONGEST if at is None else at + 1)
            ended[monitor.tier] += at is not None
    for tier in (0, 1):
        frames = sum(runs[tier])
        mean = f"{frames / ended[tier]:,.0f}" if ended[tier] else f"above {frames:,}"
        row(subject.name, f"tier {tier}", draws, f"{frames:,}", ended[tier], mean)
        found.setdefault("online", []).append([subject.name, tier, runs[tier], ended[tier]])


def part_delay(
    subject: Subject, clean: Pool, reference: Reference, draws: int, found: dict[str, Any]
) -> None:
    """Drift that begins after 64 clean frames, at any place between two looks: frames until the alarm."""
    random = np.random.default_rng(16)
    before = accuracy(clean.taps, subject.labels)
    count = min(300, len(clean))
    for name, corrupt in CORRUPTIONS.items():
        pool, _ = pool_of(subject, corrupt(subject.frames[:count]))
        cost = before - accuracy(pool.taps, subject.labels)
        if cost < HARM:
            continue
        delays: dict[int, list[float]] = {0: [], 1: []}
        for draw in range(draws):
            held = CALIBRATION[draw % len(CALIBRATION)]
            order = count + random.permutation(len(clean) - count)
            for monitor in monitors(clean, order[:held], reference):
                stream(monitor, clean, random.choice(order[held:], ONSET + int(random.integers(8))))
                if monitor.drifted:
                    monitor.reset()
                at = stream(monitor, pool, random.choice(count, PATIENCE))
                delays[monitor.tier].append(np.inf if at is None else at + 1)
        shown = [f"{np.median(delays[t]):.0f}" for t in (0, 1)]
        row(subject.name, name, f"{cost:+.3f}", *shown)
        found.setdefault("delay", []).append([subject.name, name, cost, delays[0], delays[1]])


PARTS = {
    "null": (part_null, ("network", "frames", "tier 0", "tier 1", "t, Bonferroni", "judged"), 1.0),
    "repeats": (part_repeats, ("network", "frames", "tier 0", "tier 1", "t, Bonferroni", "judged"), 0.5),
    "power": (part_power, ("network", "corruption", "accuracy lost", "tier 0", "tier 1"), 0.3),
    "blame": (part_blame, ("network", "planted in", "tier 0", "tier 1"), 0.3),
    "online": (part_online, ("network", "", "streams", "frames", "false alarms", "mean run"), 0.3),
    "delay": (part_delay, ("network", "corruption", "accuracy lost", "tier 0", "tier 1"), 0.12),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    parser.add_argument("--only", default=",".join(SUBJECTS), help="networks, with commas")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas")
    parser.add_argument("--draws", type=int, default=100, help="calibration sets of the null part")
    parser.add_argument("--frames", type=int, default=3000, help="held-out frames to draw from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        subject = SUBJECTS[name](options.data, options.frames)
        clean, reference = pool_of(subject, subject.frames)
        print(
            f"\n{name}: {reference.channels} channels in {len(reference.layers)} layers, "
            f"accuracy {accuracy(clean.taps, subject.labels):.3f}, {tails(clean.taps)}\n"
        )
        kept = CACHE / f"{name}.json"
        found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
        for part in options.parts.split(","):
            run, heads, share = PARTS[part]
            found.pop(part, None)
            row(*heads)
            row(*["---"] * len(heads))
            run(subject, clean, reference, max(1, round(share * options.draws)), found)
            print(flush=True)
            kept.write_text(json.dumps(found, indent=1))
    return 0


def tails(taps: Taps) -> str:
    """How heavy the channels' tails are: kurtosis, 3 for a normal one."""
    deviation = np.maximum(taps.values.std(axis=0, dtype=float), 1e-12)
    kurtosis = np.square(np.square((taps.values - taps.values.mean(axis=0)) / deviation)).mean(axis=0)
    median, high, most = np.quantile(kurtosis, [0.5, 0.99, 1])
    return f"kurtosis {median:.1f} in the median channel, {high:.0f} at 99%, {most:.0f} at most"


if __name__ == "__main__":
    sys.exit(main())
