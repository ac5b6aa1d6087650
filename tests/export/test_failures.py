"""What a converter cannot do is named by its operator and by the user's own line."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from bnfold.errors import BnfoldError, ExportError
from bnfold.export import onnx, tflite
from bnfold.export.failures import explain
from tests.export.bodies import body_of, draw


class CumulativeProduct(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        return torch.cumprod(y, 1)  # the line to be named


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(4, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pair(x, x)
        return y


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Tanh(), CumulativeProduct())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y


THIS_LINE = CumulativeProduct.forward.__code__.co_firstlineno + 2


@pytest.mark.parametrize("target", [onnx, tflite])
def test_operator_module_and_line(target: Any) -> None:
    with pytest.raises(ExportError) as refusal:
        target.export(*body_of(Outer(), draw(2, 4)).arguments)
    error = refusal.value
    assert error.code == "BNF-E004"
    assert error.what.startswith("aten.cumprod cannot be written as ")
    assert f"{Path(__file__).name}:{THIS_LINE}  `return torch.cumprod(y, 1)" in error.where
    assert "'inner.1'" in error.where
    assert error.exit_status == 2
    assert len(str(error).splitlines()) <= 5


def test_an_operator_that_the_converter_made_of_the_user_s_keeps_the_line() -> None:
    with pytest.raises(ExportError) as refusal:
        tflite.export(*body_of(Bilinear(), draw(1, 4)).arguments)
    assert refusal.value.code == "BNF-E004"
    assert f"{Path(__file__).name}:{Bilinear.forward.__code__.co_firstlineno + 1}" in refusal.value.where


def test_the_converter_s_last_words_are_kept_for_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import litert_torch

    def fail(*_: Any, **__: Any) -> None:
        print("thirteen of the last lines")
        raise RuntimeError("Pass failed for no reason")

    monkeypatch.setattr(litert_torch, "convert", fail)
    with pytest.raises(ExportError) as refusal:
        tflite.export(*body_of(nn.Linear(3, 4), draw(1, 3)).arguments)
    error = refusal.value
    assert error.code == "BNF-E005"
    assert "RuntimeError: Pass failed for no reason" in error.what
    assert "thirteen of the last lines" in "".join(traceback.format_exception(error))


def one_call(function: Any) -> fx.GraphModule:
    class One(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = function(x)
            return y

    return torch.export.export(One(), (torch.ones(2),)).module()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "operator", "message"),
    [
        ("Lowering not found: aten.sin.default", "aten.sin", "Lowering not found"),
        ("No ONNX function for aten::sin", "aten.sin", "No ONNX function"),
        (
            "Original traceback:\nFailed to export:\nTF Select ops: Conv3D\nDetails:",
            "Conv3D",
            "Failed to export",
        ),
        ("a.py:3:0: error: failed to legalize operation 'mhlo.conv'", "mhlo.conv", "failed to legalize"),
    ],
)
def test_messages(text: str, operator: str, message: str) -> None:
    error = explain(RuntimeError(text), one_call(torch.sin), "tflite")
    assert error.code == "BNF-E004"
    assert error.what.startswith(f"{operator} cannot be written as tflite: {message}")
    assert ("a.py" in error.what) is False


def test_the_cause_is_heard_before_its_wrapper() -> None:
    try:
        try:
            raise ValueError("Lowering not found: aten.cos.default")
        except ValueError as cause:
            raise RuntimeError("something failed") from cause
    except RuntimeError as wrapped:
        error = explain(wrapped, one_call(torch.cos), "onnx")
    assert error.what.startswith("aten.cos cannot be written as onnx: Lowering not found")
    assert "--to onnx" not in error.fix


def test_bnfold_s_own_errors_pass() -> None:
    own = BnfoldError("BNF-E090", "a test")
    assert explain(own, one_call(torch.sin), "onnx") is own
