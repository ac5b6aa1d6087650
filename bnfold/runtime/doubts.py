"""What speaks against deploying an artifact at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnfold.finding import Finding


def of(manifest: Mapping[str, Any], path: str | os.PathLike[str]) -> list[Finding]:
    """BNF-M101 where the manifest, or the file's name, says that parity was not reached."""
    rounded = manifest.get("quantisation") or {"agreement": []}
    failed = [entry for entry in [*manifest["parity"], *rounded["agreement"]] if not entry["passed"]]
    if not failed and Path(path).suffix != ".rejected":
        return []
    return [
        Finding(
            "BNF-M101",
            "warning",
            os.fspath(path),
            "this artifact failed its parity check when it was made: its answers are not the network's",
            {"failed": failed},
            "do not deploy it: convert again, and see what the report says",
        )
    ]
