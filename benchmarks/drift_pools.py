"""Frames of the drift experiment with what they give, and the verdicts on windows of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drift_networks import ROOT, SHIFTED, Shifted, Subject
from numpy.typing import NDArray

from bnfold.drift.blocks import Blocks, blocks_of
from bnfold.drift.distributions import clopper_pearson, t_quantile
from bnfold.drift.layout import layout_of
from bnfold.drift.reference import SQUARES, Reference
from bnfold.drift.result import TierResult
from bnfold.drift.taps import Taps
from bnfold.drift.tiers import tier_0, tier_1
from bnfold.statistics.observe import Call, answering
from bnfold.statistics.taps import tap

CALIBRATION = (50, 100, 200)
_DEALS = 399
Array = NDArray[Any]


@dataclass
class Pool:
    """Frames and what they give."""

    frames: Array
    taps: Taps
    layout: Array | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, chosen: Array) -> Pool:
        layout = None if self.layout is None else self.layout[chosen]
        return Pool(self.frames[chosen], self.taps.take(chosen), layout)

    def blocks(self) -> Blocks:
        return blocks_of(self.frames, self.taps.values, self.taps.sizes)


def pool_of(subject: Subject, frames: torch.Tensor, squares: bool = False) -> tuple[Pool, Reference]:
    """The frames through the network, and its reference; ``squares``: with second moments."""
    parts = [tap(subject.module, part.numpy(), second_moments=squares) for part in frames.split(100)]
    reference = parts[0].reference
    taps = [Taps.of(part.means, reference, part.scores) for part in parts]
    scores = np.concatenate([part.scores for part in taps])
    values = np.concatenate([part.values for part in taps])
    pictures = frames.numpy()
    found = Taps(values, taps[0].sizes, taps[0].channels, scores)
    return Pool(pictures, found, layout_of({"": pictures})), reference


def planted(subject: Subject, reference: Reference, index: int, by: float = 0.5) -> Pool:
    """The first held-out frames, where one BatchNorm's output is off by ``by`` in every other channel."""
    layer = reference.layers[index]
    seen: dict[str, list[Array]] = {one.name: [] for one in reference.layers}
    centers = {one.name: torch.from_numpy(one.mean)[:, None] for one in reference.layers}
    frames = subject.frames[:SHIFTED]
    shift = torch.tensor(by * layer.deviation * (np.arange(layer.channels) % 2), dtype=frames.dtype)

    def answer(call: Call) -> torch.Tensor:
        result: torch.Tensor = call.as_called()
        if call.name == layer.name:
            result = result + shift.view(-1, *[1] * (result.dim() - 2))
        rows = result.reshape(len(result), result.shape[1], -1).double()
        if call.name in seen:
            seen[call.name].append(rows.mean(2).numpy())
        if (squares := call.name + SQUARES) in seen:
            seen[squares].append((rows - centers[call.name]).square().mean(2).numpy())
        return result

    with torch.no_grad(), answering(subject.module, answer):
        scores = torch.cat([subject.module(part) for part in frames.split(100)]).numpy()
    means = [np.concatenate(parts) for parts in seen.values()]
    pictures = frames.numpy()
    return Pool(pictures, Taps.of(means, reference, scores), layout_of({"": pictures}))


def verdicts(window: Pool, held_out: Pool, before: Blocks, reference: Reference) -> tuple[TierResult, ...]:
    """What ``check`` says with a baseline: tier 0, tier 1. ``before``: the blocks of the held-out frames."""
    now = window.blocks()
    return (
        tier_0(window.taps, now, reference, train_batch=32),
        tier_1(
            window.taps,
            now,
            held_out.taps.values,
            before,
            reference,
            deals=_DEALS,
            layouts=(window.layout, held_out.layout),
        ),
    )


def bonferroni(window: Pool, held_out: Pool) -> bool:
    """The usual test: one t for each channel, corrected for their number."""
    now, before = window.taps.values.astype(float), held_out.taps.values.astype(float)
    error = before.std(axis=0, ddof=1) * np.sqrt(1 / len(now) + 1 / len(before))
    t = np.abs(now.mean(axis=0) - before.mean(axis=0)) / np.maximum(error, 1e-12)
    return bool((t > t_quantile(0.025 / now.shape[1], len(before) - 1)).any())


def rate(hits: int, trials: int) -> str:
    low, high = clopper_pearson(hits, trials)
    return f"{hits} of {trials}, {hits / trials:.1%} [{low:.1%}, {high:.1%}]"


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


@dataclass
class Record:
    """Rows that are computed once: a run that was broken off goes on where it was.

    They belong to the method as it stands, that is to the source of ``bnfold.drift``: ``folder`` is named
    after its digest.
    """

    path: Path
    rows: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, name: str) -> Record:
        digest = hashlib.sha256()
        for source in sorted((ROOT / "bnfold" / "drift").glob("*.py")):
            digest.update(source.read_bytes())
        path = folder / digest.hexdigest()[:8] / f"{name}.json"
        return cls(path, json.loads(path.read_text()) if path.exists() else {})

    def get(self, key: Iterable[object], make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The row of this key, computed only if it is not there."""
        name = " / ".join(str(part) for part in key)
        if name not in self.rows:
            self.rows[name] = dict(make())
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.rows, indent=1))
            part.replace(self.path)
        found: Mapping[str, Any] = self.rows[name]
        return found


@dataclass
class Bench:
    """One network with its held-out frames, and where its rows go."""

    subject: Subject
    clean: Pool
    reference: Reference
    record: Record
    draws: int
    _shifted: dict[str, tuple[Pool, float]] = field(default_factory=dict)

    @property
    def before(self) -> float:
        """The error on held-out frames."""
        return self.subject.error(self._scores(self.clean), self.subject.answers)

    def count(self, share: float) -> int:
        return max(1, round(share * self.draws * self.subject.share))

    def held(self, draw: int) -> int:
        """The size of the calibration set of this draw."""
        return CALIBRATION[draw % len(CALIBRATION)]

    def shifted(self, name: str, make: Callable[[], Shifted]) -> tuple[Pool, float]:
        """Frames of a shift, and the error on them."""
        if name not in self._shifted:
            frames, answers = make()
            squares = any(layer.moment == 2 for layer in self.reference.layers)
            pool, _ = pool_of(self.subject, frames, squares)
            self._shifted[name] = pool, self.subject.error(self._scores(pool), answers)
        return self._shifted[name]

    @staticmethod
    def _scores(pool: Pool) -> Array:
        assert pool.taps.scores is not None
        return pool.taps.scores
