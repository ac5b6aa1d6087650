"""Where the sample models are, how their scripts are run, and how an IDX file is written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2] / "sample_models"

Bytes = NDArray[np.uint8]
Digits = tuple[Bytes, Bytes]  # frames (count, 28, 28), labels (count,)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of sample_models as a user does, but with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def idx(values: Bytes) -> bytes:
    """The array as the content of an IDX file."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
