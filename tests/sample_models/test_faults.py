"""Each planted fault really is what it says, by numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bnfold
from bnfold import modelspec
from bnfold.checkpoint import read
from sample_models.faults import CAUSES, SAMPLES, SITUATIONS, PlantedFault, plant, samples_for, spare
from sample_models.faults.norms import (
    BatchNorm,
    Statistics,
    effect,
    norms,
    observed,
    population,
    stored,
    update,
)
from sample_models.faults.planted import WHOLE, State
from sample_models.faults.shift import MARGIN
from tests.sample_models.material import ROOT

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
        order = norms(module, sample.held_out(0)[:1])
        assert list(order) == named
        assert {int(part.num_batches_tracked or 0) for part in order.values()} == {sample.steps}


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_the_same_seed_plants_the_same_fault_and_another_one_another(cause: int) -> None:
    name = samples_for(cause)[0]
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
    assert fault.layer.removeprefix("net.") in in_order(fault)
    files = fault.evidence.write(tmp_path)
    written = read(files.checkpoint)
    assert list(written.state_dicts) == list(fault.evidence.states)
    for key, value in state(fault).items():
        assert torch.equal(written.state_dicts[fault.state][key].nan_to_num(7), value.nan_to_num(7))
    loaded = bnfold.load(files.checkpoint, files.options[1], model_args=fault.evidence.model_args)
    assert list(loaded.state_dict()) == list(fault.module().state_dict())


def test_a_cause_that_cannot_come_about_is_refused() -> None:
    with pytest.raises(ValueError, match="cause 3 cannot come about in vgg"):
        plant("vgg", 3)


@pytest.mark.parametrize("situation", sorted(SITUATIONS))
@pytest.mark.parametrize("sample", ["mlp_after", "resnet", "lung_ct"])
def test_a_healthy_network_is_left_healthy(sample: str, situation: str) -> None:
    """Its statistics are those of held-out frames, and its answers the trained network's."""
    evidence = spare(sample, situation, 3)
    trained = SAMPLES[sample].load()
    order = norms(trained, evidence.frames[:1])
    for name, values in evidence.states.items():
        module = evidence.module(name)
        assert {int(values[f"{path}.num_batches_tracked"]) for path in order} == {evidence.steps}
        assert max(effect(population(module, evidence.frames), stored(module, order)).values()) < 2 * MARGIN
        with torch.no_grad():
            answers, expected = module(evidence.frames), trained(evidence.frames)
        if situation != "fine_tuned":
            assert (answers - expected).abs().mean() < 0.2 * expected.std()
    if evidence.against is not None:
        buffers = [name for name in evidence.against if "running" in name]
        assert all(torch.equal(evidence.states[WHOLE][name], evidence.against[name]) for name in buffers)


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


@cases(9)
def test_9_tiny_sorted_batches(sample: str, seed: int) -> None:
    fault = plant(sample, 9, seed)
    assert parameters_are_the_healthy_ones(fault)
    assert all(value.isfinite().all() for value in state(fault).values())
    the_first_layer_that_is_off(fault, stored(SAMPLES[sample].load(), in_order(fault)))
    changed(fault, lambda answers, healthy: (answers - healthy).abs().max() > 1)


def the_first_layer_that_is_off(fault: PlantedFault, right: Statistics) -> None:
    """By more than the margin; before recalibration held-out frames see a gap, after it they do not."""
    order = in_order(fault)
    effects = effect(right, stored(fault.module(), order))
    assert effects == fault.effects
    assert next(path for path in order if effects[path] > MARGIN) == fault.layer
    held_out = population(fault.module(), fault.evidence.frames)
    assert effect(held_out, stored(fault.module(), order))[fault.layer] > MARGIN
    assert max(effect(held_out, right).values()) < 2 * MARGIN


@cases(10)
def test_10_one_norm_for_two_domains(sample: str, seed: int) -> None:
    """Each call site would want statistics of its own; the stored ones lie between, and fit none."""
    fault = plant(sample, 10, seed)
    module, frames = fault.module(), fault.evidence.frames[:64]
    calls: list[torch.Tensor] = []
    layer = module.get_submodule(fault.layer)
    assert isinstance(layer, BatchNorm)
    handle = layer.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
    with torch.no_grad():
        module(frames)
    handle.remove()
    positive, negative = (call.transpose(0, 1).flatten(1) for call in calls)
    own = [(call.mean(1), call.var(1)) for call in (positive, negative)]
    mean, var = mean_of(fault, fault.layer), var_of(fault, fault.layer)
    for own_mean, own_var in own:
        far = torch.maximum(((mean - own_mean) / own_var.sqrt()).abs(), (var / own_var).log().abs() / 2)
        assert far.nan_to_num(0).max() > MARGIN
    assert fault.evidence.steps is not None
    assert int(state(fault)[f"{fault.layer}.num_batches_tracked"]) == 2 * fault.evidence.steps


@cases(11)
def test_11_updated_twice_a_step(sample: str, seed: int) -> None:
    fault = plant(sample, 11, seed)
    assert parameters_are_the_healthy_ones(fault)
    order, steps = in_order(fault), fault.evidence.steps
    assert steps is not None
    seen = {path: int(state(fault)[f"{path}.num_batches_tracked"]) for path in order}
    twice = [path for path in order if seen[path] == 2 * steps]
    assert twice[0] == fault.layer
    assert all(seen[path] == steps for path in order if path not in twice)
    assert all(value.isfinite().all() for value in state(fault).values())


