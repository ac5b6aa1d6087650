"""The golden frame: arrays that travel in the manifest, as numpy sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnfold import manifest
from bnfold.runtime.session import Array


def encode(array: Array) -> dict[str, Any]:
    """The array as JSON types, exactly: dtype, shape and base64 of its packed little-endian bytes."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return manifest.pack_array(array.dtype.name, array.shape, little.tobytes())


def decode(document: Mapping[str, Any], *, where: str) -> Array:
    """The array that :func:`encode` wrote.

    Raises:
        ArtifactError: BNF-M008 it is damaged.
    """
    dtype, shape, raw = manifest.unpack_array(document, where=where)
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)


def short(array: Array) -> Array:
    """The array with its float32 values cut to 8 significant bits: packed, noise takes half.

    Any frame can be golden, since its answer is recorded; one cut towards zero is finite where the frame was.
    """
    if array.dtype != np.float32:
        return array
    return (np.array(array, order="C").view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def record(
    inputs: Mapping[str, Array], outputs: Mapping[str, Array], tolerances: Mapping[str, float]
) -> dict[str, Any]:
    """The manifest's ``golden`` entry: a frame's model inputs, its outputs and how far they may be off."""
    return {
        "inputs": {name: encode(array) for name, array in inputs.items()},
        "outputs": {
            name: {**encode(array), "tolerance": float(tolerances[name])} for name, array in outputs.items()
        },
    }
