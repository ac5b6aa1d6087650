"""Run by test_interrupted.py in a process of its own: a conversion that stops at a chosen place.

    python interrupted.py FOLDER half|unrenamed|export|limit|limit-all [BYTES]

``half``: a file is half written. ``unrenamed``: it is whole, and not yet under its final name. ``export``:
the exporter is at work. At these places the word ``here`` is printed and the process waits to be stopped.
``limit``: no file may be larger than BYTES while the artifacts are written; ``limit-all``: from the start.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


# the command keeps standard output for its document, so what is said here goes past it
SAID = os.dup(1)
WRITE = os.write


def wait_to_be_stopped() -> None:
    WRITE(SAID, b"here\n")
    time.sleep(30)
    os._exit(99)  # nobody stopped it


def main() -> int:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    import bnfold_cli.main as cli

    from bnfold import atomic
    from bnfold.export import onnx

    original = atomic.write

    def half(descriptor: int, data: Any) -> int:
        count = WRITE(descriptor, bytes(data[: len(data) // 2]))
        wait_to_be_stopped()
        return count

    def unrenamed(descriptor: int) -> None:
        wait_to_be_stopped()

    def stopping(path: Any, data: bytes) -> None:
        if mode == "half":
            os.write = half
        elif mode == "unrenamed":
            os.fsync = unrenamed
        elif mode == "limit":
            limit()
        original(path, data)

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))

    if mode == "export":
        onnx.export = lambda *args, **options: wait_to_be_stopped()  # type: ignore[assignment,return-value]
    elif mode == "limit-all":
        limit()
    atomic.write = stopping
    model = Path(__file__).parents[1] / "verify" / "networks.py"
    return cli.main(
        [
            *("convert", str(folder / "net.safetensors"), "--model", f"{model}:Small"),
            *("--input", "1x3x8x8", "-o", str(folder / "out")),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
