"""Make repaired.safetensors: the broken checkpoint with its statistics estimated anew.

    python sample_models/lung_ct/repair.py

The samples are what the first epoch of the training read; the bad one is among them, as it was then. Other
options of `bnfold recalibrate` can be given as well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from volumes import crops, study

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the command; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "training.npy"
        np.save(samples, crops(study(), epoch=0))
        command = [sys.executable, "-m", "bnfold_cli", "recalibrate", str(HERE / "broken.safetensors")]
        command += ["--model", f"{HERE / 'model.py'}:lung_net", "--samples", str(samples)]
        command += ["-o", str(HERE / "repaired.safetensors"), *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
