"""A write to a part of a tensor: the tensor put together again, and every view of it that is read later."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bnfold.capture import capture
from bnfold.errors import CaptureError

from .networks import Net, frames, require_exact


def piece_of_a_read_base(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h.chunk(2, 1)[0].relu_()
    return h


def piece_of_a_written_base(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    h = net.layers(x)
    first = h.unbind(1)[0]
    h.relu_()
    return first + 0, h


def view_of_a_view(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h.view(2, 4, 36).view(2, 2, 72).relu_()
    return h


def sibling_views(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    one, other = h[:, :2], h[:, :3]
    one.relu_()
    return other + 0


def view_of_an_input(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    part = x[:, :2]
    x.relu_()
    return net.layers(x), part + 0


def cut_written_and_read(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = net.layers(x)
    y.relu_()
    part = y[:, :2]
    part.add_(1)
    return part, y


def channels_and_a_row(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h[:, 1:3] = x[:, :2]
    h[..., -1] = 0
    h[:, 0] += 1
    return h


def every_other(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h[:, :, ::2, 1::2] = h[:, :, 1::2, ::2]
    h[:, 1:4:2] *= 2
    h[..., 1:6:3] = 3
    h[..., ::4] = 4
    h[..., 2:6:5] = 5
    h[:, :, :0] = 6
    return h


def onto_itself(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h[:, :2] = h[:, 2:]
    h[:] = h.flip(1)
    h[:, 1:] = h[:, 1:2]
    return h


def reordered(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h.permute(0, 2, 3, 1)[..., :2] = 0.5
    h.transpose(1, 2)[:, 0] = 1
    h.mT[..., 0] = 2
    h.swapaxes(0, 1).movedim(0, 2)[1, 1] = 3
    h.unflatten(1, (2, 2))[:, 0, 1] -= 1
    h.unsqueeze(1)[:, 0, 0].mul_(2)
    h.narrow(1, 1, 2).view(2, 2, 36)[:, 1, 5:7] = 7
    h.select(2, -2).neg_()
    return h


def pieces(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    h = net.layers(x)
    a, b = h.split([1, 3], 1)
    c, d = b.tensor_split(2, 1)
    a += 1
    c *= 2
    h.unbind(2)[4].relu_()
    d[:, 0, 0] = b[:, 0, 1]
    return h, a, b, c, d


def a_part_written_twice(net: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    h = net.layers(x)
    part = h[:, 1:]
    inner = part[:, :, 2:4]
    part *= 2
    inner -= 1
    h += 3
    part[:, 0] = inner.mean()
    inner.relu_()
    return h, part, inner


def into_a_blank(net: Net, x: torch.Tensor) -> torch.Tensor:
    h, blank = net.layers(x), torch.zeros(2, 6, 8, 8)
    blank[:, 1:5, 1:-1, 1:-1] = h
    blank[:, 0] = 7
    blank[:, [5], 2] = 1.5
    return blank


def step_by_step(net: Net, x: torch.Tensor) -> torch.Tensor:
    h, out = x[:, :, 0], torch.zeros(2, 5, 4, 6)
    for step in range(5):
        h = torch.tanh(h + x[:, :, step])
        out[:, step] = h
    return out


def of_another_type(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h[:, 0] = h[:, 1] > 0
    h[:, 2:] = torch.arange(6)
    return h


@pytest.mark.parametrize(
    "forward",
    [
        piece_of_a_read_base,
        piece_of_a_written_base,
        view_of_a_view,
        sibling_views,
        view_of_an_input,
        cut_written_and_read,
        channels_and_a_row,
        every_other,
        onto_itself,
        reordered,
        pieces,
        a_part_written_twice,
        into_a_blank,
        step_by_step,
        of_another_type,
    ],
)
def test_exact(forward: Callable[..., Any]) -> None:
    require_exact(Net(forward), frames(), call=(frames(seed=2),))


@pytest.mark.parametrize("forward", [channels_and_a_row, every_other, onto_itself, view_of_an_input])
def test_any_batch(forward: Callable[..., Any]) -> None:
    require_exact(Net(forward), frames(), dynamic_batch=True, call=(frames(5, seed=2),))


def shifted_within(net: Net, x: torch.Tensor) -> torch.Tensor:
    """The spatial shift of S2-MLP as published: which row is read, the old one or the new?"""
    h = net.layers(x)
    h[:, :2, 1:] = h[:, :2, :-1]
    return h


def turned_within(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h[0, 0] = h[0, 0].T
    return h


@pytest.mark.parametrize("forward", [shifted_within, turned_within])
def test_refused(forward: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Net(forward), (frames(),))
    assert caught.value.code == "BNF-C013"
    assert "networks.py:" in caught.value.where
    assert "clone()" in caught.value.fix


def part_of_the_batch(net: Net, x: torch.Tensor) -> torch.Tensor:
    h = net.layers(x)
    h[0] = 1
    h[-1:] *= 2
    return h


def test_part_of_a_batch_of_any_size() -> None:
    for count in (1, 2, 5):
        require_exact(Net(part_of_the_batch), frames(), dynamic_batch=True, call=(frames(count, seed=2),))


def test_a_write_is_one_join() -> None:
    """``h[:, 1:3] += x`` adds in place and copies the sum to where it is already: that is no second join."""

    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        h = net.layers(x)
        h[:, 1:3] += x[:, :2]
        return h

    body = capture(Net(forward), (frames(),)).body
    operators = [node.target for node in body.graph.nodes if node.op == "call_function"]
    assert operators.count(torch.ops.aten.cat.default) == 1
    assert torch.ops.aten.copy.default not in operators


def test_a_loop_of_writes_is_one_join() -> None:
    body = capture(Net(step_by_step), (frames(),)).body
    (join,) = (node for node in body.graph.nodes if node.target is torch.ops.aten.cat.default)
    assert len(join.args[0]) == 5
    assert not any(node.target is torch.ops.aten.zeros.default for node in body.graph.nodes)


_VIEWS: list[Callable[[torch.Tensor, random.Random], torch.Tensor]] = [
    lambda t, r: t.narrow(a := r.randrange(t.ndim), s := r.randrange(t.shape[a]), t.shape[a] - s),
    lambda t, r: t.select(a := r.randrange(t.ndim), r.randrange(-t.shape[a], t.shape[a])),
    lambda t, r: t.permute(r.sample(range(t.ndim), t.ndim)),
    lambda t, r: t.unsqueeze(r.randint(0, t.ndim)),
    lambda t, r: r.choice(t.chunk(r.randint(1, 3), r.randrange(t.ndim))),
    lambda t, r: r.choice(t.unbind(r.randrange(t.ndim))),
    lambda t, r: t[..., r.randrange(t.shape[-1]) :: r.randint(1, 3)],
    lambda t, r: t.unflatten(0, (1, t.shape[0])),
    lambda t, r: t.squeeze(),
]
_WRITES: list[Callable[[torch.Tensor, torch.Tensor, random.Random], Any]] = [
    lambda t, v, r: t.relu_(),
    lambda t, v, r: t.add_(r.randint(1, 3)),
    lambda t, v, r: t.mul_(0.5),
    lambda t, v, r: t.fill_(r.random()),
    lambda t, v, r: t.copy_(v.amax() + t.flip(-1)),
    lambda t, v, r: t.copy_(t),
]


class Scribbler(nn.Module):
    """Takes random views of one tensor and of each other, writes to some, and returns some of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.scale = seed, nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chance = random.Random(self.seed)
        live = [x * self.scale]
        for _ in range(14):
            one = chance.choice(live)
            if one.ndim and chance.random() < 0.1:
                live.append(torch.cat([one, one * 2], chance.randrange(one.ndim)))
            elif 0 < one.ndim < 6 and chance.random() < 0.6:
                live.append(chance.choice(_VIEWS)(one, chance))
            elif one.ndim:
                chance.choice(_WRITES)(one, chance.choice(live), chance)
        return tuple(value + 0 for value in live if chance.random() < 0.7) or (live[0] + 0,)


@pytest.mark.parametrize("seed", range(60))
def test_random_writes(seed: int) -> None:
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    require_exact(Scribbler(seed), x, call=(x.flip(0) * 2,))
