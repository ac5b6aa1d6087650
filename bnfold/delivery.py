"""Drafts onto the disk, each atomically; what an earlier conversion left is pointed out."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bnfold import atomic
from bnfold.conversion import Artifact
from bnfold.draft import Draft
from bnfold.finding import Finding
from bnfold.request import Request


def write(request: Request, draft: Draft, found: list[Finding]) -> Artifact:
    """One file under its final name, or as ``*.rejected``; a good one replaces an earlier rejected one."""
    good = request.path(draft.target, draft.role)
    bad = request.path(draft.target, draft.role, rejected=True)
    path = good if draft.passed else bad
    if not draft.passed:
        found += left_over(good)
    atomic.write(path, draft.data)
    if draft.passed:
        atomic.remove(bad)
    digest = hashlib.sha256(draft.data).hexdigest()
    return Artifact(draft.target, draft.role, path, digest, len(draft.data), draft.precision)


def left_over(path: Path) -> list[Finding]:
    """That a file is there which this conversion has not written."""
    if not path.exists():
        return []
    return [
        Finding(
            "BNF-V014",
            "warning",
            path.name,
            f"{path.name} was there before and is left as it was: it is not from this conversion",
            {},
            "delete it, or do not ship it as the result of this conversion",
        )
    ]
