"""Each planted fault really is what it says, by numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bnfold
from bnfold.checkpoint import read
from sample_models.faults import CAUSES, SAMPLES, PlantedFault, plant, samples_for
from sample_models.faults.norms import BatchNorm, norms
from sample_models.faults.planted import WHOLE, State

torch.set_num_threads(1)

QUICK = ("mlp_before", "resnet", "mobilenet_v2", "densenet", "vgg", "mlp_after")


def state(fault: PlantedFault) -> State:
    return fault.evidence.states[fault.state]


def mean_of(fault: PlantedFault, layer: str) -> torch.Tensor:
    return state(fault)[f"{layer}.running_mean"]


def var_of(fault: PlantedFault, layer: str) -> torch.Tensor:
    return state(fault)[f"{layer}.running_var"]


def healthy_state(fault: PlantedFault) -> State:
    return SAMPLES[fault.evidence.sample].load().state_dict()


def in_order(fault: PlantedFault) -> list[str]:
    module = SAMPLES[fault.evidence.sample].load()
    return list(norms(module, fault.evidence.frames[:1]))


def parameters_are_the_healthy_ones(fault: PlantedFault) -> bool:
    names = [name for name, _ in SAMPLES[fault.evidence.sample].load().named_parameters()]
    healthy = healthy_state(fault)
    return all(torch.allclose(state(fault)[name], healthy[name], rtol=1e-6, atol=0) for name in names)


def seeds(cause: int) -> list[tuple[str, int]]:
    """Three networks with an even and an odd seed each."""
    chosen = [name for name in QUICK if name in samples_for(cause)][:3]
    return [(name, seed) for seed, name in enumerate(chosen * 2, start=cause)]


def cases(cause: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("sample", "seed"), seeds(cause))


def test_the_layers_of_a_network_are_registered_as_they_run() -> None:
    """So that the first layer to blame is the same from the file and from the network."""
    for sample in SAMPLES.values():
        module = sample.load()
        named = [path for path, part in module.named_modules() if isinstance(part, BatchNorm)]
        assert list(norms(module, sample.held_out(0)[:1])) == named


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_the_same_seed_plants_the_same_fault_and_another_one_another(cause: int) -> None:
    name = samples_for(cause)[-1]
    first, again, other = (plant(name, cause, seed) for seed in (4, 4, 5))
    for key, value in state(first).items():
        assert torch.equal(value.nan_to_num(7), state(again)[key].nan_to_num(7))
    assert (first.layer, first.channels, first.how) == (again.layer, again.channels, again.how)
    assert torch.equal(first.evidence.frames, again.evidence.frames)
    assert not torch.equal(first.evidence.frames, other.evidence.frames)


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_a_fault_matters_and_its_evidence_can_be_written(cause: int, tmp_path: Path) -> None:
    name = samples_for(cause)[0]
    fault = plant(name, cause, 1)
    assert len(samples_for(cause)) >= 3
    assert fault.cause == cause
    assert fault.layer in in_order(fault)
    files = fault.evidence.write(tmp_path)
    written = read(files.checkpoint)
    assert list(written.state_dicts) == list(fault.evidence.states)
    for key, value in state(fault).items():
        assert torch.equal(written.state_dicts[fault.state][key].nan_to_num(7), value.nan_to_num(7))
    loaded = bnfold.load(files.checkpoint, files.options[1])
    assert list(loaded.state_dict()) == list(fault.module().state_dict())


def test_a_cause_that_cannot_come_about_is_refused() -> None:
    with pytest.raises(ValueError, match="cause 3 cannot come about in vgg"):
        plant("vgg", 3)


def poisoned(fault: PlantedFault) -> None:
    """What a batch that is not finite leaves behind, in causes 1 and 2."""
    assert parameters_are_the_healthy_ones(fault)
    order = in_order(fault)
    bad = {path: ~(mean_of(fault, path).isfinite() & var_of(fault, path).isfinite()) for path in order}
    assert next(path for path in order if bad[path].any()) == fault.layer
    channels = fault.channels or tuple(range(len(bad[fault.layer])))
    assert tuple(int(c) for c in bad[fault.layer].nonzero().flatten()) == channels
    with torch.no_grad():
        assert not fault.module()(fault.evidence.frames[:8]).isfinite().any()
        assert fault.module().train()(fault.evidence.frames[:8]).isfinite().all()


@cases(1)
def test_1_a_bad_batch(sample: str, seed: int) -> None:
    fault = plant(sample, 1, seed)
    poisoned(fault)
    assert fault.evidence.steps == int(state(fault)[f"{fault.layer}.num_batches_tracked"])
    assert (fault.channels is None) == (seed % 2 == 0)


@cases(2)
def test_2_a_bad_average(sample: str, seed: int) -> None:
    fault = plant(sample, 2, seed)
    poisoned(fault)
    assert list(fault.evidence.states) == ["model", "ema"]
    assert all(value.isfinite().all() for value in fault.evidence.states["model"].values())
    with torch.no_grad():
        assert fault.evidence.module("model")(fault.evidence.frames).isfinite().all()


@cases(3)
def test_3_a_single_value_per_channel(sample: str, seed: int) -> None:
    fault = plant(sample, 3, seed)
    assert parameters_are_the_healthy_ones(fault)
    order = in_order(fault)
    assert all(mean_of(fault, path).isfinite().all() for path in order)
    gone = [path for path in order if not var_of(fault, path).isfinite().any()]
    assert gone[0] == fault.layer
    assert all(var_of(fault, path).isfinite().all() for path in order if path not in gone)
    with torch.no_grad():
        assert not fault.module()(fault.evidence.frames[:8]).isfinite().any()


@cases(4)
def test_4_an_average_that_has_not_converged(sample: str, seed: int) -> None:
    """The initial value's share, divided out, leaves the statistics of the batches."""
    fault = plant(sample, 4, seed)
    assert parameters_are_the_healthy_ones(fault)
    healthy, order = healthy_state(fault), in_order(fault)
    assert order[0] == fault.layer
    assert fault.evidence.steps is not None
    share = 0.9**fault.evidence.steps
    assert 0.3 <= share <= 0.75
    for path in order:
        assert int(state(fault)[f"{path}.num_batches_tracked"]) == fault.evidence.steps
        var, mean = (var_of(fault, path) - share) / (1 - share), mean_of(fault, path) / (1 - share)
        assert (var > -1e-6).all()
        deviation = healthy[f"{path}.running_var"].sqrt() + 1e-3
        before = ((mean_of(fault, path) - healthy[f"{path}.running_mean"]) / deviation).abs().mean()
        after = ((mean - healthy[f"{path}.running_mean"]) / deviation).abs().mean()
        assert after < 0.5 * before or after < 0.1


