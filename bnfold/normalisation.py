"""How an image becomes a network's input: what was said of it, checked and completed. Torch-free.

    input = (pixel * scale - mean) / std

An input of four axes with 1 or 3 channels takes images. What was not said is what image pipelines do by
default: gray or RGB by the number of channels, stretched to size, pixels divided by 255, mean 0 and standard
deviation 1. Nobody knows from a checkpoint whether training did the same, so a default is always reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

from bnfold.errors import UsageError
from bnfold.finding import Finding
from bnfold.manifest_schema import COLORS, FLOATS, LAYOUTS, RESIZES
from bnfold.signature import TensorSpec
from bnfold.wording import count

Normalisation = dict[str, Any]
Given = Mapping[str, Any]
Spell = Callable[[str], str]

KEYS = ("layout", "color", "resize", "scale", "mean", "std")
SCALE = 1 / 255


def by_input(given: Given | None, inputs: Sequence[TensorSpec]) -> dict[str, Normalisation | None]:
    """The complete normalisation of each input, as the manifest holds it; None for one that takes no images.

    Args:
        given: some of ``layout``, ``color``, ``resize``, ``scale``, ``mean`` and ``std`` for the only image
            input, or a dictionary of these (or None: no images) by input name; None: nothing is known.
        inputs: of the network.

    Raises:
        UsageError: BNF-U012 it does not fit the inputs.
    """
    result: dict[str, Normalisation | None] = dict.fromkeys(spec.name for spec in inputs)
    if not given:
        images = [spec for spec in inputs if _image(spec)]
        if len(images) == 1:
            result[images[0].name] = _complete({}, images[0], str)
    elif set(given) <= set(KEYS):
        spec, how = for_the_only_image(given, inputs)
        result[spec.name] = how
    else:
        for name, how_given in given.items():
            if name not in result or not isinstance(how_given, Mapping | None):
                wrong = f"there is no input {name!r}" if name not in result else f"{name!r} is no dictionary"
                raise UsageError(
                    "BNF-U012",
                    f"the normalisation does not fit: {wrong}",
                    where=_described(inputs),
                    fix=f"give {', '.join(KEYS)} of the image input, or a dictionary of these by input name",
                )
            if how_given is not None:
                spec = next(spec for spec in inputs if spec.name == name)
                result[name] = _complete(how_given, spec, str)
    return result


def for_the_only_image(
    given: Given, inputs: Sequence[TensorSpec], spell: Spell = str
) -> tuple[TensorSpec, Normalisation]:
    """The one input that takes images, and its complete normalisation.

    Args:
        given: some of ``KEYS``.
        inputs: of the network.
        spell: how the user writes a key: ``--mean``.

    Raises:
        UsageError: BNF-U012 it does not fit, or there is not one such input.
    """
    layout = _one_of(given, "layout", LAYOUTS, spell)
    images = [spec for spec in inputs if _image(spec, layout)]
    if len(images) != 1:
        raise UsageError(
            "BNF-U012",
            f"{', '.join(map(spell, given))} need one image input of 1 or 3 channels; "
            + (f"there are {len(images)}" if images else "there is none"),
            where=_described(inputs),
            fix="leave them out, and give frames as prepared float arrays"
            if spell is not str or not images
            else "give the normalisation by input name: {NAME: {...}}",
        )
    return images[0], _complete(given, images[0], spell)


def assumed(given: Given | None, prepared: Mapping[str, Normalisation | None]) -> list[Finding]:
    """What to tell where nothing was said and the defaults were taken."""
    if given:
        return []
    return [
        Finding(
            "BNF-V015",
            "info",
            name,
            f"images for {name} are prepared as {describe(how)}, by default: nothing was given",
            {"normalisation": how},
            "if training prepared them in another way, give mean, std, scale, color and resize",
        )
        for name, how in prepared.items()
        if how is not None
    ]


def describe(how: Given) -> str:
    """``gray, stretch, NCHW, (pixel / 255 - 0.1307) / 0.3081``, without what changes nothing.

    Where the file does the last part itself (see :mod:`bnfold.bake`), that is said too.
    """
    text = _numbers_of(how)
    if "baked" in how:
        text += f" (inside the file: {_numbers_of(how['baked'])})"
    return f"{how['color']}, {how['resize']}, {how['layout']}, {text}"


def _numbers_of(how: Given) -> str:
    """What is done to a pixel."""
    text = "pixel"
    if how["scale"] != 1:
        whole = round(1 / how["scale"])
        text += f" / {whole}" if whole > 1 and 1 / whole == how["scale"] else f" * {how['scale']:.6g}"
    divided = set(how["std"]) != {1}
    if any(how["mean"]):
        text = f"{text} - {_numbers(how['mean'])}"
        text = f"({text})" if divided else text
    if divided:
        text = f"{text} / {_numbers(how['std'])}"
    return text


# --- one input -------------------------------------------------------------------------------------------


def _image(spec: TensorSpec, layout: str | None = None) -> tuple[str, int] | None:
    """The layout and the channels of an image input; PyTorch's order where both would fit."""
    if len(spec.shape) != 4 or spec.dtype not in FLOATS:
        return None
    for order in LAYOUTS if layout is None else (layout,):
        channels = spec.shape[order.index("C")]
        if channels in (1, 3):
            return order, channels
    return None


