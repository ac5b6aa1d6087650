"""The JSON documents: one shape per command, the same keys whether it went well or not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from bnfold.errors import BnfoldError, StatisticsError
from bnfold.finding import Finding

SCHEMA = 1

# What each command's document has at least, with the value it has when the command came to nothing.
_GUARANTEED: dict[str, dict[str, Any]] = {
    "convert": {"source": None, "batch_norms": [], "parity": [], "findings": [], "artifacts": []},
    "verify": {"parity": [], "findings": []},
    "run": {"frames": [], "findings": []},
    "audit": {"findings": []},
    "diagnose": {"findings": []},
    "recalibrate": {"source": None, "layers": [], "held_out": None, "output": None, "findings": []},
    "drift": {"findings": []},
    "monitor": {"findings": []},
}


def dump(document: Mapping[str, Any]) -> str:
    """The document as strict JSON, with a newline. JSON has no NaN and no infinity: both become null."""
    return json.dumps(_finite(document), indent=2, allow_nan=False) + "\n"


def error_document(command: str, error: BnfoldError) -> dict[str, Any]:
    """The document of a command that ended in an error.

    ``error`` has the code, what, where and fix. Statistics that cannot be frozen are a finding as well,
    so that a reader of ``findings`` sees them whichever stage found them.
    """
    document: dict[str, Any] = {"schema": SCHEMA, "passed": False}
    document.update(_GUARANTEED.get(command, {}))
    if isinstance(error, StatisticsError) and "findings" in document:
        twin = Finding(error.code, "error", error.where, error.what, remedy=error.fix)
        document["findings"] = [twin.to_json()]
    document["error"] = {"code": error.code, "what": error.what, "where": error.where, "fix": error.fix}
    return document


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
