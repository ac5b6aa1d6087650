"""Opening and running artifacts on a device: numpy and one interpreter, nothing else.

    model = bnfold.open("digits.onnx")
    outputs = model.predict("frame.png")
    print(model.top(outputs, 3))

``import bnfold.runtime`` imports no interpreter; :func:`open` imports the one that it needs.
"""

from __future__ import annotations

from bnfold.runtime.model import Model, OutputCheck, open
from bnfold.runtime.scores import Score

__all__ = ["Model", "OutputCheck", "Score", "open"]
