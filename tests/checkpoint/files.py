"""Small checkpoints to read back, and the error that reading one gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnfold.errors import BnfoldError
from tests.damaged import torch_bytes

State = dict[str, Tensor]


class Net(nn.Module):
    """A convolution, a BatchNorm and a classifier, with values of their own in every tensor."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


#: Net's keys, but for the counter
KEYS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "fc.weight", "fc.bias")


def trained(seed: int = 1) -> State:
    """A state dict for `Net`: seeded normal values, positive variances, 7 batches seen."""
    generator = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(value.shape, generator=generator) for key, value in Net().state_dict().items()}
    state["bn.running_var"] = state["bn.running_var"].abs() + 0.5
    state["bn.num_batches_tracked"] = torch.tensor(7)
    return state


def saved(path: Path, content: object, **options: Any) -> Path:
    """What torch.save wrote, under that path."""
    path.write_bytes(torch_bytes(content, **options))
    return path


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def assert_holds(module: nn.Module, state: State) -> None:
    """The module's state dict is that one, bit for bit."""
    own = module.state_dict()
    assert list(own) == list(state)
    for key, value in state.items():
        assert own[key].dtype == value.dtype, key
        assert own[key].shape == value.shape, key
        assert (
            own[key]
            .contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(value.contiguous().view(-1).view(torch.uint8))
        ), key


def error_of(call: Callable[[], object], code: str) -> BnfoldError:
    """The error that the call raises, which must have that code, and a what, a where and a fix."""
    with pytest.raises(BnfoldError) as caught:
        call()
    error = caught.value
    assert error.code == f"BNF-{code}", error
    assert error.exit_status == 2
    assert error.where, error
    assert error.fix, error
    lines = str(error).splitlines()
    assert len(lines) == 3, error
    assert max(map(len, lines)) <= 200, error
    return error


def torchscript(path: Path) -> Path:
    """A compiled program, as torch.jit.save writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; files of it are about
        torch.jit.save(torch.jit.trace(Net().eval(), torch.zeros(1, 1, 5, 5)), path)
    return path
