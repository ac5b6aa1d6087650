"""The options that say how a frame becomes an input, and what they amount to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError

from . import values
from .command import CommandParser
from .values import InputSpec

_FLAGS = ("scale", "mean", "std", "color", "resize")


def add_options(parser: CommandParser) -> None:
    """``--mean``, ``--std``, ``--scale``, ``--color``, ``--resize`` and ``--labels``."""
    group = parser.add_argument_group(
        "frames",
        "How the device prepares an image: (pixel * scale - mean) / std. Without any of\n"
        "these options the artifact takes no images, only arrays that are prepared.",
    )
    parser.option(
        "--mean",
        group=group,
        type=values.numbers,
        metavar="NUMBERS",
        help="one, or one per channel: 0.485,0.456,0.406",
    )
    parser.option(
        "--std", group=group, type=values.positives, metavar="NUMBERS", help="one, or one per channel"
    )
    parser.option(
        "--scale",
        group=group,
        metavar="NUMBER",
        type=values.positive,
        help="default 1/255; 1 for pixels 0 to 255",
    )
    parser.option(
        "--color",
        group=group,
        choices=("gray", "rgb", "bgr"),
        help="order of the input's channels; default gray for one channel, rgb for three",
    )
    parser.option(
        "--resize",
        group=group,
        choices=("stretch", "crop", "letterbox"),
        help="how a frame of another size is fitted; default stretch",
    )
    parser.option("--labels", group=group, metavar="FILE", help="the names of the classes, one a line")


def normalisation(options: argparse.Namespace, specs: Sequence[InputSpec]) -> dict[str, Any] | None:
    """The manifest's ``normalisation``, or None where no option asks for one.

    Nothing is guessed: a network trained with a mean that the user did not give would answer, wrongly.

    Raises:
        UsageError: BNF-U012 when the options do not fit the input or each other.
    """
    given = [flag for flag in _FLAGS if getattr(options, flag) is not None]
    if not given:
        return None
    flags = ", ".join(f"--{flag}" for flag in given)
    images = [spec for spec in specs if _channels(spec) is not None]
    if len(images) != 1:
        raise UsageError(
            "BNF-U012",
            f"{flags} need one image input of 1 or 3 channels; there are {len(images)}",
            where="--input " + " ".join(_shape(spec) for spec in specs),
            fix="leave these options out, and give frames as prepared float arrays",
        )
    layout, channels = _channels(images[0]) or ("NCHW", 1)
    color = options.color or ("gray" if channels == 1 else "rgb")
    if (color == "gray") != (channels == 1):
        raise UsageError(
            "BNF-U012",
            f"--color {color} does not fit an input of {channels} channels",
            where=f"--input {_shape(images[0])}, {layout}",
            fix="--color gray" if channels == 1 else "--color rgb or --color bgr",
        )
    mean = _per_channel("mean", options.mean, channels, 0.0)
    std = _per_channel("std", options.std, channels, 1.0)
    if options.scale is None and max(map(abs, mean)) > 1:
        raise UsageError(
            "BNF-U012",
            f"--mean {max(mean, key=abs):g} is beyond the pixels, which the default scale puts into 0 to 1",
            where="--mean",
            fix="--scale 1   where mean and std are about pixels from 0 to 255",
        )
    return {
        "layout": layout,
        "color": color,
        "resize": options.resize or "stretch",
        "scale": 1 / 255 if options.scale is None else options.scale,
        "mean": mean,
        "std": std,
    }


def labels(path: str | None) -> list[str] | None:
    """The lines of a label file, in order.

    Raises:
        UsageError: BNF-U013 when it cannot be read, or a line is empty.
    """
    if path is None:
        return None
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError("BNF-U013", f"cannot read the labels: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "BNF-U013", "the labels are no UTF-8 text", where=path, fix="save it as UTF-8"
        ) from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not names or "" in names:
        line = names.index("") + 1 if names else 1
        raise UsageError(
            "BNF-U013", f"line {line} is empty", where=path, fix="one label a line: line 1 is class 0"
        )
    return names


def _channels(spec: InputSpec) -> tuple[str, int] | None:
    """The layout and the channels of an image input; PyTorch's order where both would fit."""
    if len(spec.shape) != 4 or not spec.dtype.startswith("float"):
        return None
    if spec.shape[1] in (1, 3):
        return "NCHW", spec.shape[1]
    return ("NHWC", spec.shape[3]) if spec.shape[3] in (1, 3) else None


def _per_channel(flag: str, given: list[float] | None, channels: int, default: float) -> list[float]:
    numbers = given or [default]
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise UsageError(
            "BNF-U012",
            f"--{flag} has {len(numbers)} numbers; the input has {channels} channels",
            where=f"--{flag}",
            fix=f"give 1 or {channels} numbers joined by commas",
        )
    return numbers


def _shape(spec: InputSpec) -> str:
    return (f"{spec.name}=" if spec.name else "") + "x".join(map(str, spec.shape))
