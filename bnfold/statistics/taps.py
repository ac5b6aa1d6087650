"""The taps of a module: the drift reference that its BatchNorms hold, and what frames give at each of them.

The module's side of `bnfold.drift`; an artifact has the same quantities as outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnfold.drift.reference import SQUARES, LayerReference, Reference
from bnfold.errors import InputError, UsageError
from bnfold.statistics.observe import Call, answering
from bnfold.wording import clip, first_line

_AT_ONCE = 32


@dataclass(frozen=True)
class ModuleTaps:
    """What one run over frames gave.

    Attributes:
        reference: the tapped layers, in execution order.
        means: for each of them float64 (frames, channels), the channel means of its output.
        scores: (frames, classes), where the module gives one such tensor; else None.
        outputs_finite: shape (frames,): whether all floating outputs of a frame are finite.
    """

    reference: Reference
    means: list[NDArray[np.float64]]
    scores: NDArray[Any] | None
    outputs_finite: NDArray[np.bool_]


def tap(
    module: nn.Module, frames: NDArray[Any] | Mapping[str, NDArray[Any]], *, second_moments: bool = False
) -> ModuleTaps:
    """Run frames through a module in eval mode and tap every BatchNorm call.

    The module's mode and buffers are as before afterwards.

    Args:
        module: any ``nn.Module`` whose BatchNorms have population statistics.
        frames: model inputs, first axis: frames; a dictionary of them for several inputs.
        second_moments: tap them, too, where a frame has several positions.

    Raises:
        UsageError: BNF-U141 there is no BatchNorm to tap.
        InputError: BNF-R030 the module does not take the frames.
    """
    run = _Run(module, second_moments)
    inputs = dict(frames) if isinstance(frames, Mapping) else {"": frames}
    count = len(next(iter(inputs.values())))
    modes = [(inner, inner.training) for inner in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), answering(module, run.answer):
            step = _AT_ONCE
            start = 0
            while start < count:
                part = {name: values[start : start + step] for name, values in inputs.items()}
                try:
                    run.forward(part)
                except Exception as error:
                    if step > 1 and start == 0:  # a module that takes one frame at a time
                        step = 1
                        run.forget()
                        continue
                    raise InputError(
                        "BNF-R030",
                        f"the module does not take the frames: {first_line(error)}",
                        where=", ".join(
                            clip(f"{n or 'frames'} {v.dtype} {v.shape}") for n, v in part.items()
                        ),
                        fix="give float frames as forward takes them, the frames along the first axis",
                    ) from error
                start += step
    finally:
        for inner, mode in modes:
            inner.training = mode
    return run.result()


@dataclass
class _Run:
    module: nn.Module
    second_moments: bool = False
    layers: dict[str, LayerReference] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    scores: list[NDArray[Any]] | None = field(default_factory=list)
    finite: list[NDArray[np.bool_]] = field(default_factory=list)
    size: int = 0

    def forget(self) -> None:
        self.layers, self.left_out, self.parts, self.scores, self.finite = {}, {}, {}, [], []

    def forward(self, part: dict[str, NDArray[Any]]) -> None:
        like = next((p for p in self.module.parameters() if p.is_floating_point()), torch.empty(0))
        tensors = {}
        for name, values in part.items():
            tensor = torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
            tensors[name] = tensor.to(like.dtype) if tensor.is_floating_point() else tensor
        self.size = len(next(iter(part.values())))
        result = self.module(tensors[""]) if set(tensors) == {""} else self.module(**tensors)
        outputs = list(_tensors(result))
        self.finite.append(self._finite(outputs))
        single = outputs[0] if isinstance(result, Tensor) and result.dim() == 2 else None
        if single is None or len(single) != self.size:
            self.scores = None
        elif self.scores is not None:
            self.scores.append(single.double().cpu().numpy())

    def _finite(self, outputs: list[Tensor]) -> NDArray[np.bool_]:
        found = np.ones(self.size, dtype=bool)
        for output in outputs:
            if not output.is_floating_point():
                continue
            if output.dim() and len(output) == self.size:
                found &= torch.isfinite(output.reshape(self.size, -1)).all(dim=1).cpu().numpy()
            elif not bool(torch.isfinite(output).all()):
                found[:] = False
        return found

    def answer(self, call: Call) -> Tensor:
        result = call.as_called()
        if call.name not in self.left_out:
            reason = self._reason(call, result)
            if reason:
                self.left_out[call.name] = reason
                for name in (call.name, call.name + SQUARES):
                    self.layers.pop(name, None)
            else:
                self._keep(call, result)
        return result

    def _reason(self, call: Call, result: Tensor) -> str:
        if call.uses_batch:
            return "it uses batch statistics: there is no population to compare with"
        assert call.running_mean is not None
        assert call.running_var is not None
        tensors = (call.running_mean, call.running_var, call.weight, call.bias)
        if not all(t is None or bool(torch.isfinite(t).all()) for t in tensors):
            return "its statistics or parameters are not finite"
        if bool((call.running_var + call.eps <= 0).any()):
            return "its variance is negative"
        if len(result) % self.size:
            return f"it has {len(result)} rows for {self.size} frames"
        return ""

    def _keep(self, call: Call, result: Tensor) -> None:
        rows = result.reshape(self.size, len(result) // self.size, result.shape[1], -1)
        if call.name not in self.layers:
            layer = self._layer(call, rows.shape[1] * rows.shape[3])
            made = [layer, layer.squares()] if self.second_moments and layer.positions > 1 else [layer]
            self.layers.update({one.name: one for one in made})
            self.parts.update({one.name: [] for one in made})
        values = rows.double()
        self.parts[call.name].append(values.mean(dim=(1, 3)).cpu().numpy())
        if (squares := call.name + SQUARES) in self.layers:
            about = torch.from_numpy(self.layers[call.name].mean).to(values.device)
            around = values - about[:, None]
            self.parts[squares].append(around.square().mean(dim=(1, 3)).cpu().numpy())

    def _layer(self, call: Call, positions: int) -> LayerReference:
        assert call.running_mean is not None
        assert call.running_var is not None
        variance = call.running_var.detach().double().cpu().numpy()
        ones = np.ones_like(variance)
        gamma = ones if call.weight is None else call.weight.detach().double().cpu().numpy()
        beta = 0 * ones if call.bias is None else call.bias.detach().double().cpu().numpy()
        deviation = np.abs(gamma) * np.sqrt(np.maximum(variance, 0) / (variance + call.eps))
        momentum, batches = self._training(call)
        return LayerReference(call.name, beta, deviation, positions, momentum, batches)

    def _training(self, call: Call) -> tuple[float | None, int | None]:
        """Momentum and batch count, where the call comes from a module that has them."""
        owner: Any = dict(self.module.named_modules()).get(call.owner)
        tracked = getattr(owner, "num_batches_tracked", None)
        batches = int(tracked.item()) if isinstance(tracked, Tensor) else None
        momentum = getattr(owner, "momentum", 0.1)
        usable = isinstance(momentum, float | int) and 0 < momentum <= 1 and math.isfinite(momentum)
        return (float(momentum) if usable else None), batches or None  # 0: not counted

    def result(self) -> ModuleTaps:
        if not self.layers:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(self.left_out.items())[:3])
            raise UsageError(
                "BNF-U141",
                "no BatchNorm to compare with",
                where=reasons or type(self.module).__name__,
                fix="bnfold audit says what is wrong with the statistics" if reasons else "",
            )
        names = list(self.layers)
        scores = np.concatenate(self.scores) if self.scores else None
        return ModuleTaps(
            Reference(tuple(self.layers.values()), dict(self.left_out)),
            [np.concatenate(self.parts[name]) for name in names],
            scores,
            np.concatenate(self.finite),
        )


def _tensors(value: Any) -> Any:
    """Every tensor in an output, however it is nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
