"""Linear layers, and what reads a sequence: which axis are the channels?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.fold.micro_graphs.micro import Micro, Sizes
from tests.fold.networks import Net


def over_the_length(s: Sizes) -> nn.Module:
    """BatchNorm1d takes the second axis of (batch, length, features) for the channels."""
    return nn.Sequential(nn.Linear(s.c, s.k), nn.BatchNorm1d(s.h))


def transposed(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.norm(m.linear(x).transpose(1, 2)).transpose(1, 2),
        linear=nn.Linear(s.c, s.k), norm=nn.BatchNorm1d(s.k),
    )  # fmt: skip


def levit(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.linear(x)
        return m.norm(y.flatten(0, 1)).reshape_as(y)

    return Net(run, linear=nn.Linear(s.c, s.k, bias=False), norm=nn.BatchNorm1d(s.k))


def rows_split(s: Sizes) -> nn.Module:
    """(batch, length, features) read as (batch, features, length): a channel is no row and no column."""
    return Net(
        lambda m, x: m.norm((x @ m.matrix).reshape(s.n, s.k, s.h)),
        matrix=nn.Parameter(torch.randn(s.c, s.k)), norm=nn.BatchNorm1d(s.k),
    )  # fmt: skip


def product_transposed(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: m.norm((x @ m.matrix).transpose(1, 2)),
        matrix=nn.Parameter(torch.randn(s.c, s.k)), norm=nn.BatchNorm1d(s.k),
    )  # fmt: skip


def product_behind_transpose(s: Sizes) -> nn.Module:
    return Net(
        lambda m, x: torch.tanh(m.norm(torch.sigmoid(x)).transpose(1, 2) @ m.matrix),
        matrix=nn.Parameter(torch.randn(s.c, s.k)), norm=nn.BatchNorm1d(s.c),
    )  # fmt: skip


def parallel_heads(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = m.norm(x)
        return m.a(y), m.b(y), m.c(y)

    heads = {"a": nn.Linear(s.c, s.k), "b": nn.Linear(s.c, s.c, bias=False), "c": nn.Linear(s.c, 3)}
    return Net(run, norm=nn.BatchNorm1d(s.c), **heads)


def one_head_more(s: Sizes) -> nn.Module:
    def run(m: Net, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = m.norm(x)
        return m.a(y), torch.sigmoid(y)

    return Net(run, norm=nn.BatchNorm1d(s.c), a=nn.Linear(s.c, s.k))


def recurrent(kind: type[nn.RNNBase]) -> Micro:
    def build(s: Sizes) -> nn.Module:
        layer = kind(s.c, s.k, 2, batch_first=True, bidirectional=True)
        return Net(
            lambda m, x: m.layer(m.norm(x).transpose(1, 2))[0], norm=nn.BatchNorm1d(s.c), layer=layer
        )

    return Micro(f"BatchNorm -> {kind.__name__}, two layers, both directions", build, shape="sequence")


def attention(s: Sizes) -> nn.Module:
    """One projection for query, key and value, as nn.MultiheadAttention has it."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.norm(x).transpose(1, 2)
        z: torch.Tensor = m.attention(y, y, y)[0]
        return z

    return Net(run, norm=nn.BatchNorm1d(s.c), attention=nn.MultiheadAttention(s.c, 2, batch_first=True))


def projections(s: Sizes) -> nn.Module:
    """Three projections of one value."""

    def run(m: Net, x: torch.Tensor) -> torch.Tensor:
        y = m.norm(x).transpose(1, 2)
        return F.scaled_dot_product_attention(m.q(y), m.k(y), m.v(y))

    layers = {name: nn.Linear(s.c, s.k, bias=name != "k") for name in "qkv"}
    return Net(run, norm=nn.BatchNorm1d(s.c), **layers)


def collapsing(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Linear(s.c, 32), nn.BatchNorm1d(32), nn.Linear(32, s.k))


def narrow(s: Sizes) -> nn.Module:
    return nn.Sequential(nn.Linear(s.c, 3), nn.BatchNorm1d(3), nn.Linear(3, 16))


THROUGH = [
    Micro("Linear -> BatchNorm", lambda s: nn.Sequential(nn.Linear(s.c, s.k), nn.BatchNorm1d(s.k)),
          shape="features"),
    Micro("BatchNorm -> Linear", lambda s: nn.Sequential(nn.BatchNorm1d(s.c), nn.Linear(s.c, s.k)),
          shape="features"),
    Micro("matmul -> transpose -> BatchNorm", product_transposed, shape="tokens"),
    Micro("BatchNorm -> transpose -> matmul", product_behind_transpose, shape="sequence"),
    Micro("BatchNorm over the length -> Linear",
          lambda s: nn.Sequential(nn.BatchNorm1d(s.h), nn.Linear(s.c, s.k)), "kept",
          "the network's input is before it, and the layer behind mixes other numbers than it scales",
          shape="tokens"),
    recurrent(nn.LSTM), recurrent(nn.GRU), recurrent(nn.RNN),
    Micro("BatchNorm -> MultiheadAttention", attention, shape="sequence"),
    Micro("BatchNorm -> query, key, value", projections, shape="sequence"),
    Micro("Linear -> BatchNorm -> Linear, wide between", collapsing, shape="features", saves=1),
    Micro("Linear -> BatchNorm -> Linear, narrow between", narrow, shape="features"),
    Micro("BatchNorm -> one linear layer and the output", one_head_more, "kept",
          "all readers or none: the sigmoid takes neither scale nor shift", shape="features"),
]  # fmt: skip
