"""``bnfold doctor``: what this machine can convert and run, and what to install for the rest.

What a purpose needs is read from bnfold's own package metadata, so this list and ``pip`` cannot disagree.
torch is looked for, never imported; interpreters are loaded, because one that is there may still not work.
"""

from __future__ import annotations

import argparse
import operator
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnfold._version import __version__
from bnfold.errors import PlatformError
from bnfold.report.machine import render_machine

from .command import CommandParser, Context, Outcome

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+)(\[(?P<extras>[^\]]*)\])?\s*\(?(?P<range>[^;)]*)\)?\s*(;(?P<marker>.*))?"
)

# What is imported is not always called what is installed.
_MODULE = {"pillow": "PIL", "ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}

# Purpose and the extra that serves it.
_PURPOSES = (
    ("convert to ONNX", "convert"),
    ("convert to TFLite", "tflite"),
    ("read PNG and JPEG frames", "images"),
    ("draw HTML pages", "report"),
)


_COMPARES: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, ">": operator.gt,
    "<": operator.lt,
}  # fmt: skip


def configure(parser: CommandParser) -> None:
    """No options of its own."""


def run(options: argparse.Namespace, context: Context) -> Outcome:
    """Look, and report. Exit status 2 where something that is installed does not load."""
    context.progress("looking for packages")
    wanted = _wanted()
    purposes = [_purpose(what, extra, wanted[extra]) for what, extra in _PURPOSES]
    context.progress("loading interpreters")
    interpreters = _interpreters()
    purposes += [
        _running(target, [found for found in interpreters if found["target"] == target])
        for target in ("onnx", "tflite")
    ]
    names = dict.fromkeys(name for extra, _ in ((e, p) for p, e in _PURPOSES) for name in wanted[extra])
    passed = all(found["problem"] is None for found in interpreters)
    document: dict[str, Any] = {
        "schema": 1,
        "passed": passed,
        "bnfold": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "purposes": purposes,
        "interpreters": interpreters,
        "packages": [
            {"name": name, "version": _version(name), "wanted": _range_of(name, wanted)} for name in names
        ],
        "findings": [],
    }
    return Outcome(passed, document, lambda style: render_machine(document, style), 0 if passed else 2)


def _wanted() -> dict[str, dict[str, str]]:
    """Per extra of bnfold: what it brings, by name, with the versions it takes.

    Raises:
        PlatformError: BNF-P030 bnfold runs from a folder and was never installed: nothing says what it needs.
    """
    from importlib import metadata

    try:
        requirements = metadata.requires("bnfold") or []
    except metadata.PackageNotFoundError as error:
        raise PlatformError(
            "BNF-P030",
            "bnfold itself is not installed here, so nothing says what it needs",
            where=str(Path(__file__).parent.parent),
            fix="pip install .   (in the checkout)",
        ) from error
    found: dict[str, dict[str, str]] = {}
    inherited: list[tuple[str, str]] = []
    for text in requirements:
        match = _REQUIREMENT.match(text)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", text)
        if match is None or extra is None:
            continue
        if match["name"] == "bnfold":
            inherited += [(extra[1], other.strip()) for other in match["extras"].split(",")]
        else:
            found.setdefault(extra[1], {})[match["name"].lower()] = match["range"].strip()
    for extra_name, other in inherited:
        found[extra_name] = {**found.get(other, {}), **found.get(extra_name, {})}
    return found


def _range_of(name: str, wanted: dict[str, dict[str, str]]) -> str:
    return next(packages[name] for packages in wanted.values() if name in packages)


def _version(name: str) -> str | None:
    """The version that is installed; None where the package, or what it says it installed, is not there."""
    from importlib import metadata, util

    try:
        if util.find_spec(_MODULE.get(name, name.replace("-", "_"))) is None:
            return None
        return metadata.version(name)
    except ImportError:  # PackageNotFoundError is one too
        return None


def _purpose(what: str, extra: str, packages: dict[str, str]) -> dict[str, Any]:
    versions = {name: _version(name) for name in packages}
    missing = [name for name, version in versions.items() if version is None]
    untested = [
        f"{name} {version}"
        for name, version in versions.items()
        if version is not None and not within(version, packages[name])
    ]
    return {
        "purpose": what,
        "works": not missing,
        "with": None,
        "missing": missing,
        "untested": untested,
        "install": f"pip install 'bnfold[{extra}]'" if missing or untested else None,
    }


def within(version: str, wanted: str) -> bool:
    """Whether a version is in a range such as ``<2.14,>=2.13``.

    A part that is not understood excludes nothing. Only the release counts, so 2.13.0+cpu and 2.13.0rc1 are
    both 2.13.0: this is to tell another minor version from the tested one; pip decides what is installed.
    """
    here = _release(version)
    for part in wanted.split(","):
        match = re.fullmatch(r"\s*(==|!=|>=|<=|>|<)\s*([0-9.]+)\s*", part)
        if match is None or here is None:
            continue
        there = _release(match[2]) or ()
        width = max(len(here), len(there))
        one, other = (release + (0,) * (width - len(release)) for release in (here, there))
        if not _COMPARES[match[1]](one, other):
            return False
    return True


def _release(version: str) -> tuple[int, ...] | None:
    match = re.match(r"\d+(\.\d+)*", version)
    return None if match is None else tuple(int(part) for part in match[0].split("."))


def _interpreters() -> list[dict[str, Any]]:
    """Every interpreter that bnfold knows, as it was found here."""
    from bnfold.runtime import interpreters

    return [
        {
            "name": found.interpreter.name,
            "target": found.interpreter.target,
            "extra": found.interpreter.extra,
            "version": found.version,
            "problem": found.problem,
        }
        for found in interpreters.probe()
    ]


def _running(target: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    working = [entry for entry in found if entry["version"] is not None]
    name = {"onnx": "ONNX", "tflite": "TFLite"}[target]
    return {
        "purpose": f"run {name} artifacts",
        "works": bool(working),
        "with": f"{working[0]['name']} {working[0]['version']}" if working else None,
        "missing": [] if working else [entry["name"] for entry in found],
        "untested": [],
        "install": None if working else f"pip install 'bnfold[{found[0]['extra']}]'",
    }
