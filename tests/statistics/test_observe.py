from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnfold.statistics.observe import Call, answering


class Network(nn.Module):
    """A module used twice, a functional call, and a direct call of the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.bn(x) * 2)
        x = self.inner(x)
        return torch.batch_norm(
            x, None, None, self.bn.running_mean, self.bn.running_var, False, 0.0, 1e-3, False
        )


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 0.0]))
        self.register_buffer("variance", torch.tensor([2.0, 0.1, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.variance, eps=0.1)


def _network() -> Network:
    torch.manual_seed(0)
    network = Network().eval()
    nn.init.uniform_(network.bn.weight, -1, 1)
    network.bn.running_mean.uniform_(-1, 1)
    network.bn.running_var.uniform_(0.1, 2)
    return network


@torch.no_grad()
def test_every_call_is_named_and_the_answer_is_used() -> None:
    network, x = _network(), torch.randn(2, 3, 4, 4)
    expected = network(x)
    for _ in range(2):  # names begin anew with each pass
        calls: list[Call] = []

        def answer(call: Call, calls: list[Call] = calls) -> Tensor:
            calls.append(call)
            return call.as_called()

        with answering(network, answer):
            assert torch.equal(network(x), expected)
        assert [call.name for call in calls] == ["bn", "bn#2", "inner.batch_norm", "batch_norm"]
        assert [call.owner for call in calls] == ["bn", "bn", "inner.batch_norm", "batch_norm"]
        assert [call.eps for call in calls] == [1e-5, 1e-5, 0.1, 1e-3]
        assert not any(call.uses_batch for call in calls)
    with answering(network, lambda call: torch.full_like(call.input, 7.0)):
        assert (network(x) == 7).all()


@torch.no_grad()
def test_batch_statistics_leave_the_buffers_alone() -> None:
    network, x = _network(), torch.randn(5, 3, 4, 4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with answering(network, lambda call: call.by_batch()):
        seen = network(x)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    bn = nn.BatchNorm2d(3).train()
    bn.weight.copy_(network.bn.weight)
    expected = bn(bn(x) * 2)
    expected = functional.batch_norm(expected, None, None, training=True, eps=0.1)
    expected = functional.batch_norm(expected, None, None, training=True, eps=1e-3)
    torch.testing.assert_close(seen, expected)


@torch.no_grad()
def test_other_statistics() -> None:
    network = _network()
    x = torch.randn(2, 3, 1, 1)
    mean, variance = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 9.0, 16.0])
    with answering(network.bn, lambda call: call.by_statistics(mean, variance)):
        got = network.bn(x)
    expected = (x - mean.view(1, 3, 1, 1)) / (variance + 1e-5).sqrt().view(1, 3, 1, 1)
    torch.testing.assert_close(got, expected * network.bn.weight.view(1, 3, 1, 1))


def test_the_values_of_a_channel_stand_in_its_column() -> None:
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    calls: list[Call] = []

    def keep(call: Call) -> Tensor:
        calls.append(call)
        return call.as_called()

    network = nn.BatchNorm2d(3).eval()
    with answering(network, keep):
        network(x)
    assert calls[0].name == ""
    assert torch.equal(calls[0].values()[:, 1], x[:, 1].reshape(-1))


def test_an_exception_leaves_no_trace() -> None:
    network = _network()

    def fail(call: Call) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), answering(network, fail):
        network(torch.randn(2, 3, 4, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    calls: list[str] = []

    def keep(call: Call) -> Tensor:
        calls.append(call.name)
        return call.as_called()

    with answering(network, keep):
        network(torch.randn(2, 3, 4, 4))
    assert calls[0] == "bn"


def test_one_pass_inside_another_without_names() -> None:
    network, x, original = _network(), torch.randn(2, 3, 4, 4), torch.batch_norm
    inner: list[str] = []

    def note(call: Call) -> Tensor:
        inner.append(call.name)
        return call.as_called()

    def outer(call: Call) -> Tensor:
        if not inner:
            with answering(network, note, named=False):
                network(x)
        return call.as_called()

    with torch.no_grad(), answering(network, outer, named=False):
        network(x)
    assert inner[:3] == ["bn", "bn#2", "inner.batch_norm"]
    assert torch.batch_norm is original
