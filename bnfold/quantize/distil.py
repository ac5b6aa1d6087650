"""Frames out of the population statistics: what to calibrate on where there are no frames.

The running statistics say what every BatchNorm has seen in training. Noise is changed by gradient descent
until a batch of it gives every BatchNorm that mean and deviation, so that its outputs are beta +- |gamma| and
every tensor in between, after whatever activation, sum or concatenation, has a range that belongs to them.
The network is not changed, and the exported file is calibrated on such frames as on real ones. (Cai et al.
2020, "ZeroQ", arXiv 2001.00281.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bnfold.errors import UsageError
from bnfold.samples import Frames, Inputs, random_frames
from bnfold.signature import TensorSpec
from bnfold.statistics.observe import Call, answering
from bnfold.verify.candidates import eval_mode

FRAMES = 24
STEPS = 100
_FIT = 2.0  # the largest mean square distance, in sigma^2; 0.00 to 0.08 on trained networks
_RATE = 0.1  # of the scale of the input, per step
_SCALES = (1.0, 0.01, 0.1, 10.0, 100.0, 1000.0, 10000.0)
"""Of the noise to begin with: what the network was trained on need not be of unit size."""


def distil(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    inputs: Sequence[TensorSpec],
    limits: Mapping[str, tuple[Tensor, Tensor]],
) -> Frames:
    """Frames that give every BatchNorm the statistics that it has stored.

    Args:
        module: the network; it is not changed.
        example_inputs: positional arguments of ``forward``, batch axis first.
        inputs: the tensors among them, by name, in order.
        limits: by input name, the smallest and largest values that frames can have, each of a shape that
            broadcasts with the input; none for what takes no images. Integer inputs are drawn, not changed.

    Returns:
        24 frames, in calls of the example's batch; the same for the same network.

    Raises:
        UsageError: BNF-U152 no BatchNorm call uses stored statistics, the network takes no larger batch, no
            input is floating, or no noise fits.
    """
    leaves, structure = pytree.tree_flatten(example_inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    size = int(tensors[0].shape[0]) if tensors[0].dim() else 1
    count = -(-FRAMES // size) * size
    frames = _start(tensors, inputs, limits, count)
    free = [frame for frame in frames if frame.is_floating_point()]
    if not free:
        raise _no_frames("its inputs are integers, which cannot be brought closer to what it has seen")
    floating = [spec for spec, frame in zip(inputs, frames, strict=True) if frame.is_floating_point()]
    bounds = [limits.get(spec.name) for spec in floating]

    def distance(given: Sequence[Tensor]) -> Tensor:
        """How far the statistics of these frames are from the stored ones; ``given``: the floating inputs."""
        changed = iter(given)
        filled = iter([next(changed) if frame.is_floating_point() else frame for frame in frames])
        arguments = [next(filled) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return _distance(module, pytree.tree_unflatten(arguments, structure))

    with eval_mode(module):
        left = _descend(free, bounds, distance)
    if not left <= _FIT:
        raise _no_frames(f"no noise was found that gives its statistics (off by {left**0.5:.1f} sigma)")
    names = [spec.name for spec in inputs]
    arrays = [frame.detach().numpy() for frame in frames]
    calls = [
        {name: array[at : at + size] for name, array in zip(names, arrays, strict=True)}
        for at in range(0, count, size)
    ]
    return Frames(tuple(inputs), "random", 0, size, len(calls), None, lambda: iter(calls))


def _start(
    tensors: Sequence[Tensor],
    inputs: Sequence[TensorSpec],
    limits: Mapping[str, tuple[Tensor, Tensor]],
    count: int,
) -> list[Tensor]:
    """Seeded noise in the manner of the example, or evenly between the limits; shape (count, ...)."""
    example = {spec.name: tensor.detach().numpy() for spec, tensor in zip(inputs, tensors, strict=True)}
    drawn: list[Inputs] = list(random_frames(tuple(inputs), example, -(-count // tensors[0].shape[0])))
    frames: list[Tensor] = []
    for spec in inputs:
        frame = torch.from_numpy(np.concatenate([call[spec.name] for call in drawn])[:count].copy())
        if spec.name in limits:
            low, high = limits[spec.name]
            generator = torch.Generator().manual_seed(len(frames))
            frame = low + (high - low) * torch.rand(frame.shape, generator=generator, dtype=frame.dtype)
        frames.append(frame)
    return frames


def _descend(
    free: Sequence[Tensor],
    bounds: Sequence[tuple[Tensor, Tensor] | None],
    distance: Callable[[Sequence[Tensor]], Tensor],
) -> float:
    """Change the floating inputs in place; at the end they are the best that was seen, and this far away."""
    unbound = [frame for frame, bound in zip(free, bounds, strict=True) if bound is None]
    if unbound:
        _rescale(unbound, free, distance)
    rates = [
        _RATE * (float(frame.std()) if bound is None else float((bound[1] - bound[0]).max()))
        for frame, bound in zip(free, bounds, strict=True)
    ]
    for frame in free:
        frame.requires_grad_(True)
    adam = torch.optim.Adam([{"params": [f], "lr": rate} for f, rate in zip(free, rates, strict=True)])
    best = math.inf
    kept = [frame.detach().clone() for frame in free]
    for _ in range(STEPS):
        loss = distance(free)
        here = float(loss.detach())
        if here < best:
            best, kept = here, [frame.detach().clone() for frame in free]
        gradients = torch.autograd.grad(loss, list(free), allow_unused=True)
        for frame, gradient in zip(free, gradients, strict=True):
            frame.grad = gradient
        adam.step()
        with torch.no_grad():
            for frame, bound in zip(free, bounds, strict=True):
                if bound is not None:
                    frame.copy_(torch.minimum(torch.maximum(frame, bound[0]), bound[1]))
    for frame, values in zip(free, kept, strict=True):
        frame.requires_grad_(False)
        frame.copy_(values)
    return best


def _rescale(
    unbound: Sequence[Tensor], free: Sequence[Tensor], distance: Callable[[Sequence[Tensor]], Tensor]
) -> None:
    """Bring noise of unknown size to the size that fits best."""
    originals = [frame.clone() for frame in unbound]
    found = []
    with torch.no_grad():
        for scale in _SCALES:
            for frame, original in zip(unbound, originals, strict=True):
                frame.copy_(original * scale)
            here = float(distance(free))
            found.append((here if np.isfinite(here) else np.inf, scale))
        for frame, original in zip(unbound, originals, strict=True):
            frame.copy_(original * min(found, key=lambda pair: pair[0])[1])


def _distance(module: nn.Module, arguments: tuple[Any, ...]) -> Tensor:
    """The mean over all BatchNorm calls and channels of ((m - mean) / sigma)^2 + (s / sigma - 1)^2.

    Raises:
        UsageError: BNF-U152.
    """
    found: list[Tensor] = []

    def answer(call: Call) -> Tensor:
        if not call.uses_batch:
            assert call.running_mean is not None
            assert call.running_var is not None
            axes = [0, *range(2, call.input.dim())]
            stored = call.running_var + call.eps
            variance = call.input.var(axes, unbiased=False) + call.eps
            shift = (call.input.mean(axes) - call.running_mean) ** 2 / stored
            found.append((shift + (torch.sqrt(variance / stored) - 1) ** 2).mean())
        return call.in_eval()

    try:
        with answering(module, answer):
            module(*pytree.tree_map_only(Tensor, torch.clone, arguments))  # what works in place may
    except Exception as error:
        raise _no_frames(f"it does not take a batch of {FRAMES} noise frames: {error}") from error
    if not found:
        raise _no_frames("it has no BatchNorm whose statistics could tell")
    return torch.stack(found).mean()


def _no_frames(why: str) -> UsageError:
    return UsageError(
        "BNF-U152",
        f"int8 needs the range of every activation, and this network gives none without frames: {why}",
        where="precision int8, no samples",
        fix="give frames: --samples DIR|FILE",
    )


def image_limits(
    normalisation: Mapping[str, Mapping[str, Any] | None], inputs: Sequence[TensorSpec]
) -> dict[str, tuple[Tensor, Tensor]]:
    """What a pixel of 0 to 255 can become, by the name of each input that takes images."""
    limits = {}
    for spec in inputs:
        how = normalisation.get(spec.name)
        if how is None:
            continue
        mean, deviation = (np.asarray(how[key], np.float64) for key in ("mean", "std"))
        ends: list[NDArray[Any]] = [(pixel * how["scale"] - mean) / deviation for pixel in (0.0, 255.0)]
        shape = [-1 if axis == "C" else 1 for axis in how["layout"]]
        low, high = (torch.from_numpy(end.astype(np.float32)).reshape(shape) for end in ends)
        limits[spec.name] = (torch.minimum(low, high), torch.maximum(low, high))
    return limits
