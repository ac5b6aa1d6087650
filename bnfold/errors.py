"""Every way in which bnfold says no.

    BnfoldError                 .code .what .where .fix .exit_status
     ├── UsageError       U     an option, a shape or a configuration that cannot be used
     ├── CheckpointError  L     a checkpoint file that cannot be read, or that does not fit the model
     ├── CaptureError     C     a module that torch.export cannot turn into a graph
     ├── StatisticsError  A     population statistics that cannot be frozen          (exit status 1)
     ├── ExportError      E     a graph that a target format cannot express
     ├── VerifyError      V     a comparison that cannot be made
     ├── ArtifactError    M     a file that is no artifact, or a damaged one
     ├── InputError       R     a frame or an array that the model does not take
     ├── PlatformError    P     a package, an interpreter, a disk or a permission that is missing
     └── InternalError    X     a bug in bnfold                                      (exit status 3)

A code is the letter above and three digits (``BNF-L010``). It is stable: scripts may rely on it.
"""

from __future__ import annotations

from typing import ClassVar


class BnfoldError(Exception):
    """An error with a stable code, the place, and what to do about it.

    Args:
        code: ``BNF-`` and a letter and three digits.
        what: one sentence, with the numbers.
        where: file, layer, option or line; may be empty.
        fix: what the reader can do; may be empty.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, code: str, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(code, what, where, fix)
        self.code = code
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.what, self.where, self.fix)

    def __str__(self) -> str:
        lines = [f"[{self.code}] {self.what}"]
        if self.where:
            lines.append(f"  where  {self.where}")
        if self.fix:
            lines.append(f"  fix    {self.fix}")
        return "\n".join(lines)


def _rebuild(kind: type[BnfoldError], code: str, what: str, where: str, fix: str) -> BnfoldError:
    return kind(code, what, where=where, fix=fix)


class UsageError(BnfoldError):
    """An option, a shape or a configuration that cannot be used."""


class CheckpointError(BnfoldError):
    """A checkpoint file that cannot be read, or that does not fit the model."""


class CaptureError(BnfoldError):
    """A module that torch.export cannot turn into a graph."""


class StatisticsError(BnfoldError):
    """Population statistics that cannot be frozen."""

    exit_status = 1


class ExportError(BnfoldError):
    """A graph that a target format cannot express."""


class VerifyError(BnfoldError):
    """A comparison that cannot be made."""


class ArtifactError(BnfoldError):
    """A file that is no artifact, or a damaged one."""


class InputError(BnfoldError):
    """A frame or an array that the model does not take."""


class PlatformError(BnfoldError):
    """A package, an interpreter, a disk or a permission that is missing."""


class InternalError(BnfoldError):
    """A bug in bnfold."""

    exit_status = 3
