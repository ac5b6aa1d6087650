"""What the captured graph promises to every later stage."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.capture import capture
from bnfold.errors import CaptureError, UsageError
from bnfold.numerics import max_abs_error


class Sensor(nn.Module):
    """Two inputs of equal shape, a dict of outputs with a nested tuple, and a None."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor, gain: float = 2.0) -> dict[str, Any]:
        y = self.a(left) - self.b(right)
        return {"y": y * gain, "aux": (y.exp(), [left + 1]), "none": None, "count": 3}


LEFT, RIGHT = torch.randn(1, 4), torch.randn(1, 4)


def test_names_and_structure() -> None:
    captured = capture(Sensor(), (LEFT, RIGHT))
    assert [spec.name for spec in captured.inputs] == ["left", "right"]
    assert [spec.name for spec in captured.outputs] == ["y", "aux.0", "aux.1.0"]
    assert captured.structure.constant_names == ("none", "count")
    assert [node.name for node in captured.body.graph.nodes if node.op == "placeholder"] == ["left", "right"]


def test_flat_results_are_the_modules_own() -> None:
    module = Sensor().eval()
    captured = capture(module, (LEFT, RIGHT))
    expected = module(LEFT, RIGHT)
    flat = captured.body(*captured.flatten((LEFT,), {"right": RIGHT}))
    actual = captured.unflatten(flat)
    assert list(actual) == list(expected)
    assert actual["none"] is None
    assert actual["count"] == 3
    for a, e in ((actual["y"], expected["y"]), (actual["aux"][0], expected["aux"][0])):
        assert torch.equal(a, e)
    assert torch.equal(actual["aux"][1][0], LEFT + 1)


def test_the_structure_survives_pickling() -> None:
    structure = capture(Sensor(), (LEFT, RIGHT)).structure
    copied = pickle.loads(pickle.dumps(structure))
    assert copied.in_spec == structure.in_spec
    assert copied.out_spec == structure.out_spec


@pytest.mark.parametrize(
    ("args", "code"),
    [((LEFT,), "BNF-U020"), ((LEFT, [RIGHT]), "BNF-U020"), ((LEFT, torch.zeros(1, 5)), "BNF-U021")],
)
def test_other_arguments_are_an_error(args: tuple[Any, ...], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        capture(Sensor(), (LEFT, RIGHT)).flatten(args)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("args", "code"), [([LEFT, RIGHT], "BNF-U022"), ((LEFT,), "BNF-U020"), ((1.0, 2.0), "BNF-U022")]
)
def test_unusable_examples(args: Any, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        capture(Sensor(), args)
    assert caught.value.code == code


class Variadic(nn.Module):
    def forward(self, *xs: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict(sum=xs[0] + xs[1], last=xs[-1] * 2)


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["image"] + batch["pair"][1]


def test_names_of_nested_and_variadic_inputs() -> None:
    variadic = capture(Variadic(), (LEFT, RIGHT))
    assert [spec.name for spec in variadic.inputs] == ["xs.0", "xs.1"]
    assert [spec.name for spec in variadic.outputs] == ["sum", "last"]
    nested = capture(Nested(), ({"image": LEFT, "pair": (RIGHT, LEFT)},))
    assert [spec.name for spec in nested.inputs] == ["batch.image", "batch.pair.0", "batch.pair.1"]
    assert [spec.name for spec in nested.outputs] == ["output"]


class Casts(nn.Module):
    """Hard-codes float32, as LSTM implementations and integer inputs do."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1e-3]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.float32) * self.scale
        return y + torch.zeros(1, dtype=torch.float32) + torch.ones(4).float() / 3


def test_the_twin_computes_in_float64_even_where_the_graph_names_float32() -> None:
    module, x = Casts(), torch.arange(4).reshape(1, 4)
    twin = capture(module, (x,)).twin()
    (actual,) = twin(x)
    scale = module.scale.detach().numpy().astype(np.float64)
    assert actual.dtype == torch.float64
    assert max_abs_error(actual.detach().numpy(), x.numpy() * scale + np.ones(4) / 3) < 1e-9


def test_dropout_and_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU(inplace=True)).train()
    captured = capture(module, (LEFT,))
    assert all(child.training for child in module.modules())
    names = [str(node.target) for node in captured.body.graph.nodes if node.op == "call_function"]
    assert names == ["aten.linear.default", "aten.relu.default"]
    (actual,) = captured.body(LEFT)
    assert torch.equal(actual, module.eval()(LEFT))


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x * 2
        z = y.add_(1)
        y.relu_()
        return y, z * 3  # z is y: both see the relu


def test_in_place_operators_become_functional_with_their_effect_on_every_name() -> None:
    captured = capture(InPlace(), (LEFT,))
    expected = InPlace()(LEFT)
    for actual, want in zip(captured.body(LEFT), expected, strict=True):
        assert torch.equal(actual, want)


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 4) * 2


class Loop(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while x.norm() > 1:
            x = x / 2
        return x


class Strange(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.sort(x.numpy()))


@pytest.mark.parametrize(
    ("module", "dynamic", "code"),
    [(FixedBatch(), True, "BNF-C002"), (Loop(), False, "BNF-C001"), (Strange(), False, None)],
)
def test_failures_are_in_the_users_terms(
    module: nn.Module, dynamic: bool, code: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(module, (torch.randn(2, 4),), dynamic_batch=dynamic)
    if code is not None:
        assert caught.value.code == code
    assert "test_capture.py:" in caught.value.where
    assert caught.value.fix
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_symbolic_batch_takes_any_size(size: int) -> None:
    captured = capture(Sensor(), (LEFT, RIGHT), dynamic_batch=True)
    assert captured.inputs[0].shape == (None, 4)
    assert captured.outputs[0].shape == (None, 3)
    left, right = torch.randn(size, 4), torch.randn(size, 4)
    actual = captured.unflatten(captured.body(*captured.flatten((left, right))))
    assert max_abs_error(actual["y"].detach().numpy(), by_hand(captured, left, right)) < 1e-6


def by_hand(captured: Any, left: torch.Tensor, right: torch.Tensor) -> Any:
    p = {k: v.detach().double() for k, v in captured.body.state_dict().items()}
    y = left.double() @ p["a.weight"].T + p["a.bias"] - right.double() @ p["b.weight"].T - p["b.bias"]
    return (2 * y).float().numpy()
