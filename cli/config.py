"""``bnfold.toml``: options in a file, one section per command; what stands on the command line wins.

    [convert]
    model = "net.py:Net"
    input = "1x3x224x224"
    to = ["onnx", "tflite"]
    mean = [0.485, 0.456, 0.406]

Keys are the long options without their dashes. Paths are relative to the current folder, as they are on
the command line. An unknown section or key is an error, wherever it stands in the file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.files import refuse_special
from bnfold.wording import clip

from .command import CommandParser, did_you_mean

NAME = "bnfold.toml"
_FIX = "correct it: sections [COMMAND], and in them numbers, texts and lists of them"


def read(path: str | None) -> tuple[str, dict[str, Any]]:
    """The file's name and its sections; no sections where there is no file.

    Args:
        path: what ``-c`` names; None for the one in the current folder, which need not be there.

    Raises:
        UsageError: BNF-U005 when it cannot be read or is no TOML.
        PlatformError: BNF-P016 a pipe or a device.
    """
    name = path or NAME
    refuse_special(name)
    try:
        data = Path(name).read_bytes()
    except FileNotFoundError as error:
        if path is None:
            return name, {}
        raise UsageError("BNF-U005", "no such configuration file", where=name, fix="check -c") from error
    except OSError as error:
        raise UsageError("BNF-U005", f"cannot read it: {error.strerror}", where=name) from error
    try:
        sections = tomllib.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise UsageError(
            "BNF-U005", "not TOML that can be read: too many brackets", where=name, fix=_FIX
        ) from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and a number of thousands of digits
        raise UsageError("BNF-U005", f"not TOML: {clip(error, 150)}", where=name, fix=_FIX) from error
    return name, sections


def select(
    sections: Mapping[str, Any], name: str, command: str, parser_of: Callable[[str], CommandParser | None]
) -> dict[str, Any]:
    """The values for one command, by long option, after a check of all sections' names and keys.

    Args:
        sections: what `read` returned.
        name: the file's name, for messages.
        command: whose values are wanted.
        parser_of: a command's parser; None for a word that is no command.

    Raises:
        UsageError: BNF-U006 for an unknown section or key, BNF-U007 for a value that does not fit.
    """
    values: dict[str, Any] = {}
    for section, content in sections.items():
        parser = parser_of(section)
        if parser is None or not isinstance(content, dict):
            raise UsageError(
                "BNF-U006",
                f"[{section}] is no command"
                if isinstance(content, dict)
                else f"{section!r} is in no section",
                where=name,
                fix="options stand in a section named after their command, as in [convert]",
            )
        for key, value in content.items():
            flag = f"--{key}"
            if flag not in parser.options:
                known = [option.removeprefix("--") for option in parser.options]
                raise UsageError(
                    "BNF-U006",
                    f"unknown key {key!r}",
                    where=f"{name}, [{section}]",
                    fix=did_you_mean(key, known) or f"bnfold {section} --help lists the options",
                )
            if section == command:
                values[flag] = _convert(parser, flag, value, f"{name}, [{section}] {key}")
    return values


def _convert(parser: CommandParser, flag: str, value: Any, where: str) -> Any:
    """The value as the option would have it from the command line."""
    action = parser.options[flag].action
    if action.nargs == 0:  # an option without a value
        if not isinstance(value, bool):
            raise UsageError("BNF-U007", f"{value!r} is neither true nor false", where=where)
        return value
    repeated = isinstance(parser.options[flag].default, list) or action.nargs == "+"
    if repeated:
        items = value if isinstance(value, list) else [value]
        return [_one(action.type, action.choices, item, where) for item in items]
    if action.metavar == "JSON" and isinstance(value, dict | list):
        value = json.dumps(value)
    elif isinstance(value, list):
        value = ",".join(_text(item, where) for item in value)
    return _one(action.type, action.choices, value, where)


def _one(kind: Any, choices: Any, value: Any, where: str) -> Any:
    text = _text(value, where)
    if not text:  # as on the command line
        raise UsageError("BNF-U007", "an empty value", where=where, fix="give one, or leave the key out")
    try:
        converted = kind(text) if kind else text
    except UsageError as error:
        raise UsageError(error.code, error.what, where=where, fix=error.fix) from error
    if choices is not None and converted not in choices:
        fix = did_you_mean(text, choices) or f"one of {', '.join(choices)}"
        raise UsageError("BNF-U007", f"{text!r} is not one of {', '.join(choices)}", where=where, fix=fix)
    return converted


def _text(value: Any, where: str) -> str:
    """The value as it would be written on the command line."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError("BNF-U007", f"{value!r} is no text, number or list of them", where=where)
    return str(value)
