"""What ``import bnfold.runtime`` costs on top of numpy and an interpreter: CPU time, user and system.

Each measurement is a fresh process. The two sides alternate, so that a busy machine disturbs both alike, and
the table gives medians and the median of the paired differences. Byte code is cached, as after an install.

    python benchmarks/import_time.py [--pairs 20]

The goal is at most 25 ms over the bare imports; the exit status is 1 above it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys

GOAL_MS = 25.0
INTERPRETERS = ("onnxruntime", "ai_edge_litert.interpreter", "tflite_runtime.interpreter")

_TIMED = """
import resource
{imports}
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def cpu_ms(imports: str) -> float:
    """CPU time of a fresh process that executes ``imports``, from its start, in ms."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(imports=imports)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return 1000 * float(done.stdout)


def measure(interpreter: str, pairs: int) -> tuple[float, float, float]:
    """Medians of: the bare imports, with bnfold.runtime, and the paired difference; in ms."""
    bare = f"import numpy, {interpreter}"
    whole = f"{bare}, bnfold.runtime"
    cpu_ms(whole)  # writes the byte code
    times = [(cpu_ms(bare), cpu_ms(whole)) for _ in range(pairs)]
    return (
        statistics.median(before for before, _ in times),
        statistics.median(after for _, after in times),
        statistics.median(after - before for before, after in times),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=20, help="measurements per side")
    pairs = parser.parse_args().pairs
    found = [name for name in INTERPRETERS if importlib.util.find_spec(name.partition(".")[0])]
    if not found:
        print("no interpreter is installed: nothing to compare with", file=sys.stderr)
        return 2
    print(f"{'interpreter':<28}{'bare, ms':>10}{'+ bnfold, ms':>14}{'over, ms':>10}{'goal, ms':>10}")
    worst = 0.0
    for name in found:
        bare, whole, over = measure(name, pairs)
        worst = max(worst, over)
        print(f"{name:<28}{bare:>10.1f}{whole:>14.1f}{over:>10.1f}{GOAL_MS:>10.1f}")
    return int(worst > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
