"""Frames to time a model on where the user gives none: they take as long, and say nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.runtime import golden
from bnfold.runtime.model import Model
from bnfold.runtime.session import Array
from bnfold.signature import TensorSpec

_COUNT = 16


def prepared(model: Model) -> dict[str, Array]:
    """Model inputs: the golden frame, which has values of the right range; seeded ones where there is none.

    Raises:
        ArtifactError: BNF-M008 the golden frame is damaged.
    """
    recorded = model.manifest["golden"]
    if recorded is not None:
        where = f"golden frame of {model.manifest['name']!r}"
        return {name: golden.decode(entry, where=where) for name, entry in recorded["inputs"].items()}
    generator = np.random.default_rng(0)
    return {spec.name: _drawn(spec, generator) for spec in model.inputs}


def _drawn(spec: TensorSpec, generator: np.random.Generator) -> Array:
    """Normal floats; 0 and 1 for integers, which may be indices."""
    shape = tuple(size or 1 for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def camera(model: Model) -> list[Any] | None:
    """uint8 frames of the size that the model takes, so that nothing is resized; None without images."""
    entry = model.manifest["inputs"][0]
    how = entry["normalisation"]
    if len(model.inputs) != 1 or how is None:
        return None
    height, width = (entry["shape"][how["layout"].index(axis)] for axis in "HW")
    shape = (height, width) if how["color"] == "gray" else (height, width, 3)
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, shape, dtype=np.uint8) for _ in range(_COUNT)]
