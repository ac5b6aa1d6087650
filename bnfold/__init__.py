"""bnfold takes a trained PyTorch checkpoint with BatchNorm to a device.

The public names load on first use (PEP 562), so that ``import bnfold`` on a device never imports torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bnfold._version import __version__

if TYPE_CHECKING:
    from bnfold import drift
    from bnfold.checkpoint import load
    from bnfold.convert import ConversionResult, convert
    from bnfold.fold import FoldResult, fold
    from bnfold.runtime import open
    from bnfold.statistics.audit import audit
    from bnfold.statistics.diagnose import diagnose
    from bnfold.verify import Parity, verify

_HOME = {
    "load": "bnfold.checkpoint",
    "fold": "bnfold.fold",
    "FoldResult": "bnfold.fold",
    "convert": "bnfold.convert",
    "ConversionResult": "bnfold.convert",
    "verify": "bnfold.verify",
    "audit": "bnfold.statistics.audit",
    "diagnose": "bnfold.statistics.diagnose",
    "Parity": "bnfold.verify",
    "open": "bnfold.runtime",
    "BnfoldError": "bnfold.errors",
    "Finding": "bnfold.finding",
}

_PACKAGES = ("drift",)
"""Public by themselves: ``bnfold.drift.check``."""

__all__ = [
    "BnfoldError",
    "ConversionResult",
    "Finding",
    "FoldResult",
    "Parity",
    "__version__",
    "audit",
    "convert",
    "diagnose",
    "drift",
    "fold",
    "load",
    "open",
    "verify",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f"bnfold.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bnfold' has no attribute {name!r}")
    return getattr(import_module(home), name)


class _Package(ModuleType):
    """Keeps ``bnfold.fold`` the function: importing the submodule ``bnfold.fold`` would rebind the name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
