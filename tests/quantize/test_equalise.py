"""Channels of very different size: the same float network in every bit, one that 8 bits are enough for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bnfold
from bnfold import graph as g
from bnfold import manifest, rounding
from bnfold.capture import capture
from bnfold.quantize import equalise
from tests.export.bodies import Net, draw, set_weights

WILD = 10 ** np.linspace(-3, 0, 12)


def wild(first: nn.Module, *readers: nn.Module) -> None:
    """Rows of ``first`` multiplied by 0.001 to 1, and the columns that read them divided by the same."""
    scales = torch.from_numpy(WILD[: len(first.weight)]).float()
    with torch.no_grad():
        first.weight.mul_(scales.reshape(-1, *[1] * (first.weight.dim() - 1)))
        if first.bias is not None:
            first.bias.mul_(scales)
        for layer in readers:
            columns = scales.reshape(getattr(layer, "groups", 1), 1, layer.weight.shape[1], 1)
            shape = layer.weight.shape
            layer.weight.copy_(
                (layer.weight.reshape(columns.shape[0], -1, shape[1], shape[2:].numel()) / columns).reshape(
                    shape
                )
            )


def conv(i: int, o: int, k: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **more)


CASES: dict[str, tuple[nn.Module, tuple[int, ...], list[str]]] = {
    "relu": (Net(lambda m, x: m.b(torch.relu(m.a(x))), a=conv(3, 12), b=conv(12, 5)), (2, 3, 8, 8), ["a"]),
    "nothing between": (Net(lambda m, x: m.b(m.a(x)), a=conv(3, 12), b=conv(12, 5)), (2, 3, 8, 8), ["a"]),
    "leaky relu, grouped": (
        Net(lambda m, x: m.b(nn.functional.leaky_relu(m.a(x), 0.1)), a=conv(3, 12), b=conv(12, 6, groups=3)),
        (2, 3, 8, 8),
        ["a"],
    ),
    "prelu, max pool": (
        Net(
            lambda m, x: m.b(nn.functional.max_pool2d(m.act(m.a(x)), 3, 2, 1)),
            a=conv(3, 12),
            act=nn.PReLU(12),
            b=conv(12, 5),
        ),
        (2, 3, 8, 8),
        ["a"],
    ),
    "depthwise": (
        Net(
            lambda m, x: m.c(torch.relu(m.b(torch.relu(m.a(x))))),
            a=conv(3, 12),
            b=conv(12, 12, groups=12, padding=1),
            c=conv(12, 5, 1),
        ),
        (2, 3, 8, 8),
        ["a", "b"],
    ),
    "two readers": (
        Net(lambda m, x: m.b(y := torch.relu(m.a(x))) + m.c(y), a=conv(3, 12), b=conv(12, 5), c=conv(12, 5)),
        (2, 3, 8, 8),
        ["a"],
    ),
    "mean, linear": (
        Net(lambda m, x: m.b(torch.relu(m.a(x)).mean((2, 3))), a=conv(3, 12), b=nn.Linear(12, 4)),
        (2, 3, 8, 8),
        ["a"],
    ),
    "pooled and flat": (
        Net(
            lambda m, x: m.b(nn.functional.adaptive_avg_pool2d(m.a(x), 1).flatten(1)),
            a=conv(3, 12),
            b=nn.Linear(12, 4),
        ),
        (2, 3, 8, 8),
        ["a"],
    ),
    "linear": (
        Net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Linear(7, 12), b=nn.Linear(12, 3)),
        (64, 7),
        ["a"],
    ),
}

REFUSED: dict[str, nn.Module] = {
    "sigmoid": Net(lambda m, x: m.b(torch.sigmoid(m.a(x))), a=conv(3, 12), b=conv(12, 5)),
    "relu6": Net(lambda m, x: m.b(nn.functional.relu6(m.a(x))), a=conv(3, 12), b=conv(12, 5)),
    "a sum": Net(lambda m, x: m.b(m.a(x) + 1), a=conv(3, 12), b=conv(12, 5)),
    "an output": Net(lambda m, x: (m.b(y := m.a(x)), y), a=conv(3, 12), b=conv(12, 5)),
    "a mean over channels": Net(lambda m, x: m.b(m.a(x).mean(1, keepdim=True)), a=conv(3, 12), b=conv(1, 5)),
    "a flattened map": Net(lambda m, x: m.b(m.a(x).flatten(1)), a=conv(3, 12), b=nn.Linear(12 * 36, 5)),
    "one weight twice": Net(lambda m, x: m.b(m.a(m.a(x))), a=conv(3, 3, padding=1), b=conv(3, 5)),
    "a negative slope": Net(
        lambda m, x: m.b(nn.functional.leaky_relu(m.a(x), -0.5)), a=conv(3, 12), b=conv(12, 5)
    ),
}


def body_of(module: nn.Module, inputs: torch.Tensor) -> torch.fx.GraphModule:
    return capture(module.eval(), (inputs,)).body


def spread(body: torch.fx.GraphModule, layer: str, inputs: torch.Tensor) -> float:
    """The largest channel of a layer's output over its smallest."""
    (node,) = [n for n in body.graph.nodes if equalise._has_weights(n) and g.layer_name(n) == layer]
    found = equalise._largest(body, [node], [[inputs]])[node]
    return float(found.max() / found.min())


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_and_channels_alike(name: str) -> None:
    module, shape, layers = CASES[name]
    inputs = draw(*shape)
    set_weights(module)
    for layer in layers:
        readers = {"two readers": ("b", "c"), "depthwise": {"a": ("b",), "b": ("c",)}[layer]}.get(
            name, ("b",)
        )
        wild(module.get_submodule(layer), *[module.get_submodule(reader) for reader in readers])
    body = body_of(module, inputs)
    before = [value.clone() for value in body.state_dict().values()]
    even, changed = equalise.equalised(body, [[draw(*shape, seed=seed)] for seed in range(4)])
    assert changed == layers
    with torch.no_grad():
        for seed in range(3):
            x = draw(*shape, seed=seed)
            assert all(torch.equal(a, b) for a, b in zip(even(x), body(x), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, body.state_dict().values(), strict=True))
    for layer in layers:
        assert spread(body, layer, inputs) > 200
        assert spread(even, layer, inputs) < spread(body, layer, inputs) / 10


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_scale_does_not_pass(name: str) -> None:
    body = body_of(set_weights(REFUSED[name]), draw(1, 3, 8, 8))
    assert [g.layer_name(pair.producer) for pair in equalise.pairs(body)] == []
    assert equalise.equalised(body, [[draw(1, 3, 8, 8)]]) == (body, [])


