"""The interpreters that can run an artifact: which are here, and which one is taken."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from bnfold.errors import ArtifactError, PlatformError, UsageError
from bnfold.runtime.session import Binding, Session


class Interpreter:
    """One package that runs one format.

    Attributes:
        name: as pip knows it; what ``bnfold.open(..., runtime=...)`` takes.
        target: ``onnx`` or ``tflite``.
        module: what is imported.
        extra: the extra of bnfold that installs it.
    """

    def __init__(self, name: str, target: str, module: str, extra: str) -> None:
        self.name = name
        self.target = target
        self.module = module
        self.extra = extra


# in order of preference: ai-edge-litert succeeds tflite-runtime and also works with numpy 2
ALL = (
    Interpreter("onnxruntime", "onnx", "onnxruntime", "edge-onnx"),
    Interpreter("ai-edge-litert", "tflite", "ai_edge_litert.interpreter", "edge-tflite"),
    Interpreter("tflite-runtime", "tflite", "tflite_runtime.interpreter", "edge-tflite"),
)


class Probe:
    """An interpreter as it was found here.

    Attributes:
        version: None where it is not installed or does not load.
        problem: why it does not load; None where it does, or where it is not installed.
    """

    def __init__(self, interpreter: Interpreter, version: str | None, problem: str | None) -> None:
        self.interpreter = interpreter
        self.version = version
        self.problem = problem


def probe(target: str | None = None) -> list[Probe]:
    """Tries each interpreter (of one format, or of both) by importing it; that takes up to a second."""
    probes = []
    for interpreter in ALL:
        if target in (None, interpreter.target):
            module, problem = _load(interpreter)
            probes.append(Probe(interpreter, None if module is None else version(interpreter), problem))
    return probes


def at_hand(target: str | None = None) -> list[str]:
    """Names of the interpreters that load here, the preferred one first; each can be given to ``open``."""
    return [found.interpreter.name for found in probe(target) if found.version is not None]


def version(interpreter: Interpreter) -> str:
    """The version of an interpreter that has been imported."""
    package = sys.modules[interpreter.module.partition(".")[0]]
    found = getattr(package, "__version__", None)
    if found is None:
        from importlib import metadata  # slow to import, and hardly ever needed

        found = metadata.version(interpreter.name)
    return str(found)


def start(
    source: bytes | str,
    manifest: Mapping[str, Any],
    inputs: Binding,
    outputs: Binding,
    *,
    threads: int,
    runtime: str | None,
) -> tuple[Interpreter, Session]:
    """Loads the model into the first interpreter that can be imported, or into the one asked for.

    Args:
        source: the artifact's bytes, or the path where the interpreter finds them.

    Raises:
        UsageError: BNF-U060 ``runtime`` names no interpreter of this format.
        PlatformError: BNF-P020 none is installed; BNF-P021 one is installed and does not load.
        ArtifactError: BNF-M010 the interpreter does not take the file; BNF-M011 the file has other tensors
            than the manifest.
    """
    interpreter, module = choose(manifest["target"], runtime)

    def stopped(error: Exception) -> ArtifactError:
        return ArtifactError(
            "BNF-M012",
            f"{interpreter.name} {version(interpreter)} stopped: {error}",
            where=f"model {manifest['name']!r}",
            fix="check that integer inputs are within the range that the model was made for",
        )

    try:
        if interpreter.target == "onnx":
            from bnfold.runtime.backend_onnxruntime import OnnxRuntimeSession

            return interpreter, OnnxRuntimeSession(source, threads, inputs, outputs, stopped)
        from bnfold.runtime.backend_tflite import TfliteSession

        return interpreter, TfliteSession(module, source, threads, inputs, outputs, stopped)
    except ArtifactError:
        raise
    except Exception as error:  # each interpreter has exception types of its own, without a common base
        ran = ", ".join(f"{entry.get('runtime')} {entry.get('version')}" for entry in manifest["runs_on"])
        raise ArtifactError(
            "BNF-M010",
            f"{interpreter.name} {version(interpreter)} does not take this model: {_first_line(error)}",
            fix=f"known to run in {ran}: install that version" if ran else "convert it for this interpreter",
        ) from error


def choose(target: str, runtime: str | None) -> tuple[Interpreter, Any]:
    """The interpreter to use and its imported module: the one asked for, or the first that loads.

    Raises:
        UsageError: BNF-U060 ``runtime`` names no interpreter of this format.
        PlatformError: BNF-P020 none is installed; BNF-P021 one is installed and does not load.
    """
    candidates = [interpreter for interpreter in ALL if interpreter.target == target]
    if runtime is not None:
        wanted = runtime.replace("_", "-")
        candidates = [interpreter for interpreter in candidates if interpreter.name == wanted]
        if not candidates:
            names = " or ".join(interpreter.name for interpreter in ALL if interpreter.target == target)
            raise UsageError("BNF-U060", f"{runtime!r} does not run {target} artifacts", fix=f"use {names}")
    problems = []
    for interpreter in candidates:
        module, problem = _load(interpreter)
        if module is not None:
            return interpreter, module
        if problem is not None:
            problems.append(f"{interpreter.name}: {problem}")
    install = f"pip install 'bnfold[{candidates[0].extra}]'"
    if problems:
        raise PlatformError(
            "BNF-P021", f"an interpreter is installed but does not load: {'; '.join(problems)}", fix=install
        )
    names = " or ".join(interpreter.name for interpreter in candidates)
    raise PlatformError(
        "BNF-P020", f"no interpreter for {target} artifacts is installed ({names})", fix=install
    )


def _load(interpreter: Interpreter) -> tuple[Any, str | None]:
    """The imported module, or None and what is wrong with it (None: it is not installed)."""
    try:
        return import_module(interpreter.module), None
    except ModuleNotFoundError as error:
        if error.name == interpreter.module.partition(".")[0]:
            return None, None
        return None, f"it lacks the package {error.name}"
    except Exception as error:  # a native module fails in many ways: a missing library, another numpy
        return None, _first_line(error)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
