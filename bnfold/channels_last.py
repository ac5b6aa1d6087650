"""Files that take channels last, made from networks that take channels first. Torch-free.

A camera has its channels last, and so have TFLite's convolutions: such a file needs no transpose in front.
Only the file is so: fold, reference and samples stay in the network's order, and what they hold is moved
where the file is run. The manifest has ``layout: {"file": "NHWC", "network": "NCHW"}`` at such an input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import UsageError
from bnfold.manifest_schema import FLOATS, MOVED
from bnfold.signature import TensorSpec

Array = NDArray[Any]

LAYOUTS = ("nchw", "nhwc")
"""What a conversion can be asked for."""


def movable(
    inputs: Sequence[TensorSpec], normalisation: Mapping[str, Mapping[str, Any] | None]
) -> frozenset[str]:
    """The names of the inputs that a file can take channels last: floats, four or five axes, channels second.

    Args:
        inputs: of the network.
        normalisation: complete, of each input; it says which images the network takes channels last itself.

    Raises:
        UsageError: BNF-U185 there is none.
    """
    found = frozenset(
        spec.name
        for spec in inputs
        if len(spec.shape) in MOVED
        and spec.dtype in FLOATS
        and (normalisation.get(spec.name) or {}).get("layout") != "NHWC"
    )
    if not found:
        raise UsageError(
            "BNF-U185",
            "no input could be taken channels last: it needs floats and four or five axes, channels second",
            where="; ".join(spec.describe() for spec in inputs),
            fix="leave --layout nhwc out",
        )
    return found


def of_manifest(manifest: Mapping[str, Any]) -> frozenset[str]:
    """The names of the inputs that an artifact takes in another order than its network."""
    return frozenset(entry["name"] for entry in manifest["inputs"] if "layout" in entry)


def said(spec: TensorSpec, moved: Collection[str]) -> dict[str, Any]:
    """What the manifest adds to an input; nothing where the file's order is the network's."""
    if spec.name not in moved:
        return {}
    network, file = MOVED[len(spec.shape)]
    return {"layout": {"file": file, "network": network}}


def file_specs(specs: Sequence[TensorSpec], moved: Collection[str]) -> tuple[TensorSpec, ...]:
    """The network's inputs as the file takes them."""
    return tuple(
        spec._replace(shape=(spec.shape[0], *spec.shape[2:], spec.shape[1])) if spec.name in moved else spec
        for spec in specs
    )


def network_specs(specs: Sequence[TensorSpec], moved: Collection[str]) -> tuple[TensorSpec, ...]:
    """The file's inputs as the network takes them."""
    return tuple(
        spec._replace(shape=(spec.shape[0], spec.shape[-1], *spec.shape[1:-1]))
        if spec.name in moved
        else spec
        for spec in specs
    )


def with_order(
    normalisation: Mapping[str, Mapping[str, Any] | None], moved: Collection[str], layout: str
) -> dict[str, dict[str, Any] | None]:
    """The same preparation into the order of the file (``NHWC``) or of the network (``NCHW``)."""
    return {
        name: None if how is None else {**how, "layout": layout} if name in moved else dict(how)
        for name, how in normalisation.items()
    }


def to_file(arrays: Mapping[str, Array], moved: Collection[str]) -> dict[str, Array]:
    """The network's inputs, by name, in the order of the file."""
    return {
        name: np.ascontiguousarray(np.moveaxis(array, 1, -1)) if name in moved else array
        for name, array in arrays.items()
    }
