"""Poolings that tflite-runtime lacks (3-D, dilated, uncounted padding), from 2-D poolings and elementwise
operators. Every one of them is separable: an axis at a time gives the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from bnfold.export.rewrite import Call, Refusal, Replacement, Rewrite

aten = torch.ops.aten
Tensor = torch.Tensor


class _Pool:
    """The arguments of one pooling call, one number per spatial axis."""

    def __init__(self, call: Call) -> None:
        self.input = next(iter(call.arguments.values()))
        result = call.result[0] if isinstance(call.result, tuple | list) else call.result
        name = str(call.node.target)
        self.axes = next(n for n in (1, 2, 3) if f"pool{n}d" in name)
        self.size: list[int] = list(self.input.shape[-self.axes :])
        self.out: list[int] = list(result.shape[-self.axes :])
        self.kernel = self._per_axis(call["kernel_size"])
        self.stride = self._per_axis(call["stride"] or call["kernel_size"])
        self.padding = self._per_axis(call["padding"])
        self.dilation = self._per_axis(call.arguments.get("dilation") or [1])
        self.ceil: bool = call["ceil_mode"]
        self.counts_padding: bool = call.arguments.get("count_include_pad", True)
        self.divisor: int | None = call.arguments.get("divisor_override")

    def _per_axis(self, value: Sequence[int]) -> list[int]:
        return list(value) * self.axes if len(value) == 1 else list(value)

    @property
    def after(self) -> list[int]:
        """Padding at the end that gives exactly the windows of the result (negative: values not reached)."""
        return [
            (out - 1) * s + d * (k - 1) + 1 - size - p
            for out, s, d, k, size, p in zip(
                self.out, self.stride, self.dilation, self.kernel, self.size, self.padding, strict=True
            )
        ]

    def padded(self, x: Tensor, value: float) -> Tensor:
        """``x`` with its padding written out, each axis just as long as the windows reach."""
        ends: list[int] = []
        for axis, (before, after) in enumerate(zip(self.padding, self.after, strict=True)):
            if after < 0:
                dim = x.ndim - self.axes + axis
                x = x.narrow(dim, 0, x.shape[dim] + after)
            ends = [before, max(after, 0), *ends]
        return F.pad(x, ends, value=value) if any(ends) else x


def max_pool(call: Call) -> Replacement | Refusal | None:
    """A 3-D or dilated max pooling, an axis at a time.

    Algebra: the maximum over a box is the maximum over one axis of the maxima over the others. Undilated 3-D:
    max_pool2d over (H, W), then over (D, 1) with H and W as one axis. Dilated: on each axis the elementwise
    maximum of the k strided slices that start at tap * dilation. The padding is the lowest finite value: it
    never wins, since every window holds a real one.
    Shapes: (..., *size) -> (..., *out). Refuses nothing; indices that are used are refused by the engine.
    """
    pool = _Pool(call)
    dilated = any(step > 1 for step in pool.dilation)
    if pool.axes < 3 and not dilated:
        return None
    function = _dilated_max(pool) if dilated else _max_3d(pool)
    return Replacement(lambda x, *_: function(x))


def _max_3d(pool: _Pool) -> Any:
    def function(x: Tensor) -> Tensor:
        lead, (depth, height, width) = x.shape[:-3], x.shape[-3:]
        y = x.reshape(1, -1, height, width)
        y = F.max_pool2d(y, pool.kernel[1:], pool.stride[1:], pool.padding[1:], 1, pool.ceil)
        y = y.reshape(1, -1, depth, pool.out[1] * pool.out[2])
        y = F.max_pool2d(y, (pool.kernel[0], 1), (pool.stride[0], 1), (pool.padding[0], 0), 1, pool.ceil)
        return y.reshape(*lead, *pool.out)

    return function


def _dilated_max(pool: _Pool) -> Any:
    def function(x: Tensor) -> Tensor:
        y = pool.padded(x, torch.finfo(x.dtype).min)
        for axis in range(pool.axes):
            dim = y.ndim - pool.axes + axis
            length = (pool.out[axis] - 1) * pool.stride[axis] + 1
            taps = [
                aten.slice.Tensor(y, dim, start, start + length, pool.stride[axis])
                for start in (tap * pool.dilation[axis] for tap in range(pool.kernel[axis]))
            ]
            y = taps[0]
            for tap in taps[1:]:
                y = torch.maximum(y, tap)
        return y

    return function


def avg_pool(call: Call) -> Replacement | Refusal | None:
    """A 3-D average pooling, or one whose divisor is not the kernel's size.

    Algebra: y = mean(box) * (kernel size / divisor), with zeros for the padding. The mean over a box is the
    mean over D of the means over (H, W). The divisor counts, per axis, the window cut at the padded end
    (count_include_pad) or at the real ends, or it is divisor_override; where the factor is not one, it is a
    constant map of the result's spatial shape.
    Shapes: (..., *size) -> (..., *out).
    """
    pool = _Pool(call)
    counted = pool.counts_padding or not any(pool.padding)
    if pool.axes < 3 and counted and pool.divisor is None:
        return None
    factor = _factor(pool)
    needed = not torch.equal(factor, torch.ones_like(factor))
    constants = (factor.to(pool.input.dtype),) if needed else ()

    def function(x: Tensor, *rest: Tensor) -> Tensor:
        padded = pool.padded(x, 0.0)
        sizes = padded.shape[-pool.axes :]
        if pool.axes == 1:
            y = F.avg_pool1d(padded, pool.kernel, pool.stride)
        else:
            y = padded.reshape(1, -1, *sizes[-2:])
            y = F.avg_pool2d(y, pool.kernel[-2:], pool.stride[-2:])
            if pool.axes == 3:
                y = y.reshape(1, -1, sizes[0], pool.out[1] * pool.out[2])
                y = F.avg_pool2d(y, (pool.kernel[0], 1), (pool.stride[0], 1))
        y = y.reshape(*x.shape[: -pool.axes], *pool.out)
        return y * rest[0] if rest else y

    return Replacement(function, constants)


def _factor(pool: _Pool) -> Tensor:
    """kernel size / divisor for each place of the result, in float64: (*out)."""
    size = math.prod(pool.kernel)
    if pool.divisor is not None:
        return torch.full(pool.out, size / pool.divisor, dtype=torch.float64)
    divisor = torch.ones(pool.out, dtype=torch.float64)
    for axis in range(pool.axes):
        counts = []
        for place in range(pool.out[axis]):
            begin = place * pool.stride[axis] - pool.padding[axis]
            end = min(begin + pool.kernel[axis], pool.size[axis] + pool.padding[axis])
            if not pool.counts_padding:
                begin, end = max(begin, 0), min(end, pool.size[axis])
            counts.append(end - begin)
        shape = [1] * pool.axes
        shape[axis] = -1
        divisor = divisor * torch.tensor(counts, dtype=torch.float64).reshape(shape)
    return size / divisor


def adaptive_pool(call: Call) -> Replacement | Refusal | None:
    """An adaptive max pooling, or an adaptive 3-D average pooling, an axis at a time.

    Algebra: place i of an axis sees the values floor(i * n / out) to ceil((i + 1) * n / out); windows of
    several axes are boxes, so maxima and means are taken one axis after the other.
    Shapes: (..., *size) -> (..., *out).
    """
    is_max = "max" in str(call.node.target)
    out = list((call.result[0] if is_max else call.result).shape)
    size = list(call.arguments["self"].shape)

    def function(x: Tensor, *_: Tensor) -> Tensor:
        for dim in range(x.ndim):
            if out[dim] != size[dim]:
                x = _reduce_axis(x, dim, out[dim], is_max)
        return x.clone() if out == size else x

    return Replacement(function)


def _reduce_axis(x: Tensor, dim: int, out: int, is_max: bool) -> Tensor:
    def reduce(values: Tensor, axis: int) -> Tensor:
        return values.amax(axis) if is_max else values.mean(axis)

    before, size, after = math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])
    if size % out == 0:
        windows = x.reshape(before, out, size // out, after)
        return reduce(windows, 2).reshape(*x.shape[:dim], out, *x.shape[dim + 1 :])
    pieces = []
    for place in range(out):
        begin, end = place * size // out, -(-(place + 1) * size // out)
        pieces.append(reduce(x.narrow(dim, begin, end - begin), dim).unsqueeze(dim))
    return torch.cat(pieces, dim)


REWRITES = (
    Rewrite(
        "max_pool",
        (
            aten.max_pool1d.default,
            aten.max_pool2d.default,
            aten.max_pool2d_with_indices.default,
            aten.max_pool3d.default,
            aten.max_pool3d_with_indices.default,
        ),
        max_pool,
    ),
    Rewrite(
        "avg_pool", (aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default), avg_pool
    ),
    Rewrite(
        "adaptive_pool",
        (
            aten.adaptive_max_pool1d.default,
            aten.adaptive_max_pool2d.default,
            aten.adaptive_max_pool3d.default,
            aten.adaptive_avg_pool3d.default,
            aten._adaptive_avg_pool3d.default,
        ),
        adaptive_pool,
    ),
)
