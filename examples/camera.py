"""A camera loop that answers every frame and watches for drift: numpy and one interpreter, no torch.

    python examples/camera.py NAME.monitor.onnx NAME.onnx FRAMES [STATE]

FRAMES is a folder that stands in for the camera: yours gives a uint8 array (H, W, 3) at a time. Every tenth
frame runs on the monitored file, the others on the clean one. The status is 1 after drift, 2 after an error.
"""

import sys

from bnfold.drift import Seen, Stream
from bnfold.errors import BnfoldError, InputError
from bnfold.runtime import frames


def main(monitored: str, clean: str, place: str, state: str | None = None) -> int:
    camera = frames.read(place)
    stream = Stream(monitored, clean=clean, every=10, state=state)
    try:
        for number in range(len(camera)):
            try:
                seen = stream.predict(camera.at(number)[1])
            except InputError as error:  # it cannot be read, or has another shape: the next one may be good
                seen = Seen(findings=stream.unusable(error.where or "camera", error))
            for found in seen.findings:  # usually none; at an alarm slow down, stop, or call someone
                print(f"frame {number}: {found.severity} {found.code}: {found.message}", file=sys.stderr)
            print(number, *(f"{name} {values}" for name, values in seen.outputs.items()))
    finally:
        stream.save()  # and after a restart it goes on from here
    return int(stream.monitor.drifted)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]) if len(sys.argv) in (4, 5) else __doc__)
    except BnfoldError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
