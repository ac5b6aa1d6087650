"""Frames through a monitored artifact or a module: the same taps from either."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.drift.layout import joined, layout_of
from bnfold.drift.reference import Reference
from bnfold.drift.taps import Taps
from bnfold.errors import ArtifactError, InputError, UsageError
from bnfold.numerics import is_finite

Frames: TypeAlias = "NDArray[Any] | Mapping[str, NDArray[Any]]"


@dataclass(frozen=True)
class Observed:
    """What frames gave.

    Attributes:
        reference: of the network.
        taps: standardised, one row per frame that could be run.
        ran: shape (frames,): False where an input was not finite; such a frame is not run.
        outputs_finite: shape (frames that ran,).
        layout: `bnfold.drift.layout.layout_of` the frames that ran; None where they are no pictures.
    """

    reference: Reference
    taps: Taps
    ran: NDArray[np.bool_]
    outputs_finite: NDArray[np.bool_]
    layout: NDArray[np.float32] | None = None


def frames_of(given: Any, what: str = "frames") -> dict[str, NDArray[Any]]:
    """The user's frames as arrays by input name (empty for the only input), with equal counts.

    Raises:
        InputError: BNF-R031 no array with the frames along the first axis, none at all, or unequal counts.
    """
    named = dict(given) if isinstance(given, Mapping) else {"": given}
    arrays = {}
    for name, value in named.items():
        array = np.asarray(value.detach().cpu()) if hasattr(value, "detach") else np.asarray(value)
        if array.dtype.kind not in "fiu" or array.ndim < 2 or not len(array):
            raise InputError(
                "BNF-R031",
                f"{what} of dtype {array.dtype} and shape {list(array.shape)}",
                where=f"input {name!r}" if name else what,
                fix="give an array of numbers whose first axis is the frames, in the order of time",
            )
        arrays[str(name)] = array
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise InputError("BNF-R031", f"{what}: inputs with {sorted(counts)} frames", where=what)
    return arrays


def observe(
    source: Any, given: Frames, what: str = "frames", *, second_moments: bool = False
) -> Observed:
    """Runs frames and taps them.

    Args:
        source: an ``nn.Module``, an opened monitored artifact, or its path.
        given: model inputs, first axis: frames.
        what: what the frames are called in messages.
        second_moments: of a module: tap them, too; an artifact has them or not.

    Raises:
        UsageError: BNF-U140 the artifact is not a monitored one; BNF-U141 a module without a BatchNorm to
            tap; BNF-U142 it is neither.
        InputError: BNF-R030, BNF-R031 the frames do not fit; for an artifact as ``Model.predict``.
        ArtifactError: as ``bnfold.open``; BNF-M030 the recorded reference is damaged.
    """
    arrays = frames_of(given, what)
    ran = np.ones(len(next(iter(arrays.values()))), dtype=bool)
    for array in arrays.values():
        if array.dtype.kind == "f":
            ran &= np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    used = {name: array[ran] for name, array in arrays.items()}
    if hasattr(source, "named_modules"):
        return _module(source, used, ran, second_moments)
    if isinstance(source, str | os.PathLike):
        from bnfold.runtime import open as open_artifact

        source = open_artifact(source)
    if not hasattr(source, "predict"):
        raise UsageError(
            "BNF-U142",
            f"a monitored artifact or an nn.Module is expected, not a {type(source).__name__}",
            where="drift.check",
        )
    return _artifact(source, used, ran)


def _module(
    source: Any, arrays: dict[str, NDArray[Any]], ran: NDArray[np.bool_], second_moments: bool
) -> Observed:
    from bnfold.statistics.taps import tap  # torch: only where a module is at hand

    if not ran.any():
        arrays = {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    given = arrays[""] if set(arrays) == {""} else arrays
    found = tap(source, given, second_moments=second_moments)
    taps = Taps.of(found.means, found.reference, found.scores)
    some = slice(None) if ran.any() else slice(0, 0)
    pictures = layout_of(arrays)
    return Observed(
        found.reference, taps.take(some), ran, found.outputs_finite[some],
        None if pictures is None else pictures[some],
    )  # fmt: skip


def _artifact(model: Any, arrays: dict[str, NDArray[Any]], ran: NDArray[np.bool_]) -> Observed:
    reference = reference_of(model)
    names = [layer.tap for layer in reference.layers]
    means: list[list[NDArray[Any]]] = [[] for _ in names]
    scores: list[NDArray[Any]] | None = []
    finite = []
    pictures: list[NDArray[np.float32] | None] = []
    for index in range(int(ran.sum())):
        frame = {name: array[index] for name, array in arrays.items()}
        one = frame[""] if set(frame) == {""} else frame
        if hasattr(model, "prepare"):  # the picture as the network is given it
            inputs = model.prepare(one)
            outputs = model.predict_raw(inputs)
        else:
            inputs = {name: array[None] for name, array in frame.items()}
            outputs = model.predict(one)
        pictures.append(layout_of(inputs))
        for place, name in zip(means, names, strict=True):
            place.append(np.asarray(outputs[name], dtype=np.float64).reshape(1, -1))
        answers = [np.asarray(value) for name, value in outputs.items() if name not in set(names)]
        finite.append(all(is_finite(answer) for answer in answers))
        if len(answers) == 1 and answers[0].ndim == 2 and len(answers[0]) == 1 and scores is not None:
            scores.append(answers[0].astype(np.float64))
        else:
            scores = None
    empty = [np.empty((0, layer.channels)) for layer in reference.layers]
    values = [np.concatenate([none, *rows]) for none, rows in zip(empty, means, strict=True)]
    taps = Taps.of(values, reference, np.concatenate(scores) if scores else None)
    return Observed(reference, taps, ran, np.array(finite, dtype=bool), joined(pictures))


def reference_of(model: Any) -> Reference:
    """The drift reference of an opened artifact.

    Raises:
        UsageError: BNF-U140 it is a clean artifact, which gives its answers only.
        ArtifactError: BNF-M030 the reference is damaged.
    """
    manifest = model.manifest
    name = str(manifest["name"])
    recorded = manifest.get("drift_reference")
    if manifest["role"] != "monitor" or recorded is None:
        raise UsageError(
            "BNF-U140",
            f"{name!r} is a clean artifact: it gives its answers, and not what its layers see",
            where=f"role {manifest['role']}",
            fix="make the monitored one: bnfold convert ... --monitor, "
            f"and give {name}.monitor.{manifest['target']}",
        )
    reference = Reference.from_json(recorded, where=name)
    there = {spec.name for spec in model.outputs}
    for layer in reference.layers:
        if layer.tap not in there:
            raise ArtifactError(
                "BNF-M030",
                f"the drift reference is damaged: layer {layer.name!r}, there is no output {layer.tap!r}",
                where=name,
                fix="convert the checkpoint again with --monitor",
            )
    return reference
