"""What the first answer costs: opening an artifact and answering once, in a process that did nothing else.

    python -m bnfold.runtime.coldstart ARTIFACT THREADS RUNTIME

writes one JSON object; an empty RUNTIME is the first that is installed. `measure` runs it and reads that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnfold.errors import PlatformError

# answers after the first: interpreters take their working memory on first use, and that is done by then
_SETTLING = 16


@dataclass(frozen=True)
class ColdStart:
    """One start.

    Attributes:
        import_ms: importing bnfold, numpy and the interpreter.
        open_ms: reading the file, checking it and loading it into the interpreter.
        first_frame_ms: the first answer.
        peak_memory_bytes: the most that the process held; None where the system does not tell.
    """

    import_ms: float
    open_ms: float
    first_frame_ms: float
    peak_memory_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def measure(artifact: str | os.PathLike[str], *, threads: int = 1, runtime: str | None = None) -> ColdStart:
    """Start an artifact in a process of its own.

    Raises:
        PlatformError: BNF-P040 that process failed.
    """
    command = [sys.executable, "-m", __name__, os.fspath(artifact), str(threads), runtime or ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return ColdStart(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError) as error:
        lines = done.stderr.strip().splitlines()
        raise PlatformError(
            "BNF-P040",
            f"a fresh process could not answer once (exit status {done.returncode}): "
            f"{lines[-1] if lines else 'it said nothing'}",
            where=str(artifact),
            fix=f"try it: python -m {__name__} {artifact} {threads} '{runtime or ''}'",
        ) from error


def _main(arguments: list[str]) -> None:
    begin = time.perf_counter()
    path, threads, runtime = arguments
    from bnfold import manifest
    from bnfold.runtime import interpreters
    from bnfold.runtime import open as open_artifact
    from bnfold.runtime.stand_in import prepared

    target = manifest.read(path)["target"]
    interpreters.choose(target, runtime or None)
    imported = time.perf_counter()
    model = open_artifact(path, threads=int(threads), runtime=runtime or None)
    opened = time.perf_counter()
    arrays = prepared(model)
    before = time.perf_counter()
    model.predict_raw(arrays)
    answered = time.perf_counter()
    for _ in range(_SETTLING):
        model.predict_raw(arrays)
    start = ColdStart(
        1000 * (imported - begin), 1000 * (opened - imported), 1000 * (answered - before), peak_memory()
    )
    sys.stdout.write(json.dumps(start.to_json()) + "\n")


def peak_memory() -> int | None:
    """The most memory that this process held, in bytes; None where the system does not tell."""
    try:
        # Linux: getrusage would also count what the process that started this one held
        status = Path("/proc/self/status").read_text("ascii", "replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # no such thing on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


if __name__ == "__main__":
    _main(sys.argv[1:])
