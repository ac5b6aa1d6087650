"""Convolutions that the TFLite converter or tflite-runtime lacks, from the ones that both have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from bnfold.export.rewrite import Call, Refusal, Replacement, Rewrite

aten = torch.ops.aten
Tensor = torch.Tensor


class _Conv:
    """The arguments of one convolution call, one number per spatial axis."""

    def __init__(self, call: Call) -> None:
        self.weight = call["weight"]
        self.axes: int = self.weight.ndim - 2
        self.batched: bool = call["input"].ndim == self.axes + 2
        self.size: list[int] = list(call["input"].shape[-self.axes :])
        self.out: list[int] = list(call.result.shape[-self.axes :])
        self.kernel: list[int] = list(self.weight.shape[2:])
        self.stride = self._per_axis(call["stride"])
        self.dilation = self._per_axis(call["dilation"])
        self.groups: int = call["groups"]
        padding = call["padding"]
        if isinstance(padding, str):  # torch pads 'same' with the larger half at the end
            total = [0 if padding == "valid" else d * (k - 1) for d, k in self._taps()]
            self.before, self.after = [t // 2 for t in total], [t - t // 2 for t in total]
        else:
            self.before = self.after = self._per_axis(padding)
        output_padding = call.arguments.get("output_padding")
        self.output_padding = self._per_axis(output_padding) if output_padding else [0] * self.axes

    def _per_axis(self, value: Sequence[int]) -> list[int]:
        return list(value) * self.axes if len(value) == 1 else list(value)

    def _taps(self) -> list[tuple[int, int]]:
        return list(zip(self.dilation, self.kernel, strict=True))

    @property
    def reach(self) -> list[int]:
        """Extent of the dilated kernel."""
        return [d * (k - 1) + 1 for d, k in self._taps()]


def _add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias.reshape(1, -1, *[1] * (y.ndim - 2))


def _window(y: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """``size`` values from ``begin`` on each spatial axis; zeros where they reach beyond the end."""
    missing: list[int] = []
    for axis, (start, length) in enumerate(zip(begin, size, strict=True), start=2):
        available = min(length, y.shape[axis] - start)
        if start or available < y.shape[axis]:
            y = y.narrow(axis, start, available)
        missing = [0, length - available, *missing]
    return F.pad(y, missing) if any(missing) else y


def _is_native(conv: _Conv) -> bool:
    """Whether TRANSPOSE_CONV's own two paddings, VALID and SAME, express it."""
    if conv.axes != 2 or any(conv.output_padding):
        return False
    valid = not any(conv.before)
    same = all(r - s == 2 * p for r, s, p in zip(conv.reach, conv.stride, conv.before, strict=True))
    dilated_and_strided = any(d > 1 for d in conv.dilation) and any(s > 1 for s in conv.stride)
    return (valid or same) and not dilated_and_strided


