"""The options that say how a frame becomes an input, and what they amount to."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.files import refuse_special
from bnfold.normalisation import for_the_only_image
from bnfold.signature import TensorSpec

from . import values
from .command import CommandParser
from .values import InputSpec

_FLAGS = ("scale", "mean", "std", "color", "resize")


def add_options(parser: CommandParser, *, labels: bool) -> None:
    """``--mean``, ``--std``, ``--scale``, ``--color``, ``--resize``, and ``--labels`` where wanted."""
    group = parser.add_argument_group(
        "frames",
        "How an image becomes an input, as it was in training:\n(pixel * scale - mean) / std",
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
    if labels:
        parser.option("--labels", group=group, metavar="FILE", help="the names of the classes, one a line")


def said(options: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by name without dashes."""
    return {flag: getattr(options, flag) for flag in _FLAGS if getattr(options, flag) is not None}


def normalisation(options: argparse.Namespace, specs: Sequence[InputSpec]) -> dict[str, Any] | None:
    """What the options say of the one image input, or None where they say nothing.

    They are checked against ``specs``, where there are any.

    Raises:
        UsageError: BNF-U012 when the options do not fit the input or each other.
    """
    given = said(options)
    if not given or not specs:
        return given or None
    inputs = [TensorSpec(spec.name or "--input", spec.shape, spec.dtype) for spec in specs]
    for_the_only_image(given, inputs, "--{}".format)  # early: before the network is loaded
    return given


def labels(path: str | None) -> list[str] | None:
    """The lines of a label file, in order.

    Raises:
        UsageError: BNF-U013 when it cannot be read, or a line is empty.
        PlatformError: BNF-P016 a pipe or a device.
    """
    if path is None:
        return None
    refuse_special(path)
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
