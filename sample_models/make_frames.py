"""Make the frames from MNIST's test images.

    python sample_models/make_frames.py --data FOLDER_OF_IDX_FILES

Writes frames/ (the first 256 as PNG, and labels.csv), frames_1000.npz (the first 1,000) and labels.txt.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import mnist  # noqa: E402

AS_PNG, IN_ONE_FILE = 256, 1000


def main() -> None:
    """Write frames/, frames_1000.npz and labels.txt."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--output", type=Path, default=HERE, help="folder to write to (default: here)")
    arguments = options.parse_args()
    images, labels = mnist.load(arguments.data, "test")
    if len(images) < IN_ONE_FILE:
        raise SystemExit(f"{arguments.data}: {len(images)} test images; {IN_ONE_FILE} are needed")
    folder = arguments.output / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "label"])
        for i, (image, label) in enumerate(zip(images[:AS_PNG], labels[:AS_PNG], strict=True)):
            name = f"{i:04}_{label}.png"
            Image.fromarray(image).save(folder / name, optimize=True)
            rows.writerow([name, int(label)])
    np.savez_compressed(
        arguments.output / "frames_1000.npz", frames=images[:IN_ONE_FILE], labels=labels[:IN_ONE_FILE]
    )
    classes = "".join(f"{digit}\n" for digit in range(mnist.CLASSES))
    (arguments.output / "labels.txt").write_text(classes, encoding="utf-8")


if __name__ == "__main__":
    main()
