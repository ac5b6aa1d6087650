"""What the ONNX exporter lacks or, as a divisor of one's own and a projection, writes as something else."""

from __future__ import annotations

import torch

from bnfold.export import rewrite_pool
from bnfold.export.rewrite import Call, Refusal, Replacement, Rewrite

aten = torch.ops.aten


def _own_divisor(call: Call) -> Replacement | Refusal | None:
    return None if call["divisor_override"] is None else rewrite_pool.avg_pool(call)


def _uneven_max(call: Call) -> Replacement | Refusal | None:
    out, size = call.result[0].shape, call["self"].shape
    even = all(n % o == 0 for n, o in zip(size, out, strict=True))
    return None if even else rewrite_pool.adaptive_pool(call)


def _projected_lstm(call: Call) -> Refusal | None:
    """An LSTM has four tensors a layer and direction, two without bias, and one more to project its state."""
    runs = call["num_layers"] * (2 if call["bidirectional"] else 1)
    projected = len(call["params"]) > runs * (4 if call["has_biases"] else 2)
    return Refusal("an ONNX LSTM has no projection (proj_size)") if projected else None


REWRITES = (
    Rewrite("projected_lstm", (aten.lstm.input,), _projected_lstm),
    Rewrite("avg_pool", (aten.avg_pool2d.default, aten.avg_pool3d.default), _own_divisor),
    Rewrite(
        "adaptive_pool",
        (
            aten.adaptive_max_pool1d.default,
            aten.adaptive_max_pool2d.default,
            aten.adaptive_max_pool3d.default,
        ),
        _uneven_max,
    ),
    Rewrite(
        "adaptive_pool",
        (aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default),
        rewrite_pool.adaptive_pool,
    ),
)
