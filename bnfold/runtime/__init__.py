"""Opening and running artifacts on a device: numpy and one interpreter, nothing else.

    model = bnfold.open("digits.onnx")
    outputs = model.predict("frame.png")
    print(model.top(outputs, 3))

``import bnfold.runtime`` imports no interpreter; :func:`open` imports the one that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bnfold.runtime.model import Model, open

if TYPE_CHECKING:
    from bnfold.runtime.scores import Score
    from bnfold.runtime.self_test import OutputCheck

__all__ = ["Model", "OutputCheck", "Score", "open"]

_LATER = {"OutputCheck": "self_test", "Score": "scores"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
