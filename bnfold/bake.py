"""The preparation of pixels as the first step of the network itself, so that a C program need not know it.

    input = (pixel * scale - mean) / std  =  s pixel + t,   s = scale / std,  t = -mean / std

per channel, s and t in float64 and rounded once. The fold moves it into the first convolution like any other
affine: wholly where nothing is padded with zeros or t is 0, else an addition is left for the border. The
network then takes pixels from 0 to 255 as floats; colour, size and layout are still the caller's to prepare.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnfold.errors import UsageError
from bnfold.normalisation import Given, Normalisation, by_input
from bnfold.verify.sides import specs_of

BAKED = "baked"
"""The key in a manifest's normalisation under which the numbers stand that the file applies itself."""

_SEED = 0


@dataclass(frozen=True)
class Baked:
    """A network that takes pixels.

    Attributes:
        module: a twin of the caller's, which shares its weights; its layers have the same names.
        example_inputs: pixels in place of the caller's examples for the image inputs.
        normalisation: of each input, complete, as the manifest is to hold it: what is left to prepare.
        before: the same as it was for the caller's network.
    """

    module: nn.Module
    example_inputs: tuple[Any, ...]
    normalisation: dict[str, Normalisation | None]
    before: dict[str, Normalisation | None]


def bake(module: nn.Module, example_inputs: tuple[Any, ...], normalisation: Given | None) -> Baked:
    """The network with the preparation of its image inputs inside.

    Args:
        module: the caller's; it is not changed.
        example_inputs: positional arguments of its forward.
        normalisation: as for :func:`bnfold.convert`.

    Raises:
        UsageError: BNF-U012 the normalisation does not fit; BNF-U170 no input takes images, or one that does
            is no parameter of forward itself.
    """
    specs = specs_of(example_inputs, module)
    before = by_input(normalisation, specs)
    images = {name: how for name, how in before.items() if how is not None}
    if not images:
        raise UsageError(
            "BNF-U170",
            "there is no normalisation to bake: no input takes images",
            where="; ".join(spec.describe() for spec in specs),
            fix="leave --bake-normalisation out",
        )
    dtypes = {spec.name: spec.dtype for spec in specs}
    twin = prepared_inside(module, images, dtypes)
    bound = inspect.signature(module.forward).bind(*example_inputs)
    generator = torch.Generator().manual_seed(_SEED)
    for name in images:
        given = bound.arguments[name]
        pixels = torch.randint(0, 256, given.shape, generator=generator)
        bound.arguments[name] = pixels.to(given.dtype)
    after = {name: None if how is None else _left(how) for name, how in before.items()}
    return Baked(twin, bound.args, after, before)


def prepared_inside(
    module: nn.Module, images: Mapping[str, Given], dtypes: Mapping[str, str]
) -> nn.Module:
    """A twin that shares the module's weights and layers, and prepares pixels itself.

    Args:
        module: the caller's; it is not changed.
        images: layout, scale, mean and std by the name of forward's parameter.
        dtypes: of the inputs by name.

    Raises:
        UsageError: BNF-U170 forward has no such parameter.
    """
    kind = type(module)
    signature = inspect.signature(module.forward)
    for name in images:
        if name not in signature.parameters:
            raise UsageError(
                "BNF-U170",
                f"the preparation of {name!r} cannot be baked: it is no parameter of forward{signature}",
                where=kind.__name__,
                fix="prepare its frames outside, or give forward the image itself",
            )
    original = kind.forward

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name in images:
            s, t = getattr(self, _buffer(name, "scale")), getattr(self, _buffer(name, "shift"))
            bound.arguments[name] = bound.arguments[name] * s + t
        return original(self, *bound.args, **bound.kwargs)

    # A subclass and not a wrapper around it: layers keep the names by which reports and checkpoints know them
    twin = copy.copy(module)
    twin._buffers = dict(module._buffers)
    twin._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    twin.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    for name, how in images.items():
        for which, values in zip(("scale", "shift"), affine(how), strict=True):
            shape = [1] * 4
            shape[how["layout"].index("C")] = -1
            tensor: Tensor = torch.from_numpy(values).to(getattr(torch, dtypes[name])).reshape(shape)
            twin.register_buffer(_buffer(name, which), tensor, persistent=False)
    return twin


def affine(how: Given) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """s and t per channel, float64."""
    mean, std = np.asarray(how["mean"], dtype=np.float64), np.asarray(how["std"], dtype=np.float64)
    return how["scale"] / std, 0.0 - mean / std  # no minus before a zero


def _left(how: Normalisation) -> Normalisation:
    numbers = {key: how[key] for key in ("scale", "mean", "std")}
    channels = len(how["mean"])
    return {**how, "scale": 1.0, "mean": [0.0] * channels, "std": [1.0] * channels, BAKED: numbers}


def _buffer(name: str, which: str) -> str:
    return f"{name}_pixel_{which}"
