"""Calling the folded network: what it takes as the original does, and what it refuses with a code."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnfold.errors import UsageError
from bnfold.fold import FoldedModule, fold
from tests.fold.networks import draw_statistics


class Scaled(nn.Module):
    """Parameters with defaults behind the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor, scale: float = 2.0, flag: bool = True, name: str | None = None) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y * scale if flag else y


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y: Tensor = self.norm(a) + b
        return y


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return draw_statistics(Scaled(), 0).eval()


@pytest.fixture(scope="module")
def folded(module: nn.Module) -> FoldedModule:
    return fold(module, (X,)).module


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((2.0,), {}),
        ((2.0, True), {}),
        ((2.0, True, None), {}),
        ((), {"scale": 2.0}),
        ((), {"flag": True}),
        ((), {"name": None, "scale": 2.0}),
    ],
)
def test_defaults_may_be_spelled_out(
    module: nn.Module, folded: FoldedModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    expected, got = module(X, *args, **kwargs), folded(X, *args, **kwargs)
    assert (got - expected).abs().max() < 1e-5
    assert expected.abs().max() > 1


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((3.0,), {}), ((2.0, False), {}), ((), {"flag": False}), ((), {"name": "x"}), ((2,), {}), ((X,), {})],
)
def test_other_values_than_the_defaults_are_refused(
    folded: FoldedModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as caught:
        folded(X, *args, **kwargs)
    assert caught.value.code == "BNF-U020"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (X.numpy(), "a numpy.ndarray"),
        (None, "None"),
        (3.0, "a float"),
        (np.float32(1), "a numpy.float32"),
    ],
)
def test_what_is_no_tensor_is_refused(folded: FoldedModule, given: object, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        folded(given)
    assert (caught.value.code, caught.value.what) == ("BNF-U027", f"input 'x' is {kind}, and no tensor")


@pytest.mark.parametrize(
    "call", [lambda f: f(), lambda f: f([X]), lambda f: f(X, X, X, X, X), lambda f: f(y=X)]
)
def test_another_structure(folded: FoldedModule, call: Callable[[FoldedModule], Tensor]) -> None:
    with pytest.raises(UsageError) as caught:
        call(folded)
    assert caught.value.code == "BNF-U020"


def test_another_dtype_is_refused_unless_the_module_was_brought_to_it(
    module: nn.Module, folded: FoldedModule
) -> None:
    with pytest.raises(UsageError, match="'x' is float64; the graph was captured for") as caught:
        folded(X.double())
    assert caught.value.code == "BNF-U028"
    assert "module.to(torch.float64)" in caught.value.fix
    double = fold(module, (X,)).module.double()
    assert (double(X.double()) - module(X)).abs().max() < 1e-5
    with pytest.raises(UsageError, match="'x' is float16"):
        double(X.half())


def test_batches_that_differ_are_refused() -> None:
    module = draw_statistics(Two(), 0).eval()
    folded = fold(module, (torch.zeros(1, 4), torch.zeros(1, 4)), dynamic_batch=True).module
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    assert (folded(a, b) - module(a, b)).abs().max() < 1e-5
    with pytest.raises(UsageError) as caught:
        folded(a, b[:2])
    assert caught.value.code == "BNF-U029"
    assert "'a' has 3, 'b' has 2" in caught.value.what


def test_a_symbolic_batch_can_be_exported_again() -> None:
    module = draw_statistics(Two(), 0).eval()
    folded = fold(module, (torch.zeros(1, 4), torch.zeros(1, 4)), dynamic_batch=True).module
    batch = {0: torch.export.Dim("batch")}
    again = torch.export.export(
        folded, (torch.randn(2, 4), torch.randn(2, 4)), dynamic_shapes={"a": batch, "b": batch}
    )
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    assert torch.equal(again.module()(a, b), folded(a, b))


def test_constants_lie_in_the_order_of_their_axes() -> None:
    """An exporter reads others after their memory has been given back, and writes what is there by then."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)).eval()
    module.to(memory_format=torch.channels_last)
    folded = fold(module, (torch.zeros(1, 3, 8, 8),)).module
    assert all(constant.is_contiguous() for constant in folded.state_dict().values())
    assert not module[0].weight.is_contiguous()


def test_what_the_network_makes_out_of_nothing_is_stored_as_a_buffer() -> None:
    """torch.load traces the graph anew: what it makes then, only the loaded one would have."""

    class Twisted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.gru = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x)).flatten(2) + torch.eye(4, 64, device=x.device)
            return self.gru(y.transpose(1, 2))[0] * torch.arange(5.0)

    module = draw_statistics(Twisted(), 0).eval()
    result = fold(module, (X,)).module
    file = io.BytesIO()
    torch.save(result, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded.state_dict().keys() == result.state_dict().keys()
    loaded.load_state_dict(result.state_dict())
    assert torch.equal(loaded(X), result(X))
    moved = result.double()(X.double())  # all of it, with what a factory would make in float32
    assert moved.dtype == torch.float64
    assert (moved - module.double()(X.double())).abs().max() < 1e-5
