"""Every cause of the catalogue in three sample models: named, at the right layer, with the right remedy.

The whole table is printed by ``make bench-diagnosis``; this is the same with fewer models and seeds.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.diagnosis import judge, said_of
from sample_models.faults import CAUSES, SITUATIONS, plant, samples_for, spare

MODELS = ("mlp_before", "resnet", "mobilenet_v2")
CASES = [(cause, sample, seed) for cause in CAUSES for seed, sample in enumerate(MODELS)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("cause", "sample", "seed"), CASES)
def test_the_cause_is_named(cause: int, sample: str, seed: int) -> None:
    assert sample in samples_for(cause)
    case = judge(plant(sample, cause, seed))
    told = f"{case.first.code} at {case.first.where}: {case.first.message}" if case.first else "nothing"
    assert case.named, told
    assert case.layer, told
    assert case.channels, told
    assert case.remedy, f"{told}; {case.first.remedy if case.first else ''}"


@pytest.mark.parametrize("sample", MODELS)
@pytest.mark.parametrize("situation", list(SITUATIONS))
def test_the_same_evidence_of_a_healthy_model_is_no_error(situation: str, sample: str) -> None:
    evidence = spare(sample, situation, 0)
    for state in evidence.states:
        diagnosed, audited = said_of(evidence, state)
        assert [one.message for one in (*diagnosed, *audited) if one.severity == "error"] == []
