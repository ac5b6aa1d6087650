"""What stops a conversion: the audit and the fold, each cause once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnfold.errors import UsageError
from bnfold.finding import Finding
from bnfold.fold import fold
from bnfold.statistics import gate
from bnfold.statistics.audit import audit, owner

from .networks import STEPS, Frozen, Twice, healthy, trained

X = (torch.randn(1, 3, 12, 12),)


def found(module: nn.Module) -> list[tuple[str, str, str]]:
    findings = gate.findings(module, fold(module, X).report)
    return [(finding.code.removeprefix("BNF-"), finding.severity, finding.where) for finding in findings]


def test_a_healthy_network_gives_nothing() -> None:
    assert found(healthy()) == []


def test_fold_and_audit_say_the_same_words_and_the_gate_says_them_once() -> None:
    network = healthy()
    network.bn2.running_mean[1] = math.nan
    network.bn3.running_mean.fill_(math.nan)
    network.bn1.running_var[0] = -1.0
    with torch.no_grad():
        network.bn3.weight[2] = math.inf
    folded = fold(network, X)
    audited = audit(network)
    assert gate.findings(network, folded.report) == audited
    assert [finding.code for finding in audited] == ["BNF-A021", "BNF-A007", "BNF-A001", "BNF-A001"]
    told = {(f.code, f.where, f.message) for f in audited}
    assert {(f.code, f.where, f.message) for f in folded.report.findings} == told


def test_a_wrong_assignment_is_not_told_again_as_a_negative_variance() -> None:
    network = healthy()
    network.bn2.running_var.copy_(network.bn2.running_mean)
    assert (network.bn2.running_var < 0).any()
    assert found(network) == [("A016", "error", "bn2.running_var")]


def test_an_allowed_cause_is_a_warning_and_what_cannot_be_frozen_still_an_error() -> None:
    network = trained(Twice())
    network.bn.num_batches_tracked.fill_(2 * STEPS)
    assert found(network) == [("A010", "error", "bn.num_batches_tracked")]
    report = fold(network, X).report
    (told,) = gate.findings(network, report, {"BNF-A010"})
    assert (told.code, told.severity, told.evidence["allowed"]) == ("BNF-A010", "warning", True)
    assert gate.findings(network, report, {"BNF-A001"})[0].severity == "error"
    network.bn.running_mean[0] = math.nan
    report = fold(network, X).report
    every = [(one.code, one.severity) for one in gate.findings(network, report, {"BNF-A001", "BNF-A010"})]
    assert every == [("BNF-A001", "error"), ("BNF-A010", "error")]


def test_only_causes_can_be_allowed() -> None:
    assert gate.check_allowed(["BNF-A010", "BNF-A004"]) == {"BNF-A010", "BNF-A004"}
    assert gate.check_allowed("BNF-A010") == {"BNF-A010"}
    with pytest.raises(UsageError) as caught:
        gate.check_allowed(["BNF-A010", "A010"])
    assert (caught.value.code, caught.value.where) == ("BNF-U180", "allow")
    assert "'A010'" in caught.value.what


class Own(nn.Module):
    """A BatchNorm of one's own that calls the function, before one of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Frozen(3)
        self.own.forward = self._normalise  # type: ignore[method-assign]
        self.bn = nn.BatchNorm2d(3)

    def _normalise(self, x: Tensor) -> Tensor:
        own = self.own
        return functional.batch_norm(x, own.running_mean, own.running_var, own.weight, own.bias)

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(self.bn(self.own(x)), None, None, training=True)


def test_a_functional_call_and_its_module_are_one_and_come_in_execution_order() -> None:
    network = trained(Own())
    network.own.running_var[1] = math.nan
    network.bn.running_var[2] = math.nan
    assert found(network) == [
        ("A003", "error", "own.running_var[1]"),
        ("A003", "error", "bn.running_var[2]"),
        ("A015", "error", "batch_norm"),
    ]


def test_execution_order_counts_and_not_the_order_of_the_attributes() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    network = trained(Reversed())
    for layer in (network.first, network.second):
        layer.running_mean.fill_(math.nan)
    channels = ".running_mean[0, 1, 2]"
    assert [where for _, _, where in found(network)] == [f"first{channels}", f"second{channels}"]
    assert audit(network)[0].where == "second.running_mean[0, 1, 2]"


def test_a_head_that_only_training_runs_is_left_out() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.auxiliary = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x)) + (self.auxiliary(x) if self.training else 0)

    network = trained(Auxiliary())
    network.auxiliary.running_mean.fill_(math.nan)
    assert audit(network)
    assert found(network) == []


def test_the_graph_shows_that_one_batch_norm_is_called_twice() -> None:
    network = trained(Twice())
    network.bn.num_batches_tracked.fill_(2 * STEPS)
    assert found(network) == [("A010", "error", "bn.num_batches_tracked")]
    network.bn.num_batches_tracked.fill_(STEPS)
    assert found(network) == []


@pytest.mark.parametrize(
    ("call", "module"),
    [
        ("a.bn", "a.bn"),
        ("a.bn#2", "a.bn"),
        ("a.batch_norm", "a"),
        ("a.batch_norm#3", "a"),
        ("batch_norm", ""),
    ],
)
def test_the_module_of_a_call(call: str, module: str) -> None:
    assert owner(call) == module


def test_what_only_the_fold_says_stands_at_its_place() -> None:
    def at(layer: str, code: str = "BNF-A003") -> Finding:
        return Finding(code, "error", layer, "wrong", {"layer": layer})

    folded = [at("b.batch_norm", "BNF-A015"), at("c#2")]
    merged = gate.merged([at("a"), at("c")], folded, ["a", "b.batch_norm", "c"])
    assert [finding.where for finding in merged] == ["a", "b.batch_norm", "c"]