def _dense_kernel(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """The kernel with its dilation written out as zeros: (C, K, *kernel) -> (C, K, *reach)."""
    for axis, step in enumerate(dilation, start=2):
        if step > 1:
            taps = weight.shape[axis]
            spread = F.pad(weight.unsqueeze(axis + 1), [0, 0] * (weight.ndim - axis - 1) + [0, step - 1])
            weight = spread.flatten(axis, axis + 1).narrow(axis, 0, step * (taps - 1) + 1)
    return weight


def _full_transposed(conv: _Conv, x: Tensor, weight: Tensor) -> Tensor:
    """The transposed convolution without padding: every product lands somewhere.

    (N, C, *size) -> (N, K, *((size - 1) * stride + reach))
    """
    if conv.axes == 1:
        weight = _dense_kernel(weight, conv.dilation)
        y = F.conv_transpose2d(
            x.unsqueeze(2), weight.unsqueeze(2), stride=(1, conv.stride[0]), groups=conv.groups
        )
        return y.squeeze(2)
    if conv.axes == 2:
        if any(step > 1 for step in conv.dilation) and any(step > 1 for step in conv.stride):
            weight = _dense_kernel(weight, conv.dilation)
            return F.conv_transpose2d(x, weight, None, conv.stride, groups=conv.groups)
        return F.conv_transpose2d(x, weight, None, conv.stride, 0, 0, conv.groups, conv.dilation)
    return _full_transposed_3d(conv, x, weight)


def _full_transposed_3d(conv: _Conv, x: Tensor, weight: Tensor) -> Tensor:
    """A sum over the depth taps: each is a 2-D transposed convolution of every slice of x, set at the
    depths d * stride + tap * dilation."""
    batch, channels, depth, height, width = x.shape
    plane = _Plane(conv)
    slices = x.transpose(1, 2).reshape(batch * depth, channels, height, width)
    stride, dilation, taps = conv.stride[0], conv.dilation[0], conv.kernel[0]
    total: Tensor | None = None
    for tap in range(taps):
        y = _full_transposed(plane, slices, weight[:, :, tap])
        filters, rows, columns = y.shape[1:]
        y = y.reshape(batch, depth, 1, filters * rows * columns)
        y = F.pad(y, (0, 0, 0, stride - 1)).reshape(batch, depth * stride, -1)[:, : (depth - 1) * stride + 1]
        y = F.pad(y, (0, 0, tap * dilation, (taps - 1 - tap) * dilation))
        total = y if total is None else total + y
    assert total is not None
    return total.reshape(batch, -1, filters, rows, columns).transpose(1, 2)


class _Plane(_Conv):
    """The last two axes of a 3-D convolution."""

    def __init__(self, conv: _Conv) -> None:
        self.axes, self.groups = 2, conv.groups
        self.stride, self.dilation = conv.stride[1:], conv.dilation[1:]


def transposed_conv(call: Call) -> Replacement | Refusal | None:
    """A transposed convolution with any padding, output_padding, groups and dilation, in 1-D, 2-D and 3-D.

    Algebra: let F be the transposed convolution without padding and without bias, of length
    (n - 1) * stride + dilation * (k - 1) + 1 on each axis. Then padding p drops p values at both ends and
    output_padding appends, so y = F[p : p + out] + bias, with zeros for F beyond its end (that part of y is
    the bias alone). 1-D is 2-D with a height of one. 3-D is a sum over the depth taps of 2-D ones.
    Shapes: x (N, C, *size), weight (C, K / groups, *kernel) -> (N, K, *out).
    """
    if call.arguments.get("transposed") is False:
        return None
    conv = _Conv(call)
    if conv.batched and _is_native(conv):
        return None

    def function(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x if conv.batched else x.unsqueeze(0)
        y = _add_bias(_window(_full_transposed(conv, x, weight), conv.before, conv.out), bias)
        return y if conv.batched else y.squeeze(0)

    return Replacement(function)


def grouped_conv3d(call: Call) -> Replacement | Refusal | None:
    """A grouped (or depthwise) 3-D convolution as a sum of grouped 2-D ones over the depth taps.

    Algebra: y[:, :, d] = sum_k conv2d(x[:, :, d * stride + k * dilation], weight[:, :, k]) + bias, on x
    padded in depth. The slices of all depths go through one conv2d as its batch.
    Shapes: x (N, C, D, H, W), weight (K, C / groups, kd, kh, kw) -> (N, K, D', H', W').
    """
    if call.arguments.get("transposed") or call["weight"].ndim != 5:
        return None
    conv = _Conv(call)
    if conv.groups == 1:
        return None

    def function(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x if conv.batched else x.unsqueeze(0)
        x = _pad3d(conv, x)
        batch, channels, _, height, width = x.shape
        frames = x.transpose(1, 2)
        depth, step = conv.out[0], conv.stride[0]
        total: Tensor | None = None
        for tap in range(conv.kernel[0]):
            start = tap * conv.dilation[0]
            at = frames[:, start : start + (depth - 1) * step + 1 : step]
            at = at.reshape(batch * depth, channels, height, width)
            y = F.conv2d(at, weight[:, :, tap], None, conv.stride[1:], 0, conv.dilation[1:], conv.groups)
            total = y if total is None else total + y
        assert total is not None
        y = total.reshape(batch, depth, *total.shape[1:]).transpose(1, 2)
        y = _add_bias(y, bias)
        return y if conv.batched else y.squeeze(0)

    return Replacement(function)


def _pad3d(conv: _Conv, x: Tensor) -> Tensor:
    """Zeros at both ends of depth, height and width (F.pad counts from the last axis)."""
    ends: list[int] = []
    for before, after in zip(conv.before, conv.after, strict=True):
        ends = [before, after, *ends]
    return F.pad(x, ends) if any(ends) else x


def padded_conv1d(call: Call) -> Replacement:
    """Padding by name, with numbers: the converter takes the name for a list. Zeros are added where 'same' is
    not symmetric."""
    conv = _Conv(call)
    before, after = conv.before[0], conv.after[0]

    def function(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = before if before == after else 0
        x = x if before == after else F.pad(x, [before, after])
        return F.conv1d(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)

    return Replacement(function)


def _convolution(call: Call) -> Replacement | Refusal | None:
    return transposed_conv(call) if call["transposed"] else grouped_conv3d(call)


REWRITES = (
    Rewrite("convolution", (aten.convolution.default,), _convolution),
    Rewrite(
        "transposed_conv",
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
        transposed_conv,
    ),
    Rewrite("padded_conv1d", (aten.conv1d.padding,), padded_conv1d),
    Rewrite("grouped_conv3d", (aten.conv3d.default, aten.conv3d.padding), grouped_conv3d),
)
