"""What went wrong inside torch, in the user's terms: the cause, their own file and line, and what to do."""

from __future__ import annotations

import contextlib
import inspect
import io
import linecache
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from bnfold.errors import CaptureError


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """torch logs and prints whole graphs before it raises; what matters of them is in the exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def explain(error: Exception, forward: Callable[..., Any]) -> CaptureError:
    """The failure of torch.export in the user's terms, at the line of ``error``, or else of ``forward``."""
    text = str(error)
    where = user_line(text) or user_line_of(error) or definition(forward)
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in text or "Dynamic control flow" in text:
        return CaptureError(
            "BNF-C001",
            "a branch depends on tensor values; torch.export cannot capture it",
            where=where,
            fix="use torch.where, or make the choice before the export",
        )
    if "Constraints violated" in text or "specialized" in text:
        return CaptureError(
            "BNF-C002",
            "the model fixes the size of its batch",
            where=where,
            fix="convert without a dynamic batch, or compute shapes from x.shape[0] in forward",
        )
    if "fake tensor in the exported program constant's list" in text:
        return CaptureError(
            "BNF-C005",
            "forward writes to a weight or to another tensor where torch.export cannot follow (.data)",
            where=where,
            fix="do it once, before the conversion, and leave it out of forward in eval mode",
        )
    if "UnsupportedOperator" in kind or "fake impl" in text or "not supported" in text.lower():
        return CaptureError(
            "BNF-C003",
            f"torch.export does not know an operator: {first_line(text)}",
            where=where,
            fix="replace the operator by one that torch.export knows",
        )
    return CaptureError(
        "BNF-C009",
        f"torch.export failed: {kind}: {first_line(text)}",
        where=where,
        fix="the whole message is shown with --traceback",
    )


def definition(forward: Callable[..., Any]) -> str:
    """Where a forward begins."""
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}  in forward" if code is not None else "forward"


def first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else "no message"


_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)(?:\n\s+(.+))?')


def is_library(path: str) -> bool:
    """Whether a source file is none of the user's."""
    return (
        f"/{path}".startswith("/torch/")
        or "/torch/" in path
        or "/contextlib.py" in path
        or "/bnfold/" in path
        or path.startswith("<")
    )


def user_line(text: str) -> str:
    """The innermost frame outside torch of a stack trace in a message."""
    frames = [match for match in _FRAME.finditer(text) if not is_library(match.group(1))]
    if not frames:
        return ""
    path, line, function, code = frames[-1].groups()
    return f"{path}:{line}" + (f"  `{code.strip()}`" if code else "") + f"  in {function}"


def user_line_of(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not is_library(f.filename)]
    if not frames:
        return ""
    frame = frames[-1]
    return location(frame.filename, frame.lineno or 0, frame.name)


def location(path: str, line: int, function: str) -> str:
    """A place in the user's code, with the code where it can be read."""
    code = linecache.getline(path, line).strip()
    return f"{path}:{line}" + (f"  `{code}`" if code else "") + f"  in {function}"