@cases(5)
def test_5_statistics_never_updated(sample: str, seed: int) -> None:
    fault = plant(sample, 5, seed)
    assert parameters_are_the_healthy_ones(fault)
    order = in_order(fault)
    assert order[0] == fault.layer
    for path in order:
        assert not mean_of(fault, path).any()
        assert (var_of(fault, path) == 1).all()
        assert int(state(fault)[f"{path}.num_batches_tracked"]) == 0
    assert list(fault.evidence.states) == ([WHOLE] if seed % 2 else ["model", "ema"])
    changed(fault, lambda answers, healthy: (answers - healthy).abs().max() > 1)


@cases(6)
def test_6_a_channel_without_variance(sample: str, seed: int) -> None:
    fault = plant(sample, 6, seed)
    assert fault.channels is not None
    (channel,) = fault.channels
    norm = fault.module().get_submodule(fault.layer)
    assert isinstance(norm, BatchNorm)
    gain = norm.weight.detach().abs() / (var_of(fault, fault.layer) + norm.eps).sqrt()
    assert var_of(fault, fault.layer)[channel] < 1e-7 * norm.eps
    assert int(gain.argmax()) == channel
    assert gain[channel] > 10 * gain.median()
    changed(fault, lambda answers, healthy: (answers - healthy).abs().max() > 0.2)


@cases(7)
def test_7_a_negative_variance(sample: str, seed: int) -> None:
    fault = plant(sample, 7, seed)
    order = in_order(fault)
    negative = {path: (var_of(fault, path) < 0).nonzero().flatten().tolist() for path in order}
    assert next(path for path in order if negative[path]) == fault.layer
    assert tuple(negative[fault.layer]) == fault.channels
    with torch.no_grad():
        assert fault.module()(fault.evidence.frames[:8]).isnan().any()


@cases(8)
def test_8_more_than_half_precision_holds(sample: str, seed: int) -> None:
    fault = plant(sample, 8, seed)
    order = in_order(fault)
    beyond = {path: (var_of(fault, path) > 65504).nonzero().flatten().tolist() for path in order}
    assert next(path for path in order if beyond[path]) == fault.layer
    assert tuple(beyond[fault.layer]) == fault.channels
    if seed % 2:
        assert var_of(fault, fault.layer).dtype == torch.float16
        assert var_of(fault, fault.layer).isinf().any()
        return
    raw = SAMPLES[sample].raw
    with torch.no_grad():
        right = SAMPLES[sample].load()(fault.evidence.frames / raw)
        single = fault.module()(fault.evidence.frames)
        half = fault.module().half()(fault.evidence.frames.half()).float()
    assert (single.argmax(1) == right.argmax(1)).float().mean() > 0.9
    assert not (half.argmax(1) == right.argmax(1)).float().mean() > 0.5


@cases(16)
def test_16_the_mean_in_place_of_the_variance(sample: str, seed: int) -> None:
    fault = plant(sample, 16, seed)
    assert parameters_are_the_healthy_ones(fault)
    order = in_order(fault)
    same = [path for path in order if torch.equal(mean_of(fault, path), var_of(fault, path))]
    assert same == ([fault.layer] if seed % 2 else order)
    changed(
        fault, lambda answers, healthy: not answers.isfinite().all() or (answers - healthy).abs().max() > 1
    )


def changed(fault: PlantedFault, differ: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
    """The broken network's answers are not the healthy one's."""
    with torch.no_grad():
        broken = fault.module()(fault.evidence.frames)
        healthy = SAMPLES[fault.evidence.sample].load()(fault.evidence.frames)
    assert differ(broken, healthy)
