"""What two plain modules take, told from the samples: nothing else says it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bnfold.errors import CaptureError, VerifyError
from bnfold.finding import Finding
from bnfold.graph import dtype_name
from bnfold.runtime import frames as frame_files
from bnfold.samples import LABELS
from bnfold.signature import TensorSpec

_SAY = "--input [NAME=]SHAPE[:DTYPE] says what the network takes (in Python: compare FoldResults)"


@dataclass(frozen=True)
class Guess:
    """What is taken for the network's inputs.

    Attributes:
        inputs: one for each array of a frame.
        images: the inputs whose shape is that of the first image.
    """

    inputs: tuple[TensorSpec, ...]
    images: tuple[TensorSpec, ...]

    def findings(self) -> list[Finding]:
        """That a size was taken from an image: another one would be resampled to it."""
        return [
            Finding(
                "BNF-V016",
                "info",
                spec.name,
                f"the first frame was taken for what the networks take, {spec.describe()}: checkpoints do "
                "not say it",
                {"shape": list(spec.shape)},
                "give --input where they take another size",
            )
            for spec in self.images
        ]

    def refused(self, error: CaptureError) -> VerifyError:
        """The failure of forward on a guess: it says nothing of the network."""
        told = "; ".join(spec.describe() for spec in self.inputs)
        return VerifyError(
            "BNF-V032",
            f"the samples were taken for {told}, and forward does not take that: "
            + error.what.partition(": ")[2],
            where=error.where,
            fix=_SAY,
        )


def guess(module: nn.Module, samples: Any, color: str | None = None) -> Guess:
    """The first frame with a batch of one.

    A uint8 array in the shape of an image is an image, prepared into one or three channels of float32; other
    floats have the dtype of the network's parameters.

    Args:
        module: tells the names.
        samples: as for :func:`bnfold.verify`.
        color: of the input, where it is known: ``gray``, ``rgb`` or ``bgr``.

    Raises:
        VerifyError: the samples do not tell it (BNF-V032).
        InputError: they cannot be read.
    """
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    arrays = _one_frame(samples, names)
    if len(arrays) == 1 and not set(arrays) & set(names):
        arrays = {names[0]: next(iter(arrays.values()))}
    ordered = [name for name in names if name in arrays]
    if len(ordered) != len(arrays):
        raise VerifyError(
            "BNF-V032",
            f"the samples are named {', '.join(arrays)}; forward takes {', '.join(names)}",
            where="samples",
            fix="name the arrays like forward's parameters",
        )
    images = [name for name in ordered if _is_image(arrays[name])]
    inputs = tuple(
        _of_image(name, arrays[name].shape, color)
        if name in images
        else TensorSpec(name, (1, *arrays[name].shape), _dtype(arrays[name], module))
        for name in ordered
    )
    return Guess(inputs, tuple(spec for spec in inputs if spec.name in images))


@dataclass(frozen=True)
class _Frame:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _one_frame(samples: Any, names: list[str]) -> dict[str, _Frame]:
    """By name, the shape and dtype of one frame's arrays."""
    if isinstance(samples, str | Path):
        samples = frame_files.read(samples)
    if isinstance(samples, Mapping):
        return {
            str(key): _without_first_axis(value)
            for key, value in samples.items()
            if key in names or key != LABELS
        }
    if hasattr(samples, "__array__"):
        return {names[0]: _without_first_axis(samples)}
    if isinstance(samples, frame_files.FrameSource):
        frame = next((frame for _, frame in samples), None)
    elif isinstance(samples, list | tuple):
        frame = next(iter(samples), None)
    else:
        frame = None
    if isinstance(frame, Mapping):
        return {str(key): _whole(value) for key, value in frame.items()}
    if isinstance(frame, tuple | list) and len(frame) <= len(names):
        return {name: _whole(value) for name, value in zip(names, frame, strict=False)}
    if frame is None or not hasattr(frame, "__array__"):
        raise VerifyError(
            "BNF-V032",
            "two plain modules do not say what they take, and neither do these samples",
            where="samples",
            fix="give an array or a dictionary of arrays by input name, or compare FoldResults",
        )
    return {names[0]: _whole(frame)}


def _whole(value: Any) -> _Frame:
    array = _array(value)
    return _Frame(array.shape, array.dtype)


def _without_first_axis(value: Any) -> _Frame:
    array = _array(value)
    return _Frame(array.shape[1:], array.dtype)


def _array(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _is_image(frame: _Frame) -> bool:
    shape = frame.shape
    return frame.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))


def _of_image(name: str, shape: tuple[int, ...], color: str | None) -> TensorSpec:
    gray = len(shape) == 2 or shape[2] == 1 if color is None else color == "gray"
    return TensorSpec(name, (1, 1 if gray else 3, *shape[:2]), "float32")


def _dtype(frame: _Frame, module: nn.Module) -> str:
    """What the network is given: floating values in its own precision, however they were saved."""
    if frame.dtype.kind != "f":
        return frame.dtype.name
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return dtype_name(own)
