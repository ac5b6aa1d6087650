"""Small networks as the exporters get them: a flat graph, its specs, an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from bnfold.capture import capture
from bnfold.export import Exported
from bnfold.signature import TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]


class Net(nn.Module):
    """A forward as a function of the module and its inputs; keyword arguments are its layers."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


class Net2(Net):
    """The same with two inputs."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:  # type: ignore[override]
        return self.run(self, x, y)


@dataclass(frozen=True)
class Body:
    """A captured network and what the original says of its example."""

    body: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: tuple[torch.Tensor, ...]
    expected: dict[str, Array]

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.body, self.inputs, self.outputs, self.example


def draw(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def set_weights(module: nn.Module, seed: int = 3) -> nn.Module:
    """Draw all parameters, so that no bias is zero and no network depends on the global generator."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = (
            torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5
        )
    return module.eval()


def body_of(
    module: nn.Module,
    *example: torch.Tensor,
    dynamic_batch: bool = False,
    change: Callable[[nn.Module], None] | None = None,
) -> Body:
    """``change``: what is to be other than drawn."""
    set_weights(module)
    if change is not None:
        change(module)
    captured = capture(module, example, dynamic_batch=dynamic_batch)
    with torch.no_grad():
        leaves = [leaf.numpy() for leaf in tree_leaves(module(*example))]
    expected = {spec.name: leaf for spec, leaf in zip(captured.outputs, leaves, strict=True)}
    return Body(captured.body, captured.inputs, captured.outputs, example, expected)


def feeds(body: Body) -> dict[str, Array]:
    return {spec.name: tensor.numpy() for spec, tensor in zip(body.inputs, body.example, strict=True)}


def run_onnx(exported: Exported, arrays: dict[str, Array]) -> dict[str, Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.data, providers=["CPUExecutionProvider"])
    values = session.run(
        list(exported.outputs.values()), {exported.inputs[name]: array for name, array in arrays.items()}
    )
    return dict(zip(exported.outputs, values, strict=True))


def run_tflite(exported: Exported, arrays: dict[str, Array]) -> dict[str, Array]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=exported.data, num_threads=1).get_signature_runner()
    values = runner(**{exported.inputs[name]: array for name, array in arrays.items()})
    return {name: values[key] for name, key in exported.outputs.items()}