def _complete(given: Given, spec: TensorSpec, spell: Spell) -> Normalisation:
    """Every key, each value checked against the others and the input.

    Raises:
        UsageError: BNF-U012.
    """
    for key in given:
        if key not in KEYS:
            raise _wrong(f"there is no {key!r} in a normalisation", spec, f"one of {', '.join(KEYS)}")
    order = _one_of(given, "layout", LAYOUTS, spell)
    image = _image(spec, order)
    if image is None:
        told = f"{spec.name} takes no images" + (f" in {order}" if order else "")
        raise _wrong(told, spec, "an image has four axes and 1 or 3 channels; leave its normalisation out")
    layout, channels = image
    color = _one_of(given, "color", COLORS, spell) or ("gray" if channels == 1 else "rgb")
    if (color == "gray") != (channels == 1):
        fitting = "gray" if channels == 1 else f"rgb or {spell('color')} bgr"
        raise _wrong(
            f"{spell('color')} {color} does not fit an input of {count(channels, 'channel')} in {layout}",
            spec,
            f"{spell('color')} {fitting}",
        )
    scale = _number(given.get("scale", SCALE), "scale", spec, spell, positive=True)
    mean = _per_channel(given.get("mean", 0.0), "mean", channels, spec, spell, positive=False)
    std = _per_channel(given.get("std", 1.0), "std", channels, spec, spell, positive=True)
    if "scale" not in given and max(map(abs, mean)) > 1:
        raise _wrong(
            f"{spell('mean')} {max(mean, key=abs):g} is beyond the pixels, 0 to 1 with the default scale",
            spec,
            f"{spell('scale')} 1   where mean and std are about pixels from 0 to 255",
        )
    resize = _one_of(given, "resize", RESIZES, spell) or "stretch"
    return {"layout": layout, "color": color, "resize": resize, "scale": scale, "mean": mean, "std": std}


def _per_channel(
    value: Any, key: str, channels: int, spec: TensorSpec, spell: Spell, *, positive: bool
) -> list[float]:
    """One number for every channel, from one for all or as many."""
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
    numbers = [_number(entry, key, spec, spell, positive=positive) for entry in values]
    if len(numbers) not in (1, channels):
        raise _wrong(
            f"{spell(key)} has {count(len(numbers), 'number')}; the input has {count(channels, 'channel')}",
            spec,
            f"give {' or '.join(map(str, sorted({1, channels})))} of them",
        )
    return numbers * channels if len(numbers) == 1 else numbers


def _number(value: Any, key: str, spec: TensorSpec, spell: Spell, *, positive: bool) -> float:
    number = float(value) if isinstance(value, SupportsFloat) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        needed = "a positive number" if positive else "a finite number"
        raise _wrong(f"{spell(key)} {value!r} is not {needed}", spec, "input = (pixel * scale - mean) / std")
    return number


def _one_of(given: Given, key: str, allowed: tuple[str, ...], spell: Spell) -> str | None:
    value = given.get(key)
    if value is None or value in allowed:
        return value
    raise UsageError(
        "BNF-U012", f"there is no {spell(key)} {value!r}", where="normalisation", fix=" or ".join(allowed)
    )


def _wrong(what: str, spec: TensorSpec, fix: str) -> UsageError:
    return UsageError("BNF-U012", what, where=spec.describe(), fix=fix)


def _described(inputs: Sequence[TensorSpec]) -> str:
    return "; ".join(spec.describe() for spec in inputs)


def _numbers(values: Sequence[float]) -> str:
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"
