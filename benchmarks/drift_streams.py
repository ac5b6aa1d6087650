"""The monitor of bnfold.drift over streams: frames between false alarms, and frames until drift is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from drift_networks import SHIFTED
from drift_pools import Array, Bench, Pool, row

from bnfold.drift import Baseline, Monitor
from bnfold.drift.distributions import normal_quantile
from bnfold.errors import UsageError

LONGEST = 4000
ONSET = 64
PATIENCE = 400


def stream(monitor: Monitor, pool: Pool, chosen: Array) -> int | None:
    """Feed frames of the pool; how many it took to the alarm."""
    layers = monitor.reference.layers
    edges = np.cumsum(pool.taps.sizes)[:-1]
    for number, index in enumerate(chosen, start=1):
        means = []
        z = np.split(pool.taps.values[index], edges)
        for part, layer, live in zip(z, layers, pool.taps.channels, strict=True):
            raw = layer.mean.copy()
            raw[live] += part * layer.deviation[live]
            means.append(raw)
        found = monitor.update(means, frame=pool.frames[index][None])
        if any(finding.code == "BNF-A017" for finding in found):
            return number
    return None


def monitors(bench: Bench, held: Array) -> Iterator[Monitor]:
    """Tier 0 and tier 1."""
    yield Monitor(bench.reference)
    yield Monitor(bench.reference, baseline=_baseline(bench, held))


def _baseline(bench: Bench, held: Array) -> Baseline:
    layout = None if bench.clean.layout is None else bench.clean.layout[held]
    return Baseline.of(bench.clean.taps.values[held], layout=layout)


def _calibration(bench: Bench, order: Array, count: int) -> tuple[Array, Array]:
    """``count`` held-out frames, and the others.

    Frames in random order may look as if they were of few scenes, by chance: then a monitor asks for others,
    and gets the next ones.
    """
    for start in range(0, len(order) - count, count):
        held = order[start : start + count]
        try:
            Monitor(bench.reference, baseline=_baseline(bench, held))
        except UsageError as error:
            if error.code != "BNF-U143":
                raise
        else:
            return held, order[~np.isin(order, held)]
    raise RuntimeError(f"{bench.subject.name}: no {count} frames look independent")


def part_online(bench: Bench) -> None:
    """Clean streams: frames drawn anew, up to 4,000 of them or to the first alarm."""
    draws = bench.count(0.25)
    runs: dict[int, list[int]] = {0: [], 1: []}
    alarms = {0: 0, 1: 0}
    for draw in range(draws):
        made = bench.record.get(("online", draw, LONGEST), lambda draw=draw: _clean(bench, draw))
        for tier in (0, 1):
            frames, alarm = made[f"tier {tier}"]
            runs[tier].append(frames)
            alarms[tier] += alarm
    for tier in (0, 1):
        frames, count = sum(runs[tier]), alarms[tier]
        mean = f"{frames / count:,.0f}" if count else f"over {frames:,}"
        row(bench.subject.name, f"tier {tier}", draws, f"{frames:,}", count, mean,
            f"{frames / most_alarms(count):,.0f}")  # fmt: skip


def most_alarms(count: int) -> float:
    """The upper limit, 95% on one side, of a Poisson mean of which ``count`` were seen.

    Half of chi-square's quantile with 2 count + 2 degrees of freedom, by Wilson and Hilferty; exact for none.
    """
    if not count:
        return float(-np.log(0.05))
    degrees = 2 * count + 2
    return float(
        degrees / 2 * (1 - 2 / (9 * degrees) + normal_quantile(0.95) * (2 / (9 * degrees)) ** 0.5) ** 3
    )


def _clean(bench: Bench, draw: int) -> dict[str, Any]:
    random = np.random.default_rng([15, draw])
    order = random.permutation(len(bench.clean))
    held, rest = _calibration(bench, order, bench.held(draw))
    chosen = random.choice(rest, LONGEST)
    found = {}
    for monitor in monitors(bench, held):
        at = stream(monitor, bench.clean, chosen)
        found[f"tier {monitor.tier}"] = (LONGEST if at is None else at, at is not None)
    return found


def part_delay(bench: Bench) -> None:
    """Drift that begins after 64 clean frames or a few more: frames until the alarm, the median."""
    draws, subject = bench.count(0.25), bench.subject
    for number, (name, make) in enumerate(subject.shifts.items()):

        def compute(name: str = name, make: Any = make, number: int = number) -> dict[str, Any]:
            pool, error = bench.shifted(name, make)
            harmful = subject.harmful(bench.before, error)
            return {**(_delays(bench, pool, number, draws) if harmful else {}), "error": error}

        made = bench.record.get(("delay", name, draws), compute)
        if "tier 0" in made:
            shown = [_middle(made[f"tier {tier}"]) for tier in (0, 1)]
            row(subject.name, name, subject.cost(bench.before, made["error"]), *shown)


def _delays(bench: Bench, pool: Pool, number: int, draws: int) -> dict[str, list[int | None]]:
    found: dict[str, list[int | None]] = {"tier 0": [], "tier 1": []}
    few = min(SHIFTED, len(bench.clean))
    for draw in range(draws):
        random = np.random.default_rng([16, number, draw])
        order = few + random.permutation(len(bench.clean) - few)
        held, rest = _calibration(bench, order, bench.held(draw))
        before = random.choice(rest, ONSET + int(random.integers(8)))
        after = random.choice(len(pool), PATIENCE)
        for monitor in monitors(bench, held):
            stream(monitor, bench.clean, before)
            if monitor.drifted:
                monitor.reset()
            found[f"tier {monitor.tier}"].append(stream(monitor, pool, after))
    return found


def _middle(delays: list[int | None]) -> str:
    median = float(np.median([np.inf if delay is None else delay for delay in delays]))
    return f"{median:.0f}" if np.isfinite(median) else f"over {PATIENCE}"
