"""What is the caller's stays as it is: the module, its modes, and the example inputs."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnfold import fold
from bnfold.capture import capture
from bnfold.capture.isolation import private_copy
from bnfold.errors import CaptureError, UsageError

from .networks import Net, frames, require_exact


def statistics(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.calls += 1
    net.seen.add_(1)
    net.table = x
    return F.batch_norm(net.conv(x), net.bn.running_mean, net.bn.running_var, training=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_buffers_and_attributes(dtype: torch.dtype) -> None:
    module = Net(statistics).to(dtype)
    before, table = copy.deepcopy(module.state_dict()), module.table
    capture(module, (frames().to(dtype),))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (module.calls, module.table is table) == (0, True)


class Merges(nn.Module):
    """Merges its weights in eval mode, as low-rank adapters do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.merged, self.switched = nn.Linear(3, 3), False, 0

    def train(self, mode: bool = True) -> Merges:
        super().train(mode)
        self.switched += 1
        if mode is self.merged:
            self.layer.weight.data.mul_(0.5 if mode else 2.0)
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


def test_a_module_that_overrides_train() -> None:
    module, x = Merges(), torch.randn(2, 3)
    weight = module.layer.weight.clone()
    captured = capture(module, (x,))
    assert (module.training, module.layer.training, module.merged, module.switched) == (True, True, False, 0)
    assert torch.equal(module.layer.weight, weight)
    with torch.no_grad():
        assert torch.equal(captured.body(x)[0], F.linear(x, 2 * weight, module.layer.bias))


def test_modes() -> None:
    module = Net(lambda net, x: net.layers(x)).train()
    module.bn.eval()
    capture(module, (frames(),))
    assert [child.training for child in (module, module.conv, module.bn)] == [True, True, False]


def test_parameters_are_not_copied() -> None:
    module = Net(lambda net, x: net.layers(x))
    assert capture(module, (frames(),)).body.conv.weight.data_ptr() == module.conv.weight.data_ptr()


def test_empty_tables_are_the_copys_own() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].table = module[1].table = OrderedDict()
    module[0].names = set()
    copied = private_copy(module)
    for one, other in zip(copied.modules(), module.modules(), strict=True):
        one.register_forward_hook(lambda *_: None)
        one._non_persistent_buffers_set.add("x")
        assert not other._forward_hooks
        assert not other._non_persistent_buffers_set
    assert copied[0].table is copied[1].table
    assert copied[0].table is not module[0].table
    assert copied[0].names == set()
    assert copied[0].names is not module[0].names


def test_example_inputs() -> None:
    x = frames()
    capture(Net(lambda net, x: net.layers(x.relu_())), (x,))
    assert torch.equal(x, frames())


def test_one_tensor_given_twice_is_two_inputs() -> None:
    x = frames()
    module = Net(lambda net, a, b: net.layers(a) - b)
    require_exact(module, x, x, call=(frames(seed=2), frames(seed=3)))
    halves = frames(4)
    require_exact(module, halves[:2], halves[1:3], call=(frames(seed=2), frames(seed=3)))


def test_an_attribute_that_cannot_be_copied_is_shared() -> None:
    module = Net(lambda net, x: net.operator(net.layers(x)))
    module.lock = threading.Lock()  # type: ignore[assignment]
    module.operator = torch.ops.aten.relu
    captured, x = capture(module, (frames(),)), frames(seed=2)
    with torch.no_grad():
        assert torch.equal(captured.unflatten(captured.body(x)), module(x))


def test_a_module_that_cannot_be_copied() -> None:
    class Whole(nn.Module):
        def __deepcopy__(self, memo: dict[int, object]) -> None:
            raise RuntimeError("there is only one of me")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    with pytest.raises(CaptureError) as caught:
        capture(Whole(), (frames(),))
    assert caught.value.code == "BNF-C012"


def test_a_weight_that_remembers_how_it_was_made() -> None:
    with pytest.warns(FutureWarning):
        module = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    x = torch.randn(2, 3)
    expected = module(x)  # leaves a weight with a history, which copy.deepcopy refuses
    assert torch.equal(capture(module, (x,)).body(x)[0], expected)


def test_what_forward_reads_elsewhere_is_seen() -> None:
    calls = []

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return net.layers(x) * len(calls)

    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(),))
    assert caught.value.code == "BNF-C011"


def test_an_operator_that_could_draw_but_does_not_hides_nothing() -> None:
    """torch tags an LSTM as random, for its dropout in training."""
    calls = []

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, 2, dropout=0.5)

        def forward(self, x: torch.Tensor) -> Any:
            calls.append(1)
            return self.lstm(x)[0] * len(calls)

    with pytest.raises(CaptureError) as caught:
        capture(Counts(), (torch.randn(5, 2, 3),))
    assert caught.value.code == "BNF-C011"


class Options(nn.Module):
    def forward(self, x: torch.Tensor, flag: bool = True, *, k: float = 1.0) -> torch.Tensor:
        return (x * k).relu() if flag else x * k


def test_other_values_of_what_is_no_tensor_are_an_error() -> None:
    x = frames()
    module = fold(Options(), (x, True)).module
    for args, kwargs in (((x, True), {}), ((x,), {}), ((x,), {"flag": True}), ((x, True), {"k": 1.0})):
        assert torch.equal(module(*args, **kwargs), x.relu())
    for args, kwargs in (
        ((x, False), {}),
        ((x, 1), {}),
        ((x, None), {}),
        ((x, x), {}),
        ((x,), {"k": 2.0}),
    ):
        with pytest.raises(UsageError) as caught:
            module(*args, **kwargs)
        assert caught.value.code == "BNF-U020"
        assert "argument" in caught.value.where
    with pytest.raises(UsageError) as caught:
        module(2.0, True)
    assert caught.value.code == "BNF-U027"


def test_a_default_left_out_at_capture() -> None:
    x = frames()
    module = fold(Options(), (x,)).module
    assert torch.equal(module(x, True), x.relu())
    with pytest.raises(UsageError) as caught:
        module(x, False)
    assert caught.value.code == "BNF-U020"
    assert "'flag' is False" in caught.value.what
