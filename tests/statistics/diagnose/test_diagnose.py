"""A small network whose statistics are right, and one fault at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bnfold
from bnfold.errors import CaptureError
from bnfold.finding import Finding
from bnfold.statistics.batches import Batches
from bnfold.statistics.diagnose import examine, passes
from bnfold.statistics.subject import Subject
from tests.statistics.diagnose.networks import Small, fit, frames, sound

HELD_OUT = frames(256, seed=1)


def batches(data: Tensor, size: int = 32) -> list[Tensor]:
    return list(data.split(size))


def diagnosed(module: nn.Module, data: Tensor = HELD_OUT, **known: Any) -> list[Finding]:
    return bnfold.diagnose(module, batches(data), **known)


def errors(found: list[Finding]) -> list[str]:
    return [one.code for one in found if one.severity == "error"]


@pytest.mark.parametrize("count", [16, 33, 64, 256, 1000])
def test_a_sound_network_is_not_accused(count: int) -> None:
    for seed in range(3):
        assert diagnosed(sound(seed), frames(count, seed + 5)) == []


def test_the_order_of_the_frames_does_not_matter() -> None:
    level = HELD_OUT.mean(dim=(1, 2, 3))
    assert diagnosed(sound(), HELD_OUT[level.argsort()]) == []


def test_few_frames_are_no_evidence() -> None:
    module = sound()
    with torch.no_grad():
        module.bn1.running_mean += 10
    (found,) = diagnosed(module, HELD_OUT[:8])
    assert (found.code, found.severity) == ("BNF-A040", "info")
    assert found.evidence["frames"] == 8
    assert errors(diagnosed(module, HELD_OUT[:16])) == ["BNF-A032"]


def test_one_wrong_channel_is_named() -> None:
    module = sound()
    with torch.no_grad():
        module.bn2.running_mean[3] += 2 * module.bn2.running_var[3].sqrt()
    (found,) = diagnosed(module)
    assert (found.code, found.severity, found.where) == ("BNF-A032", "error", "bn2.running_mean[3]")
    assert found.evidence["channels"] == [3]
    assert found.evidence["layers"] == ["bn2"]
    assert found.evidence["mean_gap"] == pytest.approx(2, abs=0.25)
    assert "bnfold recalibrate" in found.remedy
    assert "--against" in found.evidence["separated_by"]


def test_the_first_layer_is_blamed_and_the_others_are_told() -> None:
    module = sound()
    with torch.no_grad():
        module.conv1.weight *= 2
        module.linear.weight *= 3
    (found,) = diagnosed(module)
    assert found.code == "BNF-A032"
    assert found.evidence["layer"] == "bn1"
    assert found.evidence["layers"] == ["bn1", "bn3"]


def test_statistics_never_updated_are_an_error_where_frames_show_it() -> None:
    module = sound()
    module.bn2.reset_running_stats()
    (found,) = diagnosed(module)
    assert (found.code, found.severity) == ("BNF-A005", "error")
    assert found.where.startswith("bn2.")
    assert found.evidence["gap"]["call"] == "bn2"
    assert "the frames show it" in found.message


def test_statistics_that_were_folded_into_the_parameters_stay_a_warning() -> None:
    """Mean 0 and variance 1 because the inputs are so: nothing is wrong."""
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()
    (found,) = diagnosed(module, torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    assert (found.code, found.severity) == ("BNF-A005", "warning")


@pytest.mark.parametrize(("weight", "severity"), [(0.5, "error"), (0.15, "warning")])
def test_the_initial_value_is_found_without_a_count(weight: float, severity: str) -> None:
    module = sound()
    with torch.no_grad():
        for norm in (module.bn1, module.bn2, module.bn3):
            norm.running_mean *= 1 - weight
            norm.running_var.mul_(1 - weight).add_(weight)
            norm.num_batches_tracked = None
    (found,) = diagnosed(module)
    assert (found.code, found.severity) == ("BNF-A004", severity)
    assert found.evidence["weight"] == pytest.approx(weight, abs=0.03)
    assert "--debias" in found.remedy


def test_a_count_that_frames_speak_against_is_no_error() -> None:
    module = sound()
    for norm in (module.bn1, module.bn2, module.bn3):
        norm.num_batches_tracked.fill_(3)
    (found,) = diagnosed(module)
    assert (found.code, found.severity) == ("BNF-A004", "warning")


def test_weights_that_changed_under_their_statistics() -> None:
    before, module = sound(), sound()
    with torch.no_grad():
        module.conv2.weight *= 0.5
    (found,) = diagnosed(module, against=before)
    assert (found.code, found.evidence["layer"]) == ("BNF-A014", "bn2")
    (found,) = diagnosed(module)
    assert found.code == "BNF-A032"


def test_a_frozen_layer_whose_statistics_moved() -> None:
    before, module = sound(), sound()
    with torch.no_grad():
        module.bn1.running_mean += 1
    module.bn1.num_batches_tracked += 50
    (found,) = diagnosed(module, against=before.state_dict())
    assert (found.code, found.severity, found.evidence["layer"]) == ("BNF-A012", "error", "bn1")


def test_small_gaps_that_add_up_are_told_with_their_cause() -> None:
    """Each of twelve layers is off by less than the margin; behind each other they are off by far more."""
    torch.manual_seed(0)
    module = nn.Sequential()
    for number in range(12):
        module.append(nn.Linear(8, 8))
        module.append(nn.BatchNorm1d(8))
        nn.init.eye_(module[2 * number].weight)
    module.eval()
    data = torch.randn(600, 8, generator=torch.Generator().manual_seed(1))
    fit(module, data)
    before = copy.deepcopy(module)
    with torch.no_grad():
        for part in module[1::2]:
            part.running_mean -= 0.15
    (found,) = diagnosed(module, data[:256])
    assert (found.code, found.severity, found.evidence["mode"]) == ("BNF-A032", "error", "eval")
    assert "add up" in found.message
    (found,) = diagnosed(module, data[:256], against=before)
    assert (found.code, found.severity, found.evidence["layer"]) == ("BNF-A013", "error", "1")
    assert found.evidence["mode"] == "eval"


def test_what_is_left_of_the_initial_value_adds_up_and_stays_one_warning() -> None:
    """A tenth of a variance of 1 where there are 9: a twentieth of each deviation, and half behind twelve."""
    module = nn.Sequential()
    for number in range(12):
        module.append(nn.Linear(8, 8))
        module.append(nn.BatchNorm1d(8))
        nn.init.eye_(module[2 * number].weight)
        nn.init.constant_(module[2 * number + 1].weight, 3)
    module.eval()
    data = 3 * torch.randn(600, 8, generator=torch.Generator().manual_seed(1))
    fit(module, data)
    weight = 0.9**22
    for part in module[1::2]:
        part.momentum = 0.1
        part.num_batches_tracked.fill_(22)
        part.running_mean *= 1 - weight
        part.running_var.mul_(1 - weight).add_(weight)
    (found,) = diagnosed(module, data[:256])
    assert (found.code, found.severity, found.evidence["layer"]) == ("BNF-A004", "warning", "1")
    assert found.evidence["mode"] == "eval"
    assert "add up" in found.message
    assert found.evidence["weight_on_frames"] == pytest.approx(weight, abs=0.03)


def test_statistics_inside_batches_of_one() -> None:
    module = sound()
    seen = passes.run(module, list(Batches(frames(2000, seed=99), module)), "train")
    module.bn1.running_var.copy_(torch.from_numpy(seen.readings["bn1"].input.within))
    module.bn2.running_var.copy_(torch.from_numpy(seen.readings["bn2"].input.within))
    (found,) = diagnosed(module)
    assert (found.code, found.evidence["layer"]) == ("BNF-A009", "bn1")
    assert found.evidence["missing"] == pytest.approx(1, abs=0.15)


# --- one BatchNorm at two places ------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self, second: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(2)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(x) + self.bn(self.second * x)
        return y


def test_one_batch_norm_at_two_places_whose_data_differ() -> None:
    module = Twice(4.0).eval()
    module.bn.running_mean.copy_(torch.tensor([1.25, 1.25]))
    module.bn.running_var.copy_(torch.tensor([18.0, 18.0]))
    module.bn.num_batches_tracked.fill_(500)
    (found,) = diagnosed(module)
    assert (found.code, found.severity, found.evidence["layer"]) == ("BNF-A010", "error", "bn")
    assert found.evidence["sites"] == ["bn", "bn#2"]


def test_one_batch_norm_at_two_places_whose_data_are_alike() -> None:
    module = Twice(1.0).eval()
    fit(module, frames(2000, seed=99))
    found = diagnosed(module)
    assert errors(found) == []


# --- values that are not finite -------------------------------------------------------------------


def test_a_poisoned_layer_is_told_once_with_what_it_does() -> None:
    module = sound()
    module.bn2.running_mean[1] = float("nan")
    found = diagnosed(module)
    assert errors(found) == ["BNF-A001"]
    assert found[0].where == "bn2.running_mean[1]"
    assert found[0].evidence["breakdown"]["origin"]["module"] == "bn2"
    assert found[0].evidence["breakdown"]["source"] == "bn2.running_mean"


def test_a_layer_that_does_not_run_is_no_matter() -> None:
    module = sound()
    module.training_head = nn.BatchNorm1d(3)
    module.training_head.running_var.fill_(float("nan"))
    assert diagnosed(module) == []


def test_an_operator_that_is_to_blame_itself() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = sound()

        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(self.net(x))

    (found,) = diagnosed(Root().eval())
    assert (found.code, found.severity) == ("BNF-A041", "error")
    assert "square root of a negative" in found.message


def test_a_gain_that_explodes_is_traced_to_its_layer() -> None:
    class Power(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = sound()

        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(self.net(x))

    module = Power().eval()
    with torch.no_grad():
        module.net.bn3.running_var.fill_(1e-12)
        module.net.bn3.num_batches_tracked.fill_(500)
    result = examine(module, batches(HELD_OUT))
    assert result.exploding == "net.bn3"
    first = result.findings[0]
    assert first.severity == "error"
    assert first.evidence["layer"] == "net.bn3"
    assert "exp: overflow" in first.message


def test_bad_frames_are_named_and_the_others_are_judged() -> None:
    data = HELD_OUT.clone()
    data[40, 1, 2, 3] = float("nan")
    data[41, 0, 0, 0] = 1e20
    module = sound()
    result = examine(module, batches(data))
    (found,) = result.findings
    assert (found.code, found.severity) == ("BNF-A042", "warning")
    assert [one["frame"] for one in found.evidence["frames"]] == ["frame 40", "frame 41"]
    assert result.frames == 254
    (found,) = diagnosed(module, torch.full((20, 2, 9, 9), float("inf")))
    assert (found.code, found.severity) == ("BNF-A042", "error")  # no frame is no evidence, and no pass
    assert "none is left" in found.message


# --- the batch ------------------------------------------------------------------------------------


def test_batch_statistics_in_use_are_told_once() -> None:
    module = sound()
    module.bn2.track_running_stats = False
    module.bn2.running_mean = module.bn2.running_var = None
    (found,) = diagnosed(module)
    assert (found.code, found.severity, found.where) == ("BNF-A015", "error", "bn2")
    assert found.evidence["distance"] > 0


@pytest.mark.parametrize("count", [1, 40])
def test_a_network_that_raises_on_a_batch_of_one(count: int) -> None:
    module = sound()
    module.bn3 = nn.BatchNorm1d(8, track_running_stats=False)
    found = diagnosed(module.eval(), HELD_OUT[:count])
    assert errors(found) == ["BNF-A015"]
    assert found[0].where == "bn3"
    assert "no single frame" in found[0].message


# --- deployment -----------------------------------------------------------------------------------


def test_other_data_are_told_from_wrong_statistics() -> None:
    module, deployment = sound(), batches(frames(128, seed=2) + torch.tensor([0.0, 2.0])[:, None, None])
    (found,) = diagnosed(module, deployment=deployment)
    assert (found.code, found.severity, found.evidence["layer"]) == ("BNF-A017", "error", "bn1")
    assert found.evidence["deployment_frames"] == 128
    assert "recalibrate --prior" in found.remedy
    with torch.no_grad():
        module.conv2.weight *= 3
    found_ = diagnosed(module, deployment=deployment)
    assert [one.code for one in found_] == ["BNF-A032", "BNF-A044"]
    assert not any("--prior" in one.remedy for one in found_), (
        "adaptation is not offered for wrong statistics"
    )


def test_deployment_frames_like_the_others_are_no_finding() -> None:
    for seed in range(3):
        assert diagnosed(sound(seed), deployment=batches(frames(100, seed=seed + 7))) == []


def test_too_few_deployment_frames() -> None:
    (found,) = diagnosed(sound(), deployment=batches(10 * frames(8)))
    assert (found.code, found.severity) == ("BNF-A044", "info")


# --- the interface --------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was() -> None:
    module = sound().train()
    before = copy.deepcopy(module.state_dict())
    assert diagnosed(module) == []
    assert module.training
    assert module.dropout.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: (part for part in data.split(32)),
        lambda data: [(part, torch.zeros(len(part), dtype=torch.int64)) for part in data.split(32)],
        lambda data: [{"x": part} for part in data.split(1)],
    ],
    ids=["tensor", "generator", "with labels", "dictionaries"],
)
def test_every_way_of_giving_frames(wrap: Callable[[Tensor], Any]) -> None:
    module = sound()
    assert bnfold.diagnose(module, wrap(HELD_OUT)) == []
    with torch.no_grad():
        module.bn1.running_mean -= 3
    assert errors(bnfold.diagnose(module, wrap(HELD_OUT))) == ["BNF-A032"]


def test_what_forward_does_not_take_is_the_user_s_error() -> None:
    with pytest.raises(CaptureError) as caught:
        diagnosed(sound(), torch.zeros(32, 3, 9, 9))
    assert caught.value.code == "BNF-C004"
    assert "RuntimeError: Given groups=1" in caught.value.what


def test_the_document_has_every_number_that_is_asked_for() -> None:
    module = sound()
    with torch.no_grad():
        module.bn2.running_mean[3] += 2 * module.bn2.running_var[3].sqrt()
    result = examine(module, batches(HELD_OUT), deployment=batches(frames(64, 3)))
    document = result.to_json(channels=True)
    assert [layer["name"] for layer in document["layers"]] == ["bn1", "bn2", "bn3"]
    second = document["layers"][1]
    assert second["gap"]["off"] == [3]
    assert second["by_channel"]["gap_in_mean"][3] == pytest.approx(2, abs=0.25)
    assert len(second["by_channel"]["between_frames"]) == 5
    assert second["output"]["train"]["rms"] > 0
    assert [module["name"] for module in document["modules"]] == [
        "conv1", "bn1", "conv2", "bn2", "dropout", "linear", "bn3", "head",
    ]  # fmt: skip
    assert "by_channel" not in result.to_json()["layers"][0]


def test_a_network_without_batch_norm() -> None:
    (found,) = diagnosed(nn.Sequential(nn.Flatten(), nn.Linear(162, 3)))
    assert found.severity == "info"


def test_the_steps_of_training_tell_what_a_count_alone_does_not() -> None:
    module = sound()
    subject = Subject.of(module, steps=2500)
    found = examine(module, batches(HELD_OUT), subject=subject).findings
    assert [one.code for one in found] == ["BNF-A011"]
    assert isinstance(module, Small)