def test_11_the_second_update_really_happens() -> None:
    """The same batches with and without checkpointing give the statistics of two updates and of one."""
    once, twice = SAMPLES["resnet"].load(), plant("resnet", 11, 0)
    update(once, [batch.frames for batch in SAMPLES["resnet"].batches(0, 12, 8)])
    reference = SAMPLES["resnet"].load()
    for batch in SAMPLES["resnet"].batches(0, 12, 8):
        update(reference, [batch.frames, batch.frames])
    for path, (mean, var) in stored(reference, in_order(twice)).items():
        assert torch.allclose(mean, mean_of(twice, path).double(), rtol=1e-4, atol=1e-5)
        assert torch.allclose(var, var_of(twice, path).double(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(var, stored(once, [path])[path][1], rtol=1e-3)


@cases(12)
def test_12_a_frozen_backbone_that_drifts(sample: str, seed: int) -> None:
    fault = plant(sample, 12, seed)
    before, order = fault.evidence.against, in_order(fault)
    assert before is not None
    healthy = healthy_state(fault)
    assert all(torch.equal(before[name], value) for name, value in healthy.items())
    module = SAMPLES[sample].load()
    names = [name for name, _ in module.named_parameters()]
    moved = {name for name in names if not torch.equal(state(fault)[name], before[name])}
    head = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)][-1]
    assert moved == {f"{head}.weight", f"{head}.bias"}
    assert all(not torch.equal(mean_of(fault, path), before[f"{path}.running_mean"]) for path in order)
    assert order[0] == fault.layer
    assert fault.effects[fault.layer] > MARGIN


@cases(13)
def test_13_ranks_that_disagree(sample: str, seed: int) -> None:
    fault = plant(sample, 13, seed)
    other, order = fault.evidence.against, in_order(fault)
    assert other is not None
    assert parameters_are_the_healthy_ones(fault)
    buffers = {f"{path}.{name}" for path in order for name in ("running_mean", "running_var")}
    assert {name for name in other if not torch.equal(other[name], state(fault)[name])} == buffers
    assert order[0] == fault.layer
    counts = [
        int(states[f"{path}.num_batches_tracked"]) for states in (other, state(fault)) for path in order
    ]
    assert set(counts) == {fault.evidence.steps}


@cases(14)
def test_14_statistics_of_other_weights(sample: str, seed: int) -> None:
    fault = plant(sample, 14, seed)
    healthy, order = healthy_state(fault), in_order(fault)
    for path in order:
        assert torch.equal(mean_of(fault, path), healthy[f"{path}.running_mean"])
        assert torch.equal(var_of(fault, path), healthy[f"{path}.running_var"])
    assert not parameters_are_the_healthy_ones(fault)
    the_first_layer_that_is_off(fault, population(fault.module(), SAMPLES[sample].pool().frames[:256]))


@cases(15)
def test_15_answers_depend_on_the_batch(sample: str, seed: int) -> None:
    fault = plant(sample, 15, seed)
    module, frames = fault.module(), fault.evidence.frames
    with torch.no_grad():
        together, beside = module(frames[:16]), module(torch.cat([frames[:1], frames[-15:]]))
        healthy = SAMPLES[sample].load()(frames[:16])
        alone = SAMPLES[sample].load()(frames[:1])
    assert (together[0] - beside[0]).abs().max() > 0.02
    assert torch.allclose(healthy[0], alone[0], atol=1e-4)
    has = [name for name in state(fault) if "running_mean" in name]
    assert len(has) == (len(in_order(fault)) if seed % 2 else 0)


def test_15_a_functional_call_raises_on_a_batch_of_one() -> None:
    module = modelspec.build(f"{ROOT / 'faults' / 'networks.py'}:functional_norm").eval()
    frames = SAMPLES["vgg"].held_out(0)
    with torch.no_grad():
        together, other = module(frames[:8]), module(frames[:4])
        assert (together[:4] - other).abs().max() > 0.02
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            module(frames[:1])
    again = modelspec.build(f"{ROOT / 'faults' / 'networks.py'}:functional_norm").eval()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


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


@cases(17)
def test_17_a_real_shift(sample: str, seed: int) -> None:
    """Training-like frames agree with the statistics; those of the deployment do not."""
    fault = plant(sample, 17, seed)
    assert all(torch.equal(state(fault)[name], value) for name, value in healthy_state(fault).items())
    order, deployed = in_order(fault), fault.evidence.deployment
    assert deployed is not None
    module = fault.module()
    right = stored(module, order)
    on_device = effect(right, observed(module, order, deployed))
    assert on_device == fault.effects
    assert next(path for path in order if on_device[path] > MARGIN) == fault.layer
    assert (
        max(effect(right, observed(module, order, fault.evidence.frames)).values()) < on_device[fault.layer]
    )


def changed(fault: PlantedFault, differ: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
    """The broken network's answers are not the healthy one's."""
    with torch.no_grad():
        broken = fault.module()(fault.evidence.frames)
        healthy = SAMPLES[fault.evidence.sample].load()(fault.evidence.frames)
    assert differ(broken, healthy)
