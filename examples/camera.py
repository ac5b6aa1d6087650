"""A camera loop that answers every frame and watches for drift: numpy and one interpreter, no torch.

    python examples/camera.py NAME.monitor.onnx NAME.onnx FRAMES [STATE]

FRAMES is a folder that stands in for the camera: replace `camera` by yours, which gives one uint8 array
(H, W, 3) after another. Every tenth frame runs on the monitored file, the others on the clean one.
"""

import sys
from collections.abc import Iterator
from typing import Any

from bnfold.drift import Stream
from bnfold.runtime import frames


def camera(place: str) -> Iterator[Any]:
    for _, frame in frames.read(place):
        yield frame


def main(monitored: str, clean: str, place: str, state: str | None = None) -> int:
    stream = Stream(monitored, clean=clean, every=10, state=state)
    try:
        for number, frame in enumerate(camera(place)):
            seen = stream.predict(frame)
            for found in seen.findings:  # usually none; at an alarm slow down, stop, or call someone
                print(f"frame {number}: {found.severity} {found.code}: {found.message}", file=sys.stderr)
            print(number, *(f"{name} {values}" for name, values in seen.outputs.items()))
    finally:
        stream.save()  # and after a restart it goes on from here
    return int(stream.monitor.drifted)


if __name__ == "__main__":
    if not 3 <= len(sys.argv[1:]) <= 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