def test_channels_that_are_dead_or_alike_are_left_alone() -> None:
    module = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=conv(3, 4), b=conv(4, 5))
    calls = [[draw(2, 3, 8, 8)]]
    with torch.no_grad():
        module.a.weight.copy_(
            torch.ones_like(module.a.weight) * torch.tensor([1.0, 2.0, 3.0, 3.5]).reshape(4, 1, 1, 1)
        )
    assert equalise.equalised(body_of(module, draw(2, 3, 8, 8)), calls)[1] == []
    with torch.no_grad():
        module.a.weight[0] = 0
        module.a.bias.zero_()
        module.a.weight[1] *= 1e-3
    even, changed = equalise.equalised(body_of(module, draw(2, 3, 8, 8)), calls)
    assert changed == ["a"]
    (weight,) = [value for name, value in even.state_dict().items() if name.endswith("a.weight")]
    assert not weight[0].any()
    assert torch.isfinite(weight).all()


class Mobile(nn.Module):
    """Depthwise and pointwise blocks, as in MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 12, 3, 1), (12, 12, 3, 12), (12, 12, 1, 1), (12, 12, 3, 12), (12, 12, 1, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, groups=n, bias=False) for i, o, k, n in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in sizes)
        self.fc = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_it_decides_whether_such_a_network_passes(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, generator = Mobile(), np.random.default_rng(0)
    samples = generator.random((32, 3, 16, 16), dtype=np.float32)
    with torch.no_grad():
        module.train()
        for _ in range(80):
            module(torch.from_numpy(samples))
        module.eval()
        for norm, layer in zip(module.norms, module.convs[1:], strict=False):
            scales = torch.from_numpy(generator.permutation(WILD)).float()
            norm.weight.mul_(scales)
            norm.bias.mul_(scales)
            layer.weight.div_(scales.reshape(*((-1, 1) if layer.groups > 1 else (1, -1)), 1, 1))

    def converted(name: str) -> tuple[bool, float, dict[str, Any]]:
        result = bnfold.convert(
            module, (torch.zeros(1, 3, 16, 16),), to=target, output=tmp_path, name=name, samples=samples,
            precision="int8", min_agreement=0.95,
        )  # fmt: skip
        said = manifest.read(result.artifacts[0].path)["quantisation"]
        return result.passed, result.agreement[0].snr_db, said

    passed, snr, said = converted("even")
    assert passed
    assert snr > 25
    assert said["equalised"] == ["convs.0", "convs.1", "convs.2", "convs.3"]
    monkeypatch.setattr(rounding.equalise, "equalised", lambda body, calls: (body, []))
    passed, without, said = converted("plain")
    assert not passed
    assert without < snr - 10
    assert said["equalised"] == []
