"""Does the answer for a frame depend on the frames around it?

A robot has one frame and no batch. A network that still uses batch statistics in eval mode, or mixes frames
otherwise, gives an answer for one frame alone that was never seen in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.finding import Finding
from bnfold.samples import Frames, Inputs
from bnfold.signature import TensorSpec
from bnfold.verify import parity
from bnfold.verify.candidates import Candidate
from bnfold.verify.parity import Bound
from bnfold.wording import first_line

Array = NDArray[Any]

_FRAMES = 4
_OUTLIER = 1000.0
_REMEDY = (
    "look for batch statistics in use (track_running_stats=False, F.batch_norm(training=True)) and for "
    "means, sums or softmax over axis 0; give the layer population statistics"
)


def check(
    module: Candidate,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    frames: Frames,
    bounds: Mapping[str, Bound],
) -> list[Finding]:
    """Run frames alone, in a batch, in the reverse order, twice and next to outliers; compare the answers.

    Args:
        module: the user's module itself: a graph captured with one frame takes no other batch.
        inputs, outputs: as captured.
        frames: the first few are used.
        bounds: what the batch may change: other blocks of a matrix product change the last bits.

    Returns:
        An error (BNF-A015, the code of batch statistics in use) for an output that depends on the batch, or
        for a network that takes a batch and no single frame; a note (BNF-V007) where it cannot be checked,
        and why.
    """
    # where nothing can be compared (values that are not finite) that is said of the reference
    outputs = tuple(spec for spec in outputs if math.isfinite(bounds[spec.name].tolerance))
    calls = list(islice(frames, _FRAMES))
    sizes = {(spec.shape[0] or 1) if spec.shape else 0 for spec in inputs}
    if sizes == {1}:
        return _check_single(module, outputs, calls * (2 if len(calls) == 1 else 1), bounds)
    if len(sizes) == 1 and 0 not in sizes:
        return _check_fixed(module, outputs, calls[0], sizes.pop(), bounds)
    return [_unchecked("the inputs have no batch axis in common")]


def _check_single(
    module: Candidate, outputs: tuple[TensorSpec, ...], calls: list[Inputs], bounds: Mapping[str, Bound]
) -> list[Finding]:
    try:
        alone = [module.run(call) for call in calls]
    except Exception as error:  # the user's forward, on what the device gives it
        return [_not_alone(module, calls, error)]
    count = len(calls)
    order = list(range(count))[::-1]
    loud = [calls[0], *({name: _louder(array) for name, array in call.items()} for call in calls[1:])]
    try:
        together = module.run(_batch(calls))
        backwards = module.run(_batch([calls[i] for i in order]))
        twice = module.run(_batch([calls[0], calls[0]]))
        outliers = module.run(_batch(loud))
    except Exception as error:  # the user's forward, asked for another batch than it was written for
        message = str(error).strip().splitlines()
        return [_unchecked(f"the model takes no batch of {count} ({type(error).__name__}: {message[:1]})")]
    found = []
    for spec in outputs:
        name = spec.name
        batched = alone[0][name].ndim > 0 and alone[0][name].shape[0] == 1
        if not batched or together[name].shape != (count, *alone[0][name].shape[1:]):
            found.append(_unchecked(f"output {name!r} has no batch axis"))
            continue
        exact = parity.is_exact(spec.dtype)
        distances = {
            "in a batch": _apart([together[name][i : i + 1] for i in range(count)], alone, name, exact),
            "in another order": _apart(
                [backwards[name][order.index(i)][np.newaxis] for i in range(count)], alone, name, exact
            ),
            "twice in a batch": _apart(
                [twice[name][i : i + 1] for i in range(2)], alone[:1] * 2, name, exact
            ),
            "next to outliers": _apart([outliers[name][:1]], alone[:1], name, exact),
        }
        worst = max(distances, key=lambda key: distances[key])
        if not bounds[name].holds(distances[worst]):
            found.append(_depends(name, worst, distances[worst], bounds[name], "error"))
    return found


def _not_alone(module: Candidate, calls: list[Inputs], error: Exception) -> Finding:
    """What to say of a network that fails on a single frame."""
    try:
        module.run(_batch(calls))
    except Exception:
        raise error from None  # it takes no batch either: that is no matter of the batch
    return Finding(
        "BNF-A015",
        "error",
        "batch",
        f"the network takes a batch of {len(calls)} and no single frame ({first_line(error)}): an answer "
        "depends on its batch",
        {"raised": first_line(error), "batch": len(calls)},
        _REMEDY,
    )


def _check_fixed(
    module: Candidate,
    outputs: tuple[TensorSpec, ...],
    call: Inputs,
    size: int,
    bounds: Mapping[str, Bound],
) -> list[Finding]:
    """A fixed batch: only its order can be changed, and the first axis may be none of a batch."""
    straight = module.run(call)
    backwards = module.run({name: array[::-1] for name, array in call.items()})
    found = []
    for spec in outputs:
        here, there = straight[spec.name], backwards[spec.name]
        if here.ndim == 0 or here.shape[0] != size:
            found.append(_unchecked(f"output {spec.name!r} has no batch axis of {size}"))
            continue
        distance = parity.error(there[::-1], here, exact=parity.is_exact(spec.dtype))
        if not bounds[spec.name].holds(distance):
            found.append(_depends(spec.name, "in another order", distance, bounds[spec.name], "warning"))
    return found


def _batch(calls: list[Inputs]) -> Inputs:
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}


def _louder(array: Array) -> Array:
    return array * np.asarray(_OUTLIER, dtype=array.dtype) if array.dtype.kind == "f" else array


def _apart(got: list[Array], alone: list[dict[str, Array]], name: str, exact: bool) -> float:
    pairs = zip(got, alone, strict=True)
    return max(parity.error(here, there[name], exact=exact) for here, there in pairs)


def _depends(name: str, how: str, distance: float, bound: Bound, severity: Any) -> Finding:
    return Finding(
        "BNF-A015",
        severity,
        name,
        f"the answer for a frame depends on its batch: {how}, output {name!r} changes by {distance:.3g} "
        f"(rounding explains {bound.tolerance:.3g})",
        {"distance": parity.finite_or_none(distance), "tolerance": parity.finite_or_none(bound.tolerance)},
        _REMEDY,
    )


def _unchecked(why: str) -> Finding:
    return Finding(
        "BNF-V007",
        "info",
        "batch",
        f"whether an answer depends on the batch around it was not checked: {why}",
        {},
        "one frame at a time is what the device runs; with a model that takes any batch this is checked too",
    )
