"""Every check on what it is for, and on what looks like it: where, channels, severity, words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.finding import Finding
from bnfold.statistics.audit import audit, examine
from bnfold.statistics.causes import CATALOGUE
from bnfold.statistics.checks import all_checks, judge_layer
from bnfold.statistics.layers import Layer

from .networks import STEPS, Frozen, Shared, Twice, healthy, trained

NAN, INF = math.nan, math.inf


def planted(change: Callable[[Any], object], seed: int = 0) -> nn.Sequential:
    network = healthy(seed)
    with torch.no_grad():
        change(network)
    return network


def told(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.code.removeprefix("BNF-"), finding.severity, finding.where) for finding in findings]


def both(network: nn.Module, **known: Any) -> list[Finding]:
    """What is found, after comparing a module with its state dict."""
    module, state = examine(network, **known).findings, examine(network.state_dict(), **known).findings
    assert told(module) == told(state)
    return module


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_network_has_no_finding(seed: int) -> None:
    assert both(healthy(seed)) == []
    assert examine(healthy(seed), steps=STEPS, against=healthy(seed), momentum=0.1).findings == []


def test_checks_are_found_by_themselves_and_own_their_causes() -> None:
    owned = [cause.code for check in all_checks() for cause in check.causes]
    assert len(owned) == len(set(owned))
    visible = {cause.code for cause in CATALOGUE if not set(cause.numbers) & {9, 14, 17}}
    assert visible <= set(owned)


# --- 1, 2, 3: not finite ---------------------------------------------------------------------------------


def test_a_local_value_names_its_channel_and_the_layers_after_it() -> None:
    def poison(network: Any) -> None:
        for array in (network.bn1.running_mean, network.bn1.running_var):
            array[2] = NAN
        for layer in (network.bn2, network.bn3):
            layer.running_mean.fill_(NAN)
            layer.running_var.fill_(NAN)

    findings = both(planted(poison))
    assert told(findings) == [
        ("A001", "error", "bn1.running_mean[2]"),
        ("A001", "error", "bn2.running_mean[0, 1, 2, 3]"),
        ("A001", "error", "bn3.running_mean[0, 1, 2, 3, 4, 5]"),
    ]
    origin, second, third = findings
    assert origin.evidence["channels"] == [2]
    assert "1 of 4 channels" in origin.message
    assert "arose in what feeds these" in origin.message
    assert [f.evidence.get("origin") for f in findings] == [None, "bn1", "bn1"]
    assert third.message == "all 6 channels have running statistics that are not finite: a consequence of bn1"
    assert "reset" in origin.remedy
    assert second.remedy == "as for bn1"


def test_all_channels_of_the_first_layer_came_from_before_it() -> None:
    (finding,) = both(planted(lambda n: n.bn3.running_mean.fill_(-INF)))
    assert finding.where == "bn3.running_mean[0, 1, 2, 3, 4, 5]"
    assert "came from before this layer" in finding.message


def test_more_channels_than_are_shown_stand_in_the_evidence() -> None:
    network = trained(nn.Sequential(nn.BatchNorm1d(9)))
    network[0].running_mean.fill_(NAN)
    (finding,) = both(network)
    assert finding.where == "0.running_mean[0, 1, 2, 3, 4, 5, ...]"
    assert finding.evidence["channels"] == list(range(9))


def test_a_variance_that_overflowed_is_no_division_by_zero() -> None:
    findings = both(planted(lambda n: [n.bn1.running_var[1:2].fill_(INF), n.bn3.running_var[2:3].fill_(INF)]))
    assert told(findings) == [
        ("A001", "error", "bn1.running_var[1]"),
        ("A001", "error", "bn3.running_var[2]"),
    ]
    assert "squares overflow" in findings[0].message
    assert "origin" not in findings[1].evidence  # each layer's own overflow


@pytest.mark.parametrize("channels", [[0, 1, 2, 3], [3]])
def test_one_value_per_channel(channels: list[int]) -> None:
    def poison(network: Any) -> None:
        network.bn2.running_var[channels] = NAN

    (finding,) = both(planted(poison))
    assert told([finding]) == [("A003", "error", f"bn2.running_var{channels}")]
    assert ("every channel" in finding.message) == (channels == [3])


def test_mean_and_variance_that_are_not_finite_are_no_division_by_zero() -> None:
    findings = both(
        planted(lambda n: [n.bn2.running_mean[1:2].fill_(INF), n.bn2.running_var[2:3].fill_(NAN)])
    )
    assert told(findings) == [("A001", "error", "bn2.running_mean[1]")]
    assert findings[0].evidence["channels"] == [1, 2]


# --- 4, 5: hardly and never updated ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updates", "momentum", "severity"),
    [
        (10, 0.1, "error"),
        (11, 0.1, "error"),
        (12, 0.1, "warning"),
        (43, 0.1, "warning"),
        (44, 0.1, None),
        (100, 0.01, "error"),
        (1, 1.0, None),
        (3, None, None),
        (3, 0.0, None),
        (2**62, 1e-4, None),
    ],
)
def test_the_initial_value_s_weight(updates: int, momentum: float | None, severity: str | None) -> None:
    network = trained(nn.Sequential(nn.BatchNorm1d(3, momentum=momentum)), steps=updates)
    findings = audit(network)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    if severity and momentum:
        assert findings[0].code == "BNF-A004"
        assert findings[0].where == "0.num_batches_tracked"
        assert findings[0].evidence["weight"] == pytest.approx((1 - momentum) ** updates, rel=1e-12)
        assert not findings[0].evidence["assumed"]


def test_a_file_assumes_torch_s_momentum_and_says_so() -> None:
    state = trained(nn.Sequential(nn.BatchNorm1d(3, momentum=0.5)), steps=5).state_dict()
    (assumed,) = audit(state)
    assert assumed.evidence["weight"] == pytest.approx(0.9**5)
    assert "assumed" in assumed.message
    assert "--momentum" in assumed.remedy
    (given,) = examine(state, momentum=0.5).findings
    assert given.severity == "warning"
    assert given.evidence["weight"] == pytest.approx(0.5**5)


def test_one_finding_for_all_layers_and_one_per_severity() -> None:
    network = healthy()
    for layer, updates in ((network.bn1, 5), (network.bn2, 20), (network.bn3, 5)):
        layer.num_batches_tracked.fill_(updates)
    findings = [f for f in both(network) if f.code == "BNF-A004"]
    assert [(f.severity, f.evidence["layers"]) for f in findings] == [
        ("error", ["bn1", "bn3"]),
        ("warning", ["bn2"]),
    ]
    assert "in 2 of 3 layers (bn1, bn3)" in findings[0].message


def test_variances_below_what_the_initial_value_leaves_are_counted() -> None:
    network = trained(nn.Sequential(nn.BatchNorm1d(3)), steps=10)
    network[0].running_var[1] = 0.2
    (finding,) = audit(network)
    assert finding.evidence["below"] == 1
    assert "begun from other statistics" in finding.message


def test_steps_stand_in_for_a_counter_that_is_not_stored() -> None:
    state = healthy().state_dict()
    state = {key: value for key, value in state.items() if "tracked" not in key}
    assert audit(state) == []
    (finding,) = examine(state, steps=10).findings
    assert (finding.code, finding.evidence["weight"]) == ("BNF-A004", pytest.approx(0.9**10))


def test_never_updated() -> None:
    (finding,) = both(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    assert told([finding]) == [("A005", "warning", "1.running_var")]
    assert finding.evidence["layers"] == ["1", "2"]
    assert "in all 2 layers" in finding.message


def test_one_layer_that_was_never_updated_among_others() -> None:
    network = healthy()
    network.bn2.reset_running_stats()
    (finding,) = both(network)
    assert told([finding]) == [("A005", "warning", "bn2.running_var")]
    network.bn2.num_batches_tracked.fill_(7)  # no average comes to 0 and 1: it is no unconverged one
    (finding,) = both(network)
    assert finding.code == "BNF-A005"
    assert "says 7" in finding.message


# --- 6, 7, 8: values -------------------------------------------------------------------------------------


def test_a_vanishing_channel() -> None:
    (finding,) = both(planted(lambda n: n.bn3.running_var[4:5].fill_(1e-14)))
    assert told([finding]) == [("A006", "warning", "bn3.running_var[4]")]
    assert finding.evidence["channels"] == [4]
    assert finding.evidence["gain"] > 10 * finding.evidence["usual_gain"]


def test_a_dead_channel_is_no_vanishing_one() -> None:
    """What weight decay leaves of a channel: no variance and no gamma."""
    network = planted(lambda n: [n.bn3.running_var[4:5].fill_(1e-14), n.bn3.weight[4:5].fill_(1e-6)])
    assert both(network) == []


def test_a_layer_of_small_values_throughout_is_compared_with_the_network() -> None:
    network = planted(lambda n: n.bn2.running_var.fill_(1e-9))
    (finding,) = both(network)
    assert finding.evidence["channels"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("mean", "variance", "rounding", "nan"),
    [(50.0, -9.8e-4, True, 1), (50.0, -5e-6, True, 0), (0.1, -0.5, False, 1), (50.0, -1.0, False, 1)],
)
def test_a_negative_variance(mean: float, variance: float, rounding: bool, nan: int) -> None:
    (finding,) = both(
        planted(lambda n: [n.bn1.running_var[3:4].fill_(variance), n.bn1.running_mean[3:4].fill_(mean)])
    )
    assert told([finding]) == [("A007", "error", "bn1.running_var[3]")]
    assert (finding.evidence["rounding"], finding.evidence["nan"]) == (rounding, nan)
    assert ("cancellation" in finding.message) == rounding
    assert ("float64" in finding.remedy) == rounding


def test_a_variance_of_zero_without_eps() -> None:
    (finding,) = judge_layer(Layer("bn", np.zeros(2), np.array([0.0, 1.0]), eps=0.0))
    assert (finding.code, finding.where) == ("BNF-A007", "bn.running_var[0]")


@pytest.mark.parametrize(
    ("tensor", "value", "where"),
    [
        ("running_var", 7e4, "bn2.running_var[1]"),
        ("running_mean", -7e4, "bn2.running_mean[1]"),
        ("weight", 7e4, "bn2.weight[1]"),
        ("bias", -7e4, "bn2.bias[1]"),
    ],
)
def test_numbers_that_half_precision_cannot_hold(tensor: str, value: float, where: str) -> None:
    (finding,) = both(planted(lambda n: getattr(n.bn2, tensor)[1:2].fill_(value)))
    assert told([finding]) == [("A008", "warning", where)]
    assert finding.evidence["channels"] == [1]


def test_a_shift_that_half_precision_cannot_hold() -> None:
    network = planted(lambda n: [n.bn2.running_mean[1:2].fill_(6e4), n.bn2.running_var[1:2].fill_(0.01)])
    (finding,) = both(network)
    assert told([finding]) == [("A008", "warning", "bn2.running_mean[1]")]
    assert "beta - mean s" in finding.message


def test_infinities_of_a_cast_stay_the_same_cause_in_float32() -> None:
    network = planted(lambda n: n.bn2.running_var[1:2].fill_(1e6)).half()
    (finding,) = both(network)
    assert told([finding]) == [("A008", "error", "bn2.running_var[1]")]
    assert told(both(network.float())) == told([finding])


def test_half_precision_holds_the_other_causes_too() -> None:
    network = healthy().half()
    assert both(network) == []
    network.bn1.running_mean[0] = NAN
    assert told(both(network)) == [("A001", "error", "bn1.running_mean[0]")]


# --- 10, 11: updated more often --------------------------------------------------------------------------


def test_a_count_that_is_a_multiple_is_a_group_where_a_file_is_all_there_is() -> None:
    network = healthy()
    network.bn2.num_batches_tracked.fill_(2 * STEPS)
    (finding,) = both(network)
    assert told([finding]) == [("A031", "warning", "bn2.num_batches_tracked")]
    assert (finding.evidence["times"], finding.evidence["usual"]) == (2, STEPS)


@pytest.mark.parametrize(
    ("steps", "codes"), [(STEPS, []), (STEPS // 2, ["BNF-A031"]), (STEPS // 2 + 1, ["BNF-A031"])]
)
def test_steps_show_that_every_layer_was_updated_twice(steps: int, codes: list[str]) -> None:
    findings = both(healthy(), steps=steps)
    assert [finding.code for finding in findings] == codes
    if codes:
        assert findings[0].evidence["layers"] == ["bn1", "bn2", "bn3"]


def test_other_counts_are_no_multiples() -> None:
    """A layer that was frozen for a part of the training."""
    network = healthy()
    network.bn1.num_batches_tracked.fill_(STEPS + STEPS // 2)
    network.bn3.num_batches_tracked.fill_(100 * STEPS)
    assert both(network) == []


def test_a_shared_batch_norm_is_named_once_with_its_names() -> None:
    network = trained(Shared())
    network.one.num_batches_tracked.fill_(2 * STEPS)
    (finding,) = both(network)
    assert told([finding]) == [("A010", "error", "one.num_batches_tracked")]
    assert finding.evidence["aliases"] == ["other"]
    assert finding.evidence["uses"] == 2


def test_a_shared_batch_norm_that_was_used_at_one_place_in_training() -> None:
    assert both(trained(Shared())) == []  # its count is that of the other layer


def test_a_shared_batch_norm_that_was_not_trained_is_a_warning() -> None:
    network = Shared()
    assert told(both(network)) == [("A005", "warning", "one.running_var"), ("A010", "warning", "one")]


def test_a_forward_pass_tells_shared_from_checkpointed() -> None:
    network = trained(Twice())
    network.bn.num_batches_tracked.fill_(2 * STEPS)
    assert told(both(network)) == [("A031", "warning", "bn.num_batches_tracked")]
    (shared,) = examine(network, order=["bn", "bn#2", "own"]).findings
    assert told([shared]) == [("A010", "error", "bn.num_batches_tracked")]
    (twice,) = examine(network, order=["bn", "own"]).findings
    assert told([twice]) == [("A011", "warning", "bn.num_batches_tracked")]
    assert "1 - sqrt(1 - m)" in twice.remedy


def test_a_container_under_two_names_is_no_sharing() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.features = nn.Sequential(self.conv, self.bn)
            self.backbone = self.body = nn.Sequential(nn.BatchNorm2d(3))

    assert both(trained(Wrapped())) == []


# --- 12, 13: against another file ------------------------------------------------------------------------


def moved(network: Any, by: float = 0.01) -> Any:
    with torch.no_grad():
        for layer in (network.bn1, network.bn3):
            layer.running_mean += by
    return network


def test_ranks_have_equal_weights_and_counts() -> None:
    (finding,) = examine(moved(healthy()), against=healthy()).findings
    assert told([finding]) == [("A013", "warning", "bn1.running_mean")]
    assert finding.evidence["layers"] == ["bn1", "bn3"]
    assert 0 < finding.evidence["largest_shift"] < 0.02


def test_a_frozen_backbone_that_drifts() -> None:
    network = moved(healthy())
    for layer in (network.bn1, network.bn2, network.bn3):
        layer.num_batches_tracked.fill_(2 * STEPS + 7)
    with torch.no_grad():
        network.conv3.weight += 0.1  # a head that was trained: its statistics must move
    (finding,) = examine(network, against=healthy()).findings
    assert told([finding]) == [("A012", "warning", "bn1.running_mean")]
    assert finding.evidence["layers"] == ["bn1"]
    assert f"from {STEPS} to {2 * STEPS + 7}" in finding.message


def test_without_counts_the_two_are_a_group() -> None:
    def uncounted(network: nn.Module) -> dict[str, Any]:
        return {key: value for key, value in network.state_dict().items() if "tracked" not in key}

    (finding,) = examine(uncounted(moved(healthy())), against=uncounted(healthy())).findings
    assert told([finding]) == [("A033", "warning", "bn1.running_mean")]
    assert finding.evidence["layers"] == ["bn1", "bn3"]


def test_the_same_holds_for_files_that_sort_their_tensors_by_name() -> None:
    """A head comes before the backbone there, and a BatchNorm before its convolution."""

    class Head(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.features = healthy(0)
            self.classifier = trained(nn.Linear(6, 2), seed)

    def by_name(network: nn.Module) -> dict[str, Any]:
        return dict(sorted(network.state_dict().items()))

    network = Head(1)
    moved(network.features)
    with torch.no_grad():
        network.classifier.weight += 1
    (finding,) = examine(by_name(network), against=by_name(Head(0))).findings
    assert (finding.code, finding.evidence["layers"]) == ("BNF-A013", ["features.bn1", "features.bn3"])


def test_training_that_went_on_is_nothing() -> None:
    assert examine(healthy(1), against=healthy(2)).findings == []


def test_a_copy_that_is_poisoned_where_the_plain_weights_are_finite() -> None:
    copy = planted(lambda n: [n.bn2.running_mean[1:2].fill_(NAN), n.bn3.running_var.fill_(NAN)])
    findings = examine(copy, against=healthy()).findings
    assert told(findings)[:2] == [
        ("A002", "error", "bn2.running_mean[1]"),
        ("A002", "error", "bn3.running_var[0, 1, 2, 3, 4, 5]"),
    ]
    assert findings[1].evidence["origin"] == "bn2"
    assert not [f for f in findings if f.code in ("BNF-A001", "BNF-A003")]


# --- 15, 16, and parameters ------------------------------------------------------------------------------


def test_a_layer_without_statistics() -> None:
    network = healthy()
    network.bn2 = nn.BatchNorm2d(4, track_running_stats=False)
    (finding,) = audit(network)
    assert told([finding]) == [("A015", "error", "bn2")]


@pytest.mark.parametrize("source", ["running_mean", "weight", "bias"])
def test_a_variance_that_is_the_layer_s_own_other_tensor(source: str) -> None:
    (finding,) = both(planted(lambda n: n.bn2.running_var.copy_(getattr(n.bn2, source))))
    assert told([finding]) == [("A016", "error", "bn2.running_var")]  # and not A007, negative as it may be
    assert finding.evidence["equals"] == f"bn2.{source}"


def test_statistics_of_a_layer_of_the_same_size() -> None:
    (finding,) = both(planted(lambda n: n.bn2.running_var.copy_(n.bn1.running_var)))
    assert told([finding]) == [("A016", "error", "bn2.running_var")]
    assert finding.evidence["equals"] == "bn1.running_var"


def test_a_mean_from_a_convolution_s_bias() -> None:
    (finding,) = both(planted(lambda n: n.bn2.running_mean.copy_(n.conv1.bias)))
    assert (finding.where, finding.evidence["equals"]) == ("bn2.running_mean", "conv1.bias")


def test_mean_and_variance_that_changed_places() -> None:
    def swap(network: Any) -> None:
        mean = network.bn3.running_mean.clone()
        network.bn3.running_mean.copy_(network.bn3.running_var)
        network.bn3.running_var.copy_(mean)

    network = healthy(channels=(4, 4, 24))
    swap(network)
    (finding,) = both(network)
    assert told([finding]) == [("A016", "error", "bn3.running_var")]
    assert "changed places" in finding.message


def test_one_negative_channel_is_no_exchange() -> None:
    network = planted(lambda n: [n.bn3.running_mean.abs_(), n.bn3.running_var[2:3].fill_(-0.5)])
    assert told(both(network)) == [("A007", "error", "bn3.running_var[2]")]


def test_a_whole_layer_that_is_there_twice_is_no_mistake() -> None:
    network = healthy()
    network.bn2.load_state_dict(network.bn1.state_dict())
    assert both(network) == []


def test_numbers_set_by_hand_prove_nothing() -> None:
    network = healthy()
    with torch.no_grad():
        for layer in (network.bn1, network.bn2):
            layer.running_mean.copy_(torch.linspace(-1, 1, 4))
            layer.running_var.fill_(2.0)
    assert both(network) == []


def test_a_mean_teacher_keeps_the_student_s_statistics() -> None:
    network = nn.ModuleDict({"student": healthy(1), "teacher": healthy(2)})
    for name in ("bn1", "bn2"):
        for tensor in ("running_mean", "running_var"):
            source = getattr(network["student"].get_submodule(name), tensor)
            getattr(network["teacher"].get_submodule(name), tensor).copy_(source)
    assert both(network) == []


def test_lengths_that_do_not_fit() -> None:
    state = healthy().state_dict()
    state["bn1.running_var"] = torch.rand(5)
    (finding,) = audit(state)
    assert told([finding]) == [("A016", "error", "bn1.running_var")]
    assert "5 values and running_mean 4" in finding.message


def test_parameters_come_first_and_masks_are_left_alone() -> None:
    network = planted(
        lambda n: [
            n.conv2.weight[0, 0, 0, 0].fill_(NAN),
            n.bn2.bias[3:4].fill_(INF),
            n.bn1.running_mean.fill_(NAN),
        ]
    )
    network.register_buffer("mask", torch.full((4,), -INF))
    findings = both(network)
    assert told(findings) == [
        ("A021", "error", "conv2.weight"),
        ("A021", "error", "bn2.bias[3]"),
        ("A001", "error", "bn1.running_mean[0, 1, 2, 3]"),
    ]
    assert findings[0].message == "1 of 144 values of conv2.weight are not finite"
    assert findings[1].message == "1 of 4 channels have a bias that is not finite: as in conv2.weight"


# --- unusual layers --------------------------------------------------------------------------------------


def test_a_network_that_is_one_batch_norm() -> None:
    network = trained(nn.BatchNorm1d(3))
    network.running_mean[1] = NAN
    (finding,) = both(network)
    assert finding.where == "running_mean[1]"
    assert finding.evidence["layer"] == ""


def test_a_frozen_batch_norm_of_one_s_own() -> None:
    network = nn.Sequential(Frozen(3), Frozen(3))
    assert both(network) == []
    network[1].running_var[2] = -1.0
    assert told(both(network)) == [("A007", "error", "1.running_var[2]")]


def test_integers_empty_layers_and_absurd_counters() -> None:
    state = {
        "a.running_mean": torch.tensor([1, -2, 4]),
        "a.running_var": torch.tensor([3, 0, 7]),
        "a.num_batches_tracked": torch.tensor(2**63 - 1),
        "b.running_mean": torch.zeros(0),
        "b.running_var": torch.zeros(0),
        "b.num_batches_tracked": torch.tensor(-5),
        "c.running_mean": torch.tensor([0.5, 1.5]),
        "c.running_var": torch.tensor([0.5, 2.5]),
        "c.num_batches_tracked": torch.tensor(math.nan),
        "d.running_mean": torch.tensor([0.25, 1.0]),
        "d.running_var": torch.tensor([2.5, 1.0]),
        "d.num_batches_tracked": torch.tensor([1, 2]),
    }
    findings = audit(state)
    # a variance of 0 with a gain of 316 in the first layer, and nothing else
    assert told(findings) == [("A006", "warning", "a.running_var[1]")]


def test_statistics_that_are_no_numbers_are_named() -> None:
    state = healthy().state_dict()
    state["bn2.running_var"] = torch.empty(4, device="meta")
    state["bn3.running_mean"] = torch.zeros(6, dtype=torch.complex64)
    findings = audit(state)
    assert told(findings) == [("A027", "warning", "bn2.running_var"), ("A027", "warning", "bn3.running_mean")]


@pytest.mark.parametrize("source", [{}, {"fc.weight": torch.zeros(2, 2)}, nn.Linear(2, 2)])
def test_nothing_to_audit_is_said(source: Any) -> None:
    (finding,) = audit(source)
    assert told([finding]) == [("A028", "info", "")]


@pytest.mark.parametrize("source", [None, [1], "model.pt"])
def test_what_is_no_network_is_refused(source: Any) -> None:
    with pytest.raises(TypeError):
        audit(source)
