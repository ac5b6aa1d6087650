"""Histograms of the worst channels: which they are, and that the counts are right."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from bnfold.statistics.batches import Batches
from bnfold.statistics.diagnose import examine
from bnfold.statistics.diagnose.collect import collect
from bnfold.statistics.diagnose.gap import Gap
from bnfold.statistics.diagnose.histograms import histograms, worst

from .networks import frames, sound


def gap(name: str, mean: list[float]) -> Gap:
    values, zero = np.array(mean), np.zeros(len(mean))
    return Gap(name, values, zero, zero, zero, 32, zero > 1, zero > 1, np.abs(values))


def test_the_worst_are_at_most_two_of_a_call_and_no_number_comes_first() -> None:
    gaps = {one.name: one for one in (gap("a", [1.0, -3.0, 2.0]), gap("b", [0.5, math.nan]), gap("c", [9.0]))}
    assert worst(gaps) == [("b", 1), ("c", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert worst(gaps, 2) == [("b", 1), ("c", 0)]
    assert worst({}) == []


def test_the_counts_are_those_of_the_outputs() -> None:
    module = sound()
    with torch.no_grad():
        module.bn1.running_mean[2] += 3 * module.bn1.running_var[2].sqrt()
    data = frames(40, seed=1)
    given = collect(Batches([data[:20], data[20:]], module))
    (one,) = histograms(copy.deepcopy(module), given.batches, [("bn1", 2)])
    with torch.no_grad():
        read = module.conv1(data)
        evaluated = module.bn1(read)[:, 2].double().numpy().ravel()
        weight, bias = float(module.bn1.weight[2].detach()), float(module.bn1.bias[2].detach())
        batches = [part[:, 2] for part in read.split([batch.frames for batch in given.batches])]
        scaled = [(x - x.mean()) / (x.var(correction=0) + module.bn1.eps).sqrt() for x in batches]
        trained = (torch.cat(scaled) * weight + bias).double().numpy().ravel()
    assert (one.train.sum(), one.evaluated.sum()) == (40 * 49, 40 * 49)
    for values, counts in ((trained, one.train), (evaluated, one.evaluated)):
        expected = np.histogram(np.clip(values, one.edges[0], one.edges[-1]), one.edges)[0]
        assert np.abs(expected - counts).sum() <= 4  # a value on an edge, rounded the other way
    middle = (one.edges[1:] + one.edges[:-1]) / 2
    means = [float(counts @ middle / counts.sum()) for counts in (one.train, one.evaluated)]
    assert means[1] - means[0] == pytest.approx(-3 * weight, rel=0.2)


def test_values_that_are_not_finite_are_counted() -> None:
    module = sound()
    module.bn2.running_var[3] = math.nan
    result = examine(module, [frames(32, seed=1)], worst_channels=3)
    first = result.histograms[0]
    assert (first.name, first.channel) == ("bn2", 3)
    assert first.not_finite == (0, 32 * 25)
    assert (int(first.train.sum()), int(first.evaluated.sum())) == (32 * 25, 0)
    told = result.to_json()["histograms"][0]
    assert told["not_finite"] == {"train": 0, "eval": 800}
    assert len(told["edges"]) == len(told["train"]) + 1 == len(told["eval"]) + 1


def test_a_mode_that_reaches_far_keeps_the_other_apart() -> None:
    module = sound()
    module.bn1.running_var[0] /= 1e8
    result = examine(module, [frames(32, seed=1)], worst_channels=1)
    one = result.histograms[0]
    assert (one.name, one.channel) == ("bn1", 0)
    assert (one.train > 0).sum() > 5
    assert one.edges[-1] > 100
    assert np.diff(one.edges).max() > 20 * np.diff(one.edges).min()


def test_they_are_made_on_request_only_and_change_nothing() -> None:
    module, batches = sound(), [frames(32, seed=1)]
    plain, more = examine(module, batches), examine(module, batches, worst_channels=6)
    assert plain.histograms == ()
    assert plain.to_json()["histograms"] == []
    assert len(more.histograms) == 6
    assert more.findings == plain.findings
    assert {**more.to_json(channels=True), "histograms": []} == plain.to_json(channels=True)


def test_memory_does_not_grow_with_the_frames() -> None:
    module = sound()
    given = collect(Batches([frames(600, seed=seed) for seed in range(3)], module))
    (one,) = histograms(module, given.batches, [("bn1", 0)])
    assert 19_000 < one.train.sum() <= 20_000
