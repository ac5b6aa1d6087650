"""Resizing that the TFLite converter gets wrong: sizes or factors that are not whole multiples."""

from __future__ import annotations

import torch

from bnfold.export.rewrite import Call, Refusal, Replacement, Rewrite

aten = torch.ops.aten
Tensor = torch.Tensor


def nearest(call: Call) -> Replacement | Refusal | None:
    """Nearest-neighbour resizing by a factor that is no whole number.

    Algebra: y[..., i, j] = x[..., p(i), q(j)], a gather per axis. torch itself is asked for p and q, by
    resizing 0, 1, 2, ... along one axis, since the rounding of i / factor is its own.
    Shapes: (N, C, *size) -> (N, C, *out).
    """
    size, out, scales, axes = _geometry(call)
    exact = "exact" in str(call.node.target)
    whole = all(o % n == 0 and (s is None or s * n == o) for n, o, s in zip(size, out, scales, strict=True))
    if whole and not exact:
        return None
    resize = aten._upsample_nearest_exact1d.default if exact else aten.upsample_nearest1d.default
    places = tuple(
        resize(torch.arange(n, dtype=torch.float32).reshape(1, 1, -1), [o], s).flatten().to(torch.int32)
        for n, o, s in zip(size, out, scales, strict=True)
    )

    def function(x: Tensor, *indices: Tensor) -> Tensor:
        for axis, index in enumerate(indices[-axes:]):
            x = torch.index_select(x, 2 + axis, index)
        return x

    return Replacement(function, places)


def linear(call: Call) -> Replacement | Refusal | None:
    """Bilinear (linear, trilinear) resizing with a factor of its own that is not out / size.

    Algebra: linear interpolation is a matrix per axis, y = A x B^T; torch is asked for the matrices by
    resizing the identity. Only where torch uses a given factor in place of out / size, which TFLite cannot.
    Shapes: (N, C, *size) -> (N, C, *out).
    """
    size, out, scales, axes = _geometry(call)
    corners: bool = call["align_corners"]
    usual = all(
        s is None or corners or abs(s * n - o) < 1e-9 for n, o, s in zip(size, out, scales, strict=True)
    )
    if usual:
        return None
    dtype = call.result.dtype
    matrices = tuple(
        aten.upsample_linear1d.default(torch.eye(n, dtype=dtype).unsqueeze(0), [o], corners, s)[0]
        for n, o, s in zip(size, out, scales, strict=True)
    )

    def function(x: Tensor, *rest: Tensor) -> Tensor:
        for axis, matrix in enumerate(rest[-axes:]):  # matrix (size, out)
            dim = 2 + axis
            x = torch.matmul(x.transpose(dim, -1), matrix).transpose(dim, -1)
        return x

    return Replacement(function, matrices)


def _geometry(call: Call) -> tuple[list[int], list[int], list[float | None], int]:
    """Sizes, result sizes and the factors that torch was given (None: out / size), per axis."""
    axes = call.result.ndim - 2
    size, out = list(call.arguments[next(iter(call.arguments))].shape[2:]), list(call.result.shape[2:])
    if "scale_factors" in call.arguments:  # the .vec overloads
        scales = list(call["scale_factors"] or [None] * axes)
    elif axes == 1:
        scales = [call["scales"]]
    else:
        scales = [call[f"scales_{axis}"] for axis in ("d", "h", "w")[3 - axes :]]
    return size, out, scales, axes


def _both(name: str) -> tuple[object, object]:
    packet = getattr(aten, name)
    return packet.default, packet.vec


REWRITES = (
    Rewrite(
        "nearest",
        tuple(
            overload
            for kind in ("upsample_nearest", "_upsample_nearest_exact")
            for axes in (1, 2, 3)
            for overload in _both(f"{kind}{axes}d")
        ),
        nearest,
    ),
    Rewrite(
        "linear",
        tuple(
            overload
            for name in ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
            for overload in _both(name)
        ),
        linear,
    ),
)
