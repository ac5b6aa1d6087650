"""Which interpreter runs an artifact, on how many threads: options of the commands that open one."""

from __future__ import annotations

from . import values
from .command import CommandParser

INTERPRETERS = ("onnxruntime", "ai-edge-litert", "tflite-runtime")


def add_options(parser: CommandParser) -> None:
    """``--threads`` and ``--runtime``."""
    parser.option("--threads", type=values.whole(1, 1024), default=1, metavar="N", help="default 1")
    parser.option(
        "--runtime",
        choices=INTERPRETERS,
        metavar="NAME",
        help=f"{', '.join(INTERPRETERS)}; default: the first that is installed",
    )
