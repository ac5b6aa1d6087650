"""An exponential average that has not converged, corrected without data.

BatchNorm starts from mean 0 and variance 1, and after T updates with momentum m these still weigh

    w = (1 - m)^T,    mean = (1 - w) mean',    variance = w + (1 - w) variance'

where the primes mark the average of what was seen, without the initial value. Solved for them the correction
is exact for weights that stayed the same; where they moved, it is as good as the average itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bnfold.errors import StatisticsError, UsageError
from bnfold.finding import Finding
from bnfold.statistics.layers import MEAN, VARIANCE, Layer, layers_of
from bnfold.statistics.recalibrate import working_copy
from bnfold.statistics.recalibration import LayerChange, RecalibrationResult
from bnfold.statistics.targets import Target, holders
from bnfold.statistics.writing import Writer

Array = NDArray[np.float64]


def debias(module: nn.Module) -> RecalibrationResult:
    """A copy of the network whose running averages have their initial values taken out.

    Layers that average cumulatively (momentum None) hold no initial value after one update, and stay.

    Args:
        module: any; it is left as it is.

    Raises:
        UsageError: no module (BNF-U026), or no BatchNorm with running statistics (BNF-U123).
        StatisticsError: a layer that cannot be corrected: it was never updated, does not count its updates,
            holds values that are not finite, or a variance that would be 0 or less (BNF-A069).
        CaptureError: the module cannot be copied (BNF-C012).
    """
    if not isinstance(module, nn.Module):
        raise UsageError("BNF-U026", f"{type(module).__name__} is no torch.nn.Module")
    layers = [layer for layer in layers_of(module) if layer.mean is not None and layer.variance is not None]
    if not layers:
        raise UsageError(
            "BNF-U123",
            "this network has no BatchNorm with running statistics",
            where=type(module).__name__,
            fix="there is nothing to correct",
        )
    copy = working_copy(module)
    writer = Writer(copy, module, None)
    targets = {name: Target(name, mean, f"{mean[: -len(MEAN)]}{VARIANCE}") for mean, name in _names(copy)}
    kept: dict[str, str] = {}
    weights: dict[str, float] = {}
    for layer in layers:
        if layer.known and layer.momentum is None and layer.updates:
            kept[layer.name] = "it averages cumulatively, which leaves nothing of its initial value"
            continue
        mean, variance, weights[layer.name] = corrected(layer)
        writer.put(targets[layer.name], (mean, variance), layer.updates or 0)
        writer.changes.append(
            LayerChange(layer.name, (), 0, layer.eps or 0.0, *_stored(layer), mean, variance)
        )
    findings = [_weighed(weights, layers)] if weights else []
    return RecalibrationResult(copy, writer.changes, kept, method="debiased", findings=findings)


def corrected(layer: Layer) -> tuple[Array, Array, float]:
    """Mean and variance without the initial values, and how much those weighed.

    Raises:
        StatisticsError: BNF-A069.
    """
    if not layer.updates or layer.momentum is None:
        what = "was never updated" if layer.updates == 0 else "does not say how often it was updated"
        raise _refused(f"it {what}, so there is no average to correct", layer.name)
    mean, variance = _stored(layer)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise _refused("its statistics are not finite, and no arithmetic brings them back", layer.name)
    weight = float((1 - layer.momentum) ** layer.updates)
    rest = -math.expm1(layer.updates * math.log1p(-layer.momentum)) if layer.momentum < 1 else 1.0
    new = (variance - weight) / rest
    wrong = np.flatnonzero(new <= 0)
    if len(wrong):
        raise _refused(
            f"{len(wrong)} of {len(new)} variances would be {new[wrong].min():.3g} or less than 0: they are "
            f"below what the initial value leaves ({weight:.3g} after {layer.updates} updates)",
            f"{layer.key(VARIANCE)}[{wrong[0]}]",
        )
    return mean / rest, new, weight


def _stored(layer: Layer) -> tuple[Array, Array]:
    assert layer.mean is not None
    assert layer.variance is not None
    return layer.mean, layer.variance


def _names(module: nn.Module) -> list[tuple[str, str]]:
    return [(mean, name) for mean, (name, _) in holders(module).items()]


def _refused(what: str, where: str) -> StatisticsError:
    return StatisticsError(
        "BNF-A069", what, where=where, fix="recalibrate with data: bnfold recalibrate --samples DIR"
    )


def _weighed(weights: dict[str, float], layers: list[Layer]) -> Finding:
    most = max(weights, key=weights.__getitem__)
    updates = next(layer.updates for layer in layers if layer.name == most)
    return Finding(
        "BNF-A070",
        "info",
        most,
        f"the initial value weighed {weights[most]:.2g} after {updates} updates, and was taken out",
        {"weights": weights},
        "this is exact for weights that no longer moved: where there are data, recalibrate with them",
    )
