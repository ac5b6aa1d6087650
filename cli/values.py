"""Option values: from what the user wrote to numbers, shapes and lists.

The functions are argparse types: they take one string. They also accept the value that ``bnfold.toml``
holds once it is written as a string.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bnfold.errors import UsageError

from .command import did_you_mean

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_SHAPE = re.compile(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", re.ASCII)
_MOST_ELEMENTS = 2**31


@dataclass(frozen=True)
class InputSpec:
    """One ``--input``: ``image=1x3x224x224:float32``; the name is None where none was given."""

    name: str | None
    shape: tuple[int, ...]
    dtype: str


def _unreadable(what: str, fix: str) -> UsageError:
    return UsageError("BNF-U010", what, fix=fix)


def input_spec(text: str) -> InputSpec:
    """``[NAME=]SHAPE[:DTYPE]``.

    Raises:
        UsageError: BNF-U010.
    """
    name, equals, rest = text.rpartition("=")
    shape_text, _, dtype = rest.partition(":")
    if equals and not all(part.isidentifier() for part in name.split(".")):
        raise _unreadable(f"--input {text}: {name!r} is no name of a parameter", "NAME=1x3x224x224:float32")
    if not _SHAPE.fullmatch(shape_text):
        raise _unreadable(
            f"--input {text}: {shape_text!r} is no shape",
            "sizes of at least 1 joined by x, batch first, as in 1x3x224x224",
        )
    shape = tuple(int(size) for size in shape_text.split("x"))
    if math.prod(shape) > _MOST_ELEMENTS:
        raise _unreadable(
            f"--input {text}: {math.prod(shape)} elements, more than 2^31", "give a smaller shape"
        )
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        known = did_you_mean(dtype, DTYPES) or f"one of {', '.join(DTYPES)}"
        raise _unreadable(f"--input {text}: unknown dtype {dtype!r}", known)
    return InputSpec(name or None, shape, dtype)


def number(text: str) -> float:
    """A finite number, also as a fraction: ``1/255``.

    Raises:
        UsageError: BNF-U010.
    """
    try:
        top, slash, bottom = text.strip().partition("/")
        if slash and re.fullmatch(r"[+-]?\d+", top.strip()) and re.fullmatch(r"\d+", bottom.strip()):
            value = float(Fraction(int(top), int(bottom)))
        else:
            value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise _unreadable(f"{text!r} is no finite number", "a number or a fraction, as in 0.5 or 1/255")
    return value


def numbers(text: str) -> list[float]:
    """Numbers joined by commas: ``0.485,0.456,0.406``."""
    return [number(part) for part in text.split(",")]


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise _unreadable(f"{text!r} is not above 0", "a positive number, as in 1/255")
    return value


_UNITS_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1000.0}


def duration_ms(text: str) -> float:
    """A time above 0 with its unit, in milliseconds: ``12ms``, ``900us``, ``0.5s``."""
    found = re.fullmatch(r"\s*([^a-zµ\s]+)\s*([a-zµ]+)\s*", text)
    if found is None or found[2] not in _UNITS_MS:
        raise _unreadable(f"{text!r} is no time with a unit", "12ms, 900us or 0.5s")
    return positive(found[1]) * _UNITS_MS[found[2]]


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise _unreadable(f"{text!r} is not above 0 and at most 1", "a share, as in 0.1")
    return value


def answer(text: str) -> tuple[str, str]:
    """An output's name and what it holds; no name is the only output's."""
    name, _, kind = text.rpartition("=")
    if kind not in ("scores", "numbers"):
        raise _unreadable(f"{text!r} says neither scores nor numbers", "--answers pose=numbers")
    return name, kind


def positives(text: str) -> list[float]:
    """Numbers above 0 joined by commas."""
    return [positive(part) for part in text.split(",")]


def whole(least: int, most: int) -> Callable[[str], int]:
    """A type for whole numbers in a range."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise _unreadable(f"{text!r} is no whole number from {least} to {most}", f"as in {least}")
        return value

    return read


def words(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A type for words joined by commas, each one of ``choices``, in the order given, once each."""

    def read(text: str) -> tuple[str, ...]:
        given = [part.strip() for part in text.split(",")]
        for word in given:
            if word not in choices:
                fix = did_you_mean(word, choices) or f"one or more of {','.join(choices)}"
                raise _unreadable(f"{word!r} is not one of {', '.join(choices)}", fix)
        return tuple(dict.fromkeys(given))

    return read


def sha256(text: str) -> str:
    """64 hexadecimal digits, in lower case.

    Raises:
        UsageError: BNF-U010.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise _unreadable(f"{text!r} is no SHA-256: 64 hexadecimal digits", "sha256sum FILE prints it")
    return text.lower()


def one_of(flag: str, choices: Sequence[str]) -> Callable[[str], str]:
    """A type for one of some words.

    Raises:
        UsageError: BNF-U010.
    """

    def read(text: str) -> str:
        if text in choices:
            return text
        fix = did_you_mean(text, choices) or f"one of {', '.join(choices)}"
        raise _unreadable(f"{flag}: unknown value {text!r}", fix)

    return read
